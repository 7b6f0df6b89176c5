// A label map is piecewise constant, so most of what the convolutions give is known beforehand.
// Level 0 is the label map, level i what i convolutions make of it, half as wide each time. A pixel
// whose receptive field (clipped to the crop) holds one label has a value that depends on that
// label and on where it meets the zeros around the crop: never, as the first row, the first column,
// or the corner. The last row and column never do, since the sides are even. Those values,
// `kPlaces` for each label, are computed when the weights are packed. The other pixels are "mixed":
//
//   states    for each level, a byte a pixel: its label, or kMixed. A pixel is mixed unless its 3 x
//   3 inputs have one state. list      the mixed pixels of a level in row-major order, so that
//   every thread count gives the same result features  for each level, a row for each constant,
//   then one for each mixed pixel
//
// and a convolution is a matrix product over the list, its 9 input rows found by state or index.
// The first one adds 9 rows of a table, since its inputs are labels.

#include "kernels/prompt_embedding.h"

#include "kernels/edge_tokens.h"
#include "kernels/simd.h"

namespace i2f::I2F_TIER {

namespace {

constexpr int kTaps = 9;
constexpr int kLabels = kLargestLabel + 1;
constexpr int kOutside = kLabels;  // the zeros around the crop, as one more label
constexpr uint8_t kMixed = 255;

constexpr int kPlaces = 4;                   // inside, first row, first column, corner
constexpr int kZeroRow = kLabels * kPlaces;  // of features: the zeros around the crop
constexpr int kConstants = kZeroRow + 1;

constexpr int kPanelVectors = kRegisters >= 32 ? 4 : 2;
constexpr int kPanel = kPanelVectors * kLanes;  // columns of a tile
constexpr int kTile = 6;                        // rows of a tile: 24 or 12 sums stay in registers
constexpr int64_t kChunk = 16 * kTile;          // rows of a task
constexpr int64_t kStrip = 512;                // pixels of a row that are reduced at once

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// ---- Packed weights

struct Layout {
  int64_t stride[kMaxPromptLevels];   // of feature rows after convolution i, whole panels
  int64_t weights[kMaxPromptLevels];  // offset of convolution i: a table for the first, else panels
  int64_t constants[kMaxPromptLevels];  // offset of its constants
  int64_t size;
};

// A panel of convolution i: kPanel biases, then kPanel columns for each tap and input channel.
int64_t panel_size(const PromptShape& shape, int i) {
  return (1 + kTaps * shape.channels[i]) * kPanel;
}

Layout layout_of(const PromptShape& shape) {
  Layout layout;
  layout.size = 0;
  for (int i = 0; i < shape.levels; ++i) {
    layout.stride[i] = round_up(shape.channels[i + 1], kPanel);
    layout.weights[i] = layout.size;
    layout.size += i == 0 ? (1 + kTaps * (kLabels + 1)) * layout.stride[0]
                          : layout.stride[i] / kPanel * panel_size(shape, i);
    layout.constants[i] = layout.size;
    layout.size += kConstants * layout.stride[i];
  }
  return layout;
}

// The row of a constant: pixel (y, x) of any level, when its receptive field holds `label` alone.
inline int constant_row(int label, int64_t y, int64_t x) {
  return kPlaces * label + (y == 0 ? 1 : 0) + (x == 0 ? 2 : 0);
}

inline Vec relu(Vec v) { return v < Vec{} ? Vec{} : v; }  // keeps NaN

// ---- Convolutions

// The first convolution at a pixel with these labels: biases and 9 table rows [tap, label, stride].
void add_table_rows(const float* table, int64_t stride, const int (&labels)[kTaps], float* out) {
  for (int64_t c = 0; c < stride; c += kPanel) {
    Vec sums[kPanelVectors];
    for (int n = 0; n < kPanelVectors; ++n) sums[n] = load(table + c + n * kLanes);
    for (int tap = 0; tap < kTaps; ++tap) {
      const float* row = table + (1 + tap * (kLabels + 1) + labels[tap]) * stride + c;
      for (int n = 0; n < kPanelVectors; ++n) sums[n] += load(row + n * kLanes);
    }
    for (int n = 0; n < kPanelVectors; ++n) store(out + c + n * kLanes, relu(sums[n]));
  }
}

// One panel of a further convolution at kTile pixels: inputs[m][tap] are rows of `depth` channels,
// out[m] gets kPanel columns. Each tap is summed on its own: one sum over all of them would lose
// accuracy.
void convolve_tile(const float* const (*inputs)[kTaps], const float* panel, int64_t depth,
                   float* const* out) {
  Vec totals[kTile][kPanelVectors];
  for (int m = 0; m < kTile; ++m) {
    for (int n = 0; n < kPanelVectors; ++n) totals[m][n] = load(panel + n * kLanes);
  }
  panel += kPanel;
  for (int tap = 0; tap < kTaps; ++tap) {
    const float* rows[kTile];
    Vec sums[kTile][kPanelVectors];
#pragma GCC unroll 32
    for (int m = 0; m < kTile; ++m) {
      rows[m] = inputs[m][tap];
#pragma GCC unroll 32
      for (int n = 0; n < kPanelVectors; ++n) sums[m][n] = Vec{};
    }
    for (int64_t k = 0; k < depth; ++k, panel += kPanel) {
      Vec columns[kPanelVectors];
#pragma GCC unroll 32
      for (int n = 0; n < kPanelVectors; ++n) columns[n] = load(panel + n * kLanes);
#pragma GCC unroll 32
      for (int m = 0; m < kTile; ++m) {
        const Vec x = broadcast(rows[m][k]);
#pragma GCC unroll 32
        for (int n = 0; n < kPanelVectors; ++n) sums[m][n] += x * columns[n];
      }
    }
#pragma GCC unroll 32
    for (int m = 0; m < kTile; ++m) {
#pragma GCC unroll 32
      for (int n = 0; n < kPanelVectors; ++n) totals[m][n] += sums[m][n];
    }
  }
  for (int m = 0; m < kTile; ++m) {
    for (int n = 0; n < kPanelVectors; ++n) store(out[m] + n * kLanes, relu(totals[m][n]));
  }
}

// One panel at `count` pixels, whole tiles and a rest: out row r is out + r * stride, inputs[r] as
// above.
void convolve_panel(const float* const (*inputs)[kTaps], int64_t count, const float* panel,
                    int64_t depth, float* out, int64_t stride) {
  for (int64_t begin = 0; begin < count; begin += kTile) {
    float spare[kPanel];
    const float* tile[kTile][kTaps];
    float* rows[kTile];
    for (int m = 0; m < kTile; ++m) {
      const bool inside = begin + m < count;
      for (int tap = 0; tap < kTaps; ++tap) tile[m][tap] = inputs[inside ? begin + m : begin][tap];
      rows[m] = inside ? out + (begin + m) * stride : spare;
    }
    convolve_tile(tile, panel, depth, rows);
  }
}

// ---- Levels

struct Pixel {
  int32_t y, x;
};

struct Level {
  int64_t height, width;
  uint8_t* states;  // [height, width]
  int32_t* index;   // [height, width], of a mixed pixel in `list`; else not to be read
  int32_t* begin;   // [height + 1], where each row begins in `list`
  Pixel* list;      // the mixed pixels
  float* features;  // [kConstants + mixed pixels, stride]
  int64_t stride;

