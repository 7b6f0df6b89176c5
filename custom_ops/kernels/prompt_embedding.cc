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

#include "kernels/gemm.h"
#include "kernels/labels.h"
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

constexpr int kPanelVectors = kRegisters >= 32 && !kFactorsFromLanes ? 4 : 2;
constexpr int kPanel = kPanelVectors * kLanes;  // columns of a tile
constexpr int kTile = kTileRows<kPanelVectors>;
constexpr int64_t kChunk = 16 * kTile;  // rows of a task
constexpr int64_t kStrip = 512;         // pixels of a row that are reduced at once

// ---- Packed weights

struct Layout {
  int64_t stride[kMaxPromptLevels];   // of feature rows after convolution i, whole panels
  int64_t weights[kMaxPromptLevels];  // offset of convolution i: a table for the first, else panels
  int64_t constants[kMaxPromptLevels];  // offset of its constants
  int64_t size;
};

// A panel of convolution i: kPanel output channels, tap after tap; the first tap starts from the
// biases.
int64_t panel_size(const PromptShape& shape, int i) {
  return kTaps * panel_floats<kPanelVectors>(shape.channels[i]);
}

Layout layout_of(const PromptShape& shape) {
  Layout layout;
  layout.size = 0;
  for (int i = 0; i < shape.levels; ++i) {
    layout.stride[i] = ceil_div(shape.channels[i + 1], kPanel) * kPanel;
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

// One panel of a further convolution at `count` pixels: inputs[r][tap] are rows of `depth`
// channels, kPanel columns go to out + r * stride. Each tap is summed on its own: one sum over all
// of them would lose accuracy.
void convolve_panel(const float* const (*inputs)[kTaps], int64_t count, const float* panel,
                    int64_t depth, float* out, int64_t stride) {
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t height = count - begin < kTile ? count - begin : kTile;
    with_rows<kTile>(height, [&](auto tile) {
      constexpr int kHeight = decltype(tile)::kCount;
      Vec totals[kHeight][kPanelVectors] = {};
      for (int tap = 0; tap < kTaps; ++tap) {
        const float* rows[kHeight];
        for (int m = 0; m < kHeight; ++m) rows[m] = inputs[begin + m][tap];
        Vec sums[kHeight][kPanelVectors];
        multiply(rows, panel + tap * panel_floats<kPanelVectors>(depth), depth, sums);
#pragma GCC unroll 32
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 32
          for (int n = 0; n < kPanelVectors; ++n) totals[m][n] += sums[m][n];
        }
      }
      for (int m = 0; m < kHeight; ++m) {
        float* row = out + (begin + m) * stride;
        for (int n = 0; n < kPanelVectors; ++n) store(row + n * kLanes, relu(totals[m][n]));
      }
    });
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
    // Most strips hold one label, and so do their neighbours.
    const uint8_t label = row[shift];
    uint8_t others = shift > 0 ? (above[shift - 1] ^ label) | (row[shift - 1] ^ label) |
                                     (below[shift - 1] ^ label)
                               : 0;
    for (int64_t x = shift; x < shift + 2 * count; ++x) {
      others |= (above[x] ^ label) | (row[x] ^ label) | (below[x] ^ label);
    }
    if (others == 0 && label != kMixed) {
      for (int64_t i = 0; i < count; ++i) states[begin + i] = label;
      continue;
    }
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

// Calls body(first, last) for chunks of [0, count) of about 64 KiB of work, `bytes` each.
template <class Body>
void for_chunks(const Parallel& parallel, int64_t count, int64_t bytes, const Body& body) {
  const int64_t chunk = bytes >= 65536 ? 1 : 65536 / (bytes + 1);
  parallel_for(parallel, static_cast<size_t>(ceil_div(count, chunk)), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * chunk;
    body(first, first + chunk < count ? first + chunk : count);
  });
}

uint8_t largest_of(const uint8_t* row, int64_t width, uint8_t largest) {
  for (int64_t x = 0; x < width; ++x) largest = row[x] > largest ? row[x] : largest;
  return largest;
}

uint8_t largest_label(const uint8_t* crop, int64_t pitch, int64_t height, int64_t width,
                      const Parallel& parallel, const Memory& memory) {
  auto* rows = take<uint8_t>(memory, height);
  for_chunks(parallel, height, width, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y) rows[y] = largest_of(crop + y * pitch, width, 0);
  });
  return largest_of(rows, height, 0);
}

// The states of a level from those of the level before (`pitch` bytes a row), and how many of each
// row are mixed, added up in `begin`.
void find_states(const uint8_t* before, int64_t pitch, const Level& level,
                 const Parallel& parallel) {
  for_chunks(parallel, level.height, 4 * level.width, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y) {
      const uint8_t* row = before + 2 * y * pitch;
      level.begin[y + 1] = reduce_row(y == 0 ? row : row - pitch, row, row + pitch, level.width,
                                      level.states + y * level.width);
    }
  });
  level.begin[0] = 0;
  for (int64_t y = 0; y < level.height; ++y) level.begin[y + 1] += level.begin[y];
}