  int64_t mixed() const { return begin[height]; }
  const float* row(int64_t y, int64_t x) const {
    const int state = states[y * width + x];
    return features + stride * (state == kMixed ? kConstants + index[y * width + x]
                                                : constant_row(state, y, x));
  }
};

// A row of states from three rows of the level before, 2 * width wide; `above` is `row` itself in
// the first one. Returns how many are mixed.
int32_t reduce_row(const uint8_t* above, const uint8_t* row, const uint8_t* below, int64_t width,
                   uint8_t* states) {
  int32_t mixed = 0;
  for (int64_t begin = 0; begin < width; begin += kStrip) {
    const int64_t count = width - begin < kStrip ? width - begin : kStrip;
    const int64_t shift = 2 * begin;
    uint8_t column[2 * kStrip], pair[2 * kStrip];
    const auto differs = [&](int64_t x) {
      return static_cast<uint8_t>((above[x] ^ row[x]) | (row[x] ^ below[x]));
    };
    for (int64_t i = 0; i < 2 * count; ++i) column[i] = differs(shift + i);
    // pair[i]: columns i - 1 and i are not one label. There is no column before the crop.
    pair[0] = column[0];
    if (shift > 0) pair[0] |= differs(shift - 1) | (row[shift - 1] ^ row[shift]);
    for (int64_t i = 1; i < 2 * count; ++i) {
      pair[i] = column[i - 1] | column[i] | (row[shift + i - 1] ^ row[shift + i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      states[begin + i] = (pair[2 * i] | pair[2 * i + 1]) != 0 ? kMixed : row[shift + 2 * i];
    }
    for (int64_t i = 0; i < count; ++i) mixed += states[begin + i] == kMixed ? 1 : 0;
  }
  return mixed;
}

uint8_t largest_of(const uint8_t* row, int64_t width, uint8_t largest) {
  for (int64_t x = 0; x < width; ++x) largest = row[x] > largest ? row[x] : largest;
  return largest;
}

// Calls body(first, last) for chunks of [0, count) of about 64 KiB of work, `bytes` each.
template <class Body>
void for_chunks(const Parallel& parallel, int64_t count, int64_t bytes, const Body& body) {
  const int64_t chunk = bytes >= 65536 ? 1 : 65536 / (bytes + 1);
  parallel_for(parallel, static_cast<size_t>((count + chunk - 1) / chunk), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * chunk;
    body(first, first + chunk < count ? first + chunk : count);
  });
}

// Numbers the mixed pixels of rows [first, last).
void list_mixed(const Level& level, int64_t first, int64_t last) {
  for (int64_t y = first; y < last; ++y) {
    const uint8_t* states = level.states + y * level.width;
    int32_t next = level.begin[y];
    for (int64_t x = 0; next < level.begin[y + 1]; ++x) {
      if (states[x] != kMixed) continue;
      level.list[next] = {static_cast<int32_t>(y), static_cast<int32_t>(x)};
      level.index[y * level.width + x] = next++;
    }
  }
}

}  // namespace

int64_t prompt_packed_size(const PromptShape& shape) { return layout_of(shape).size; }

void prompt_pack(const PromptWeights& weights, float* packed) {
  const PromptShape& shape = weights.shape;
  const Layout layout = layout_of(shape);
  for (int64_t i = 0; i < layout.size; ++i) packed[i] = 0;
  for (int i = 0; i < shape.levels; ++i) {
    const int64_t in = shape.channels[i], out = shape.channels[i + 1], stride = layout.stride[i];
    float* target = packed + layout.weights[i];
    float* constants = packed + layout.constants[i];
    if (i == 0) {
      for (int64_t c = 0; c < out; ++c) {
        target[c] = weights.bias[0][c];
        for (int tap = 0; tap < kTaps; ++tap) {
          for (int label = 0; label <= kLabels; ++label) {
            float sum = 0;
            for (int64_t k = 0; k < in; ++k) {
              const float x = label == kOutside ? 0.0f : weights.table[label * in + k];
              sum += x * weights.weight[0][(c * in + k) * kTaps + tap];
            }
            target[(1 + tap * (kLabels + 1) + label) * stride + c] = sum;
          }
        }
      }
    } else {
      for (int64_t c = 0; c < out; ++c) {
        float* panel = target + c / kPanel * panel_size(shape, i) + c % kPanel;
        panel[0] = weights.bias[i][c];
        for (int tap = 0; tap < kTaps; ++tap) {
          for (int64_t k = 0; k < in; ++k) {
            panel[(1 + tap * in + k) * kPanel] = weights.weight[i][(c * in + k) * kTaps + tap];
          }
        }
      }
    }
    // Each constant is the convolution at a pixel of its place, whose inputs are constants.
    const float* before = i == 0 ? nullptr : packed + layout.constants[i - 1];
    const float* inputs[kZeroRow][kTaps];
    for (int label = 0; label < kLabels; ++label) {
      for (int place = 0; place < kPlaces; ++place) {
        const int y = (place & 1) != 0 ? 0 : 1, x = (place & 2) != 0 ? 0 : 1;
        int labels[kTaps];
        for (int tap = 0; tap < kTaps; ++tap) {
          const int from_y = 2 * y + tap / 3 - 1, from_x = 2 * x + tap % 3 - 1;
          const bool outside = from_y < 0 || from_x < 0;
          labels[tap] = outside ? kOutside : label;
          if (i > 0) {
            inputs[constant_row(label, y, x)][tap] =
                before +
                layout.stride[i - 1] * (outside ? kZeroRow : constant_row(label, from_y, from_x));
          }
        }
        if (i == 0)
          add_table_rows(target, stride, labels, constants + constant_row(label, y, x) * stride);
      }
    }
    for (int64_t c = 0; i > 0 && c < stride; c += kPanel) {
      convolve_panel(inputs, kZeroRow, target + c / kPanel * panel_size(shape, i), in,
                     constants + c, stride);
    }
  }
}

uint8_t prompt_embedding(const uint8_t* labels, int64_t side, const int64_t* box,
                         const float* embedding, const PromptShape& shape, const float* packed,
                         const Parallel& parallel, const Memory& memory, float* tokens) {
  const Layout layout = layout_of(shape);
  const int64_t left = box[0], top = box[1], right = box[2], bottom = box[3];
  const uint8_t* crop = labels + top * side + left;
  Level levels[kMaxPromptLevels];

  // States, level by level. Largest labels are gathered per row where `begin` of the first level
  // will stand.
  uint8_t largest = 0;
  for (int i = 0; i < shape.levels; ++i) {
    Level& level = levels[i];
    level.height = (bottom - top) >> (i + 1);
    level.width = (right - left) >> (i + 1);
    level.stride = layout.stride[i];
    level.states = take<uint8_t>(memory, level.height * level.width);
    level.begin = take<int32_t>(memory, level.height + 1);
    const uint8_t* before = i == 0 ? crop : levels[i - 1].states;
    const int64_t pitch = i == 0 ? side : levels[i - 1].width;
    uint8_t* row_largest = i == 0 ? take<uint8_t>(memory, level.height) : nullptr;
    for_chunks(parallel, level.height, 4 * level.width, [&](int64_t first, int64_t last) {
      for (int64_t y = first; y < last; ++y) {
        const uint8_t* row = before + 2 * y * pitch;
        level.begin[y + 1] = reduce_row(y == 0 ? row : row - pitch, row, row + pitch, level.width,
                                        level.states + y * level.width);
        if (i == 0) {
          row_largest[y] =
              largest_of(row + pitch, 2 * level.width, largest_of(row, 2 * level.width, 0));
        }
      }
    });
    if (i == 0) {
      largest = largest_of(row_largest, level.height, 0);
      if (largest > kLargestLabel) return largest;
    }
    level.begin[0] = 0;
    for (int64_t y = 0; y < level.height; ++y) level.begin[y + 1] += level.begin[y];
  }

  for (int i = 0; i < shape.levels; ++i) {
    Level& level = levels[i];
    level.index = take<int32_t>(memory, level.height * level.width);
    level.list = take<Pixel>(memory, level.mixed());
    level.features = take<float>(memory, (kConstants + level.mixed()) * level.stride);
    const float* constants = packed + layout.constants[i];
    for (int64_t c = 0; c < kConstants * level.stride; ++c) level.features[c] = constants[c];
    for_chunks(parallel, level.height, level.width,
               [&](int64_t first, int64_t last) { list_mixed(level, first, last); });

    const float* weights = packed + layout.weights[i];
    float* out = level.features + kConstants * level.stride;
    const int64_t chunks = (level.mixed() + kChunk - 1) / kChunk;
    if (i == 0) {
      parallel_for(parallel, static_cast<size_t>(chunks), [&](size_t task) {
        const int64_t first = static_cast<int64_t>(task) * kChunk;
        const int64_t last = first + kChunk < level.mixed() ? first + kChunk : level.mixed();
        for (int64_t r = first; r < last; ++r) {
          int around[kTaps];
          for (int tap = 0; tap < kTaps; ++tap) {
            const int64_t y = 2 * level.list[r].y + tap / 3 - 1,
                          x = 2 * level.list[r].x + tap % 3 - 1;
            around[tap] = y < 0 || x < 0 ? kOutside : crop[y * side + x];
          }
          add_table_rows(weights, level.stride, around, out + r * level.stride);
        }
      });
      continue;
    }
    // Panel after panel, so that a panel stays in the cache while all pixels pass by.
    const Level& before = levels[i - 1];
    const int64_t panels = level.stride / kPanel;
    parallel_for(parallel, static_cast<size_t>(panels * chunks), [&](size_t task) {
      const int64_t panel = static_cast<int64_t>(task) / chunks;
      const int64_t first = static_cast<int64_t>(task) % chunks * kChunk;
      const int64_t last = first + kChunk < level.mixed() ? first + kChunk : level.mixed();
      const float* inputs[kChunk][kTaps];
      for (int64_t r = first; r < last; ++r) {
        for (int tap = 0; tap < kTaps; ++tap) {
          const int64_t y = 2 * level.list[r].y + tap / 3 - 1,
                        x = 2 * level.list[r].x + tap % 3 - 1;
          inputs[r - first][tap] =
              y < 0 || x < 0 ? before.features + kZeroRow * before.stride : before.row(y, x);
        }
      }
      convolve_panel(inputs, last - first, weights + panel * panel_size(shape, i),
                     shape.channels[i], out + first * level.stride + panel * kPanel, level.stride);
    });
  }

  const Level& level = levels[shape.levels - 1];
  const int64_t channels = shape.channels[shape.levels], grid = side >> shape.levels;
  const int64_t box_y = top >> shape.levels, box_x = left >> shape.levels;
  const float* background = level.features + level.stride * constant_row(1, 1, 1);
  for_chunks(parallel, grid, grid * channels * 4, [&](int64_t first, int64_t last) {
    for (int64_t t = first * grid; t < last * grid; ++t) {
      const int64_t y = t / grid - box_y, x = t % grid - box_x;
      const bool inside = y >= 0 && y < level.height && x >= 0 && x < level.width;
      const float* prompt = inside ? level.row(y, x) : background;
      for (int64_t c = 0; c < channels; ++c) {
        tokens[t * channels + c] = embedding[t * channels + c] + prompt[c];
      }
    }
  });
  return largest;
}

}  // namespace i2f::I2F_TIER