// Numbers the mixed pixels in row-major order.
void list_mixed(const Level& level, const Parallel& parallel) {
  for_chunks(parallel, level.height, level.width, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y) {
      const uint8_t* states = level.states + y * level.width;
      int32_t next = level.begin[y];
      for (int64_t x = 0; next < level.begin[y + 1]; ++x) {
        if (states[x] != kMixed) continue;
        level.list[next] = {static_cast<int32_t>(y), static_cast<int32_t>(x)};
        level.index[y * level.width + x] = next++;
      }
    }
  });
}

// Calls body(tap, y, x) with the inputs of an output pixel; y or x is -1 outside the crop.
template <class Body>
inline void for_taps(Pixel pixel, const Body& body) {
  for (int tap = 0; tap < kTaps; ++tap) {
    body(tap, 2 * int64_t{pixel.y} + tap / 3 - 1, 2 * int64_t{pixel.x} + tap % 3 - 1);
  }
}

void convolve_labels(const uint8_t* crop, int64_t pitch, const float* table, const Level& level,
                     const Parallel& parallel) {
  float* out = level.features + kConstants * level.stride;
  parallel_for(parallel, static_cast<size_t>(ceil_div(level.mixed(), kChunk)), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * kChunk;
    const int64_t last = first + kChunk < level.mixed() ? first + kChunk : level.mixed();
    for (int64_t r = first; r < last; ++r) {
      int labels[kTaps];
      for_taps(level.list[r], [&](int tap, int64_t y, int64_t x) {
        labels[tap] = y < 0 || x < 0 ? kOutside : crop[y * pitch + x];
      });
      add_table_rows(table, level.stride, labels, out + r * level.stride);
    }
  });
}

void convolve_features(const Level& before, const float* panels, int64_t panel_size, int64_t depth,
                       const Level& level, const Parallel& parallel) {
  float* out = level.features + kConstants * level.stride;
  const float* zeros = before.features + kZeroRow * before.stride;
  const int64_t chunks = ceil_div(level.mixed(), kChunk);
  // Panel after panel, so that a panel stays in the cache while all pixels pass by.
  const auto tasks = static_cast<size_t>(level.stride / kPanel * chunks);
  parallel_for(parallel, tasks, [&](size_t task) {
    const int64_t panel = static_cast<int64_t>(task) / chunks;
    const int64_t first = static_cast<int64_t>(task) % chunks * kChunk;
    const int64_t last = first + kChunk < level.mixed() ? first + kChunk : level.mixed();
    const float* inputs[kChunk][kTaps];
    for (int64_t r = first; r < last; ++r) {
      for_taps(level.list[r], [&](int tap, int64_t y, int64_t x) {
        inputs[r - first][tap] = y < 0 || x < 0 ? zeros : before.row(y, x);
      });
    }
    convolve_panel(inputs, last - first, panels + panel * panel_size, depth,
                   out + first * level.stride + panel * kPanel, level.stride);
  });
}

// ---- Packing

// Biases, then for each tap what each label (and the zeros outside) adds: [1 + kTaps * (kLabels +
// 1), stride].
void pack_table(const PromptWeights& weights, int64_t stride, float* table) {
  const int64_t in = weights.shape.channels[0], out = weights.shape.channels[1];
  for (int64_t c = 0; c < out; ++c) {
    table[c] = weights.bias[0][c];
    for (int tap = 0; tap < kTaps; ++tap) {
      for (int label = 0; label <= kLabels; ++label) {
        float sum = 0;
        for (int64_t k = 0; k < in; ++k) {
          const float x = label == kOutside ? 0.0f : weights.table[label * in + k];
          sum += x * weights.weight[0][(c * in + k) * kTaps + tap];
        }
        table[(1 + tap * (kLabels + 1) + label) * stride + c] = sum;
      }
    }
  }
}

void pack_panels(const PromptWeights& weights, int i, float* panels) {
  const int64_t in = weights.shape.channels[i], out = weights.shape.channels[i + 1];
  for (int64_t c = 0; c < out; ++c) {
    float* column = panels + c / kPanel * panel_size(weights.shape, i) + c % kPanel;
    column[0] = weights.bias[i][c];
    for (int tap = 0; tap < kTaps; ++tap) {
      for (int64_t k = 0; k < in; ++k) {
        column[tap * panel_floats<kPanelVectors>(in) + (1 + k) * kPanel] =
            weights.weight[i][(c * in + k) * kTaps + tap];
      }
    }
  }
}

// Calls body(label, pixel) for each constant, with a pixel of its place.
template <class Body>
void for_constants(const Body& body) {
  for (int label = 0; label < kLabels; ++label) {
    for (int place = 0; place < kPlaces; ++place) {
      body(label, Pixel{(place & 1) != 0 ? 0 : 1, (place & 2) != 0 ? 0 : 1});
    }
  }
}

}  // namespace

int64_t prompt_packed_size(const PromptShape& shape) { return layout_of(shape).size; }

void prompt_pack(const PromptWeights& weights, float* packed) {
  const PromptShape& shape = weights.shape;
  const Layout layout = layout_of(shape);
  for (int64_t i = 0; i < layout.size; ++i) packed[i] = 0;  // unused columns, the zero rows

  float* constants = packed + layout.constants[0];
  pack_table(weights, layout.stride[0], packed + layout.weights[0]);
  for_constants([&](int label, Pixel pixel) {
    int labels[kTaps];
    for_taps(pixel, [&](int tap, int64_t y, int64_t x) {
      labels[tap] = y < 0 || x < 0 ? kOutside : label;
    });
    add_table_rows(packed + layout.weights[0], layout.stride[0], labels,
                   constants + constant_row(label, pixel.y, pixel.x) * layout.stride[0]);
  });

  for (int i = 1; i < shape.levels; ++i) {
    float* panels = packed + layout.weights[i];
    pack_panels(weights, i, panels);
    const float* inputs[kZeroRow][kTaps];  // constants of the level before
    for_constants([&](int label, Pixel pixel) {
      for_taps(pixel, [&](int tap, int64_t y, int64_t x) {
        const int row = y < 0 || x < 0 ? kZeroRow : constant_row(label, y, x);
        inputs[constant_row(label, pixel.y, pixel.x)][tap] = constants + row * layout.stride[i - 1];
      });
    });
    constants = packed + layout.constants[i];
    for (int64_t c = 0; c < layout.stride[i]; c += kPanel) {
      convolve_panel(inputs, kZeroRow, panels + c / kPanel * panel_size(shape, i),
                     shape.channels[i], constants + c, layout.stride[i]);
    }
  }
}

uint8_t prompt_embedding(const uint8_t* labels, int64_t map_height, int64_t map_width,
                         const int64_t* box, const float* embedding, const PromptShape& shape,
                         const float* packed, const Parallel& parallel, const Memory& memory,
                         float* tokens) {
  const int64_t left = box[0], top = box[1], right = box[2], bottom = box[3];
  const uint8_t* crop = labels + top * map_width + left;
  const uint8_t largest =
      largest_label(crop, map_width, bottom - top, right - left, parallel, memory);
  if (largest > kLargestLabel) return largest;

  const Layout layout = layout_of(shape);
  Level levels[kMaxPromptLevels];
  for (int i = 0; i < shape.levels; ++i) {
    Level& level = levels[i];
    level.height = (bottom - top) >> (i + 1);
    level.width = (right - left) >> (i + 1);
    level.states = take<uint8_t>(memory, level.height * level.width);
    level.begin = take<int32_t>(memory, level.height + 1);
    find_states(i == 0 ? crop : levels[i - 1].states, i == 0 ? map_width : levels[i - 1].width,
                level, parallel);

    level.index = take<int32_t>(memory, level.height * level.width);
    level.list = take<Pixel>(memory, level.mixed());
    list_mixed(level, parallel);

    level.stride = layout.stride[i];
    level.features = take<float>(memory, (kConstants + level.mixed()) * level.stride);
    const float* constants = packed + layout.constants[i];
    for (int64_t c = 0; c < kConstants * level.stride; ++c) level.features[c] = constants[c];
    const float* weights = packed + layout.weights[i];
    if (i == 0) {
      convolve_labels(crop, map_width, weights, level, parallel);
    } else {
      convolve_features(levels[i - 1], weights, panel_size(shape, i), shape.channels[i], level,
                        parallel);
    }
  }

  const Level& last = levels[shape.levels - 1];
  const int64_t channels = shape.channels[shape.levels], grid = map_width >> shape.levels;
  const int64_t box_y = top >> shape.levels, box_x = left >> shape.levels;
  const float* background = last.features + constant_row(kPossibleBackground, 1, 1) * last.stride;
  for_chunks(parallel, map_height >> shape.levels, grid * channels * 4,
             [&](int64_t first, int64_t end) {
               for (int64_t t = first * grid; t < end * grid; ++t) {
                 const int64_t y = t / grid - box_y, x = t % grid - box_x;
                 const bool inside = y >= 0 && y < last.height && x >= 0 && x < last.width;
                 const float* prompt = inside ? last.row(y, x) : background;
                 for (int64_t c = 0; c < channels; ++c) {
                   tokens[t * channels + c] = embedding[t * channels + c] + prompt[c];
                 }
               }
             });
  return largest;
}

}  // namespace i2f::I2F_TIER
