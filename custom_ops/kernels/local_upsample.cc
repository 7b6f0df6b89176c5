// conv3x3(bicubic2x(n)) = sum over the nine taps t of shift_t(bicubic2x(W_t n)): the convolution's
// products are taken at low resolution, four times fewer of them, and bicubic2x, which works on
// each channel alone, is left for the end, on few channels.
//
// The maps W_t n are made a band of rows at a time, in a ring of rows, by all threads; then the
// band is resized, down the rows first. The sums run over (column, channel) as they lie in memory,
// so that vectors are full for any number of channels.

#include "kernels/local_upsample.h"

#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/moments.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kTaps = 9;    // of the convolution, row by row
constexpr int kCentre = 4;  // the tap that never leaves the crop: it carries the bias
constexpr int kReach = 2;   // low-resolution pixels that a pixel of the result sees each way

constexpr int kPanel = 3;                   // vectors of a panel of weights
constexpr int kPixels = kTileRows<kPanel>;  // pixels of a tile
constexpr int kRun = 2 * kLanes;            // pixels of a run, where they are in the lanes

constexpr int64_t kRing = 1 << 19;      // floats of the ring, about
constexpr int64_t kStrip = 1024;        // floats of a strip of columns, about
constexpr int64_t kMostTasks = 64;      // of the tap maps: bounds the scratch
constexpr int64_t kTaskCost = 1 << 18;  // products a task of the tap maps has, at least
constexpr int64_t kResizeTasks = 16;    // of a band: so many if it has the rows,
constexpr int64_t kResizeRows = 8;      // but no more rows a task

inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Where the packed parameters lie, in floats.
//   scale, shift  of the norm: as many pixels side by side as make whole vectors
//   taps          panels of three vectors of columns (tap, output channel); where pixels are in
//                 the lanes, a row for each such column, its bias last
struct Layout {
  Layout(int64_t in_channels, int64_t out_channels)
      : pixel_lanes(out_channels < kLanes && (out_channels & (out_channels - 1)) == 0),
        period(in_channels % kLanes == 0 ? in_channels : in_channels * kLanes),
        panels(ceil_div(kTaps * out_channels, kPanel * kLanes)),
        panel(panel_floats<kPanel>(in_channels)),
        total(2 * period +
              (pixel_lanes ? kTaps * out_channels * (in_channels + 1) : panels * panel)) {}

  bool pixel_lanes;
  int64_t period;
  int64_t panels, panel;
  int64_t total;
};

// Bicubic x2 with A = -0.75: an odd pixel 2j+1 is a sum over j-1..j+2 with these weights, an even
// one 2j over j-2..j+1 with them reversed. They are exact in float32 and sum to one.
constexpr float kCubic[4] = {-0.10546875f, 0.87890625f, 0.26171875f, -0.03515625f};

// Two neighbouring pixels of the sum of three taps' resized maps, at(t, k) being tap t's pixel k -
// 2 from theirs. At the crop's first pixel tap 0 falls into the zero padding for the first of the
// two, at the last pixel tap 2 for the second.
struct Pair {
  Vec first, second;
};
template <bool kFirst, bool kLast, class At>
inline __attribute__((always_inline)) Pair resize(const At& at) {
  const Vec q0 = broadcast(kCubic[0]), q1 = broadcast(kCubic[1]), q2 = broadcast(kCubic[2]),
            q3 = broadcast(kCubic[3]);
  const Vec a0 = at(0, 0), a1 = at(0, 1), a2 = at(0, 2), a3 = at(0, 3);
  const Vec b0 = at(1, 0), b1 = at(1, 1), b2 = at(1, 2), b3 = at(1, 3), b4 = at(1, 4);
  const Vec c1 = at(2, 1), c2 = at(2, 2), c3 = at(2, 3), c4 = at(2, 4);
  // Taps 0 and 2 meet the two pixels with the same weights: what lies a pixel apart is added first.
  const auto both = [](bool with_a, Vec a, bool with_c, Vec c) {
    return !with_a ? c : !with_c ? a : a + c;
  };
  const auto far = [&](bool a, bool c, Vec w0, Vec w1, Vec w2, Vec w3) {
    return w0 * both(a, a0, c, c1) + w1 * both(a, a1, c, c2) + w2 * both(a, a2, c, c3) +
           w3 * both(a, a3, c, c4);
  };
  return {(q3 * b0 + q2 * b1 + q1 * b2 + q0 * b3) + far(!kFirst, true, q0, q1, q2, q3),
          (q0 * b1 + q1 * b2 + q2 * b3 + q3 * b4) + far(true, !kLast, q3, q2, q1, q0)};
}

// Calls body(Flag<first>(), Flag<last>()).
template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};
template <class Body>
inline void with_ends(bool first, bool last, const Body& body) {
  if (first) {
    last ? body(Flag<true>(), Flag<true>()) : body(Flag<true>(), Flag<false>());
  } else {
    last ? body(Flag<false>(), Flag<true>()) : body(Flag<false>(), Flag<false>());
  }
}

// (x - mean) * scale + shift, the norm.
struct Norm {
  float mean;
  const float *scale, *shift;  // [period]
  int64_t period;

  // Of whole pixels, `count` floats; fetches those that lie `ahead` floats ahead.
  void operator()(const float* x, int64_t count, int64_t ahead, float* to) const {
    const Vec from = broadcast(mean);
    const Norm local = *this;  // which stores through `to` leave alone
    int64_t at = 0, i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      __builtin_prefetch(x + i + ahead);
      store(to + i, (load(x + i) - from) * load(local.scale + at) + load(local.shift + at));
      at = at + kLanes == local.period ? 0 : at + kLanes;
    }
    for (; i < count; ++i, ++at) to[i] = (x[i] - mean) * scale[at] + shift[at];
  }
};

// A stage's sizes, and the ring of rows of the tap maps: row r lies in slot r % slots, tap after
// tap.
struct Stage {
  int64_t rows, columns, in, out;  // of the crop at low resolution, and channels
  const float* x;
  const Layout& layout;
  const float* packed_taps;
  Norm norm;
  float* ring;
  int64_t slots;
  int64_t tap;  // floats from one tap's row to the next: a vector may begin at a row's last element

  const float* row(int64_t r) const {
    const int64_t inside = at_most(at_least(r, 0), rows - 1);
    return ring + inside % slots * kTaps * tap;
  }
  // Floats of x to what is fetched early: the hardware does not foresee so many short runs.
  int64_t ahead() const { return columns * in; }
  float* pixel(int64_t p) const {
    return ring + p / columns % slots * kTaps * tap + p % columns * out;
  }
};

// ---- The tap maps.

// Where column `column` of the packed panels, a tap's output channel, belongs from its pixel on.
int64_t offset_of(const Stage& stage, int64_t column) {
  return column / stage.out * stage.tap + column % stage.out;
}

// Columns [begin, end) of M pixels, from a panel's sums; any number of output channels.
template <int M>
void scatter(const Stage& stage, const Vec (&sums)[M][kPanel], int64_t begin, int64_t end,
             float* const* to) {
  for (int64_t column = begin; column < end;) {
    const int64_t count = at_most(stage.out - column % stage.out, end - column);
    const int64_t offset = offset_of(stage, column);
    for (int m = 0; m < M; ++m) {
      const float* from = reinterpret_cast<const float*>(sums[m]) + (column - begin);
      for (int64_t i = 0; i < count; ++i) to[m][offset + i] = from[i];
    }
    column += count;
  }
}

// Pixels [begin, end), counted along the rows; `tile` holds kPixels * Ci floats.
void map_taps(const Stage& stage, int64_t begin, int64_t end, float* tile) {
  const bool whole = stage.out % kLanes == 0;  // then 9 Co columns fill the panels
  for_parts(begin, end, kPixels, [&](int64_t first, int64_t last) {
    stage.norm(stage.x + first * stage.in, (last - first) * stage.in, stage.ahead(), tile);
    with_rows<kPixels>(last - first, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* rows[M];
      float* to[M];
      for (int m = 0; m < M; ++m) {
        rows[m] = tile + m * stage.in;
        to[m] = stage.pixel(first + m);
      }
      for (int64_t p = 0; p < stage.layout.panels; ++p) {
        Vec sums[M][kPanel];
        multiply<M, kPanel>(rows, stage.packed_taps + p * stage.layout.panel, stage.in, sums);
        const int64_t column = p * kPanel * kLanes;
        if (!whole) {
          Vec results[M][kPanel];
          copy<M, kPanel>(sums, results);
          scatter<M>(stage, results, column, at_most(column + kPanel * kLanes, kTaps * stage.out),
                     to);
          continue;
        }
        int64_t offset[kPanel];
        for (int n = 0; n < kPanel; ++n) offset[n] = offset_of(stage, column + n * kLanes);
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
          for (int n = 0; n < kPanel; ++n) store(to[m] + offset[n], sums[m][n]);
        }
      }
    });
  });
}

// A run of pixels `from` [kRun, channels] -> `to` [channels, kRun]; `spare` is as large as either.
void transpose(float* from, int64_t channels, float* spare, float* to) {
  if ((channels & (channels - 1)) != 0 || channels == 1) {
    for (int64_t k = 0; k < channels; ++k) {
      for (int64_t p = 0; p < kRun; ++p) to[k * kRun + p] = from[p * channels + k];
    }
    return;
  }
  // Each round moves the lowest bit of an element's place, one of the channel's, above all others.
  const int64_t half = kRun * channels / 2;
  for (int64_t left = channels; left > 1; left /= 2) {
    float* into = left == 2 ? to : spare;
    for (int64_t i = 0; i < half; i += kLanes) {
      const Vec low = load(from + 2 * i), high = load(from + 2 * i + kLanes);
      store(into + i, even_lanes(low, high));
      store(into + half + i, odd_lanes(low, high));
    }
    spare = from;
    from = into;
  }
}

// Vectors [channels, pixels] -> [pixels, channels], the other way.
template <int kChannels>
inline __attribute__((always_inline)) void interleave(Vec (&v)[kChannels]) {
#pragma GCC unroll 8
  for (int left = kChannels; left > 1; left /= 2) {
    Vec zipped[kChannels];
#pragma GCC unroll 8
    for (int i = 0; i < kChannels / 2; ++i) {
      zipped[2 * i] = zip_low<1>(v[i], v[i + kChannels / 2]);
      zipped[2 * i + 1] = zip_high<1>(v[i], v[i + kChannels / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kChannels; ++i) v[i] = zipped[i];
  }
}

// Runs [begin, end), counted along the rows, of which each has its last run cut short. Pixels are
// in the lanes, the rows of a tile are output channels of a few taps. `tile` holds run_floats().
int64_t run_floats(int64_t channels) { return kRun * (3 * channels + 2); }
template <int kChannels>
void map_taps_of_runs(const Stage& stage, int64_t begin, int64_t end, float* tile) {
  constexpr int kWide = kRun / kLanes;
  constexpr int kTogether = kTaps * kChannels <= kTileRows<kWide> ? kTaps
                            : 3 * kChannels <= kTileRows<kWide>   ? 3
                                                                  : 1;
  const int64_t runs = ceil_div(stage.columns, kRun), depth = stage.in + 1;
  float* panel = tile + 2 * kRun * stage.in;
  for (int64_t i = 0; i < kRun; ++i) {
    panel[i] = 0;
    panel[depth * kRun + i] = 1;  // of the biases
  }
  for (int64_t r = begin; r < end; ++r) {
    const int64_t first = r % runs * kRun, pixel = r / runs * stage.columns + first;
    const int64_t count = at_most(kRun, stage.columns - first);
    stage.norm(stage.x + pixel * stage.in, count * stage.in, stage.ahead(), tile);
    for (int64_t i = count * stage.in; i < kRun * stage.in; ++i) tile[i] = 0;
    transpose(tile, stage.in, tile + kRun * stage.in, panel + kRun);
    for (int t = 0; t < kTaps; t += kTogether) {
      const float* rows[kTogether * kChannels];
      for (int m = 0; m < kTogether * kChannels; ++m) {
        rows[m] = stage.packed_taps + (t * kChannels + m) * depth;
      }
      Vec sums[kTogether * kChannels][kWide];
      multiply<kTogether * kChannels, kWide>(rows, panel, depth, sums);
      float* to = stage.pixel(pixel) + t * stage.tap;
#pragma GCC unroll 32
      for (int i = 0; i < kTogether * kWide; ++i) {
        const int n = i % kWide, tap = i / kWide;
        Vec mixed[kChannels];
#pragma GCC unroll 8
        for (int c = 0; c < kChannels; ++c) mixed[c] = sums[tap * kChannels + c][n];
        interleave<kChannels>(mixed);
        if (n * kLanes >= count) continue;
#pragma GCC unroll 8
        for (int c = 0; c < kChannels; ++c) {
          store(to + tap * stage.tap + (n * kChannels + c) * kLanes, mixed[c]);
        }
      }
    }
  }
}

void map_taps_of_any(const Stage& stage, int64_t begin, int64_t end, float* tile) {
  if (!stage.layout.pixel_lanes) return map_taps(stage, begin, end, tile);
  if (stage.out == 1) return map_taps_of_runs<1>(stage, begin, end, tile);
  if constexpr (kLanes > 2) {
    if (stage.out == 2) return map_taps_of_runs<2>(stage, begin, end, tile);
  }
  if constexpr (kLanes > 4) {
    if (stage.out == 4) return map_taps_of_runs<4>(stage, begin, end, tile);
  }
  if constexpr (kLanes > 8) map_taps_of_runs<8>(stage, begin, end, tile);
}

// ---- Resizing and summing the tap maps.

// What a task works in.
struct Desk {
  Desk(float* memory, int64_t pixels, int64_t channels)
      : width(column_floats(pixels, channels)),
        edge_row(memory + 6 * width),
        mixed(edge_row + round_up(2 * pixels * channels, kLanes)),
        columns(memory) {}

  static int64_t floats(int64_t pixels, int64_t channels) {
    return 6 * column_floats(pixels, channels) + 2 * round_up(2 * pixels * channels, kLanes) +
           2 * kLanes;
  }

  // Two rows of the result, and of each the sums that column dx of the taps takes part in, before
  // resizing along the row; from kReach pixels before the strip to kReach behind it.
  float* column(int phase, int dx) const { return columns + (3 * phase + dx) * width; }

  int64_t width;
  float* edge_row;  // of edge features with the crop's border taken away
  float* mixed;     // of results before the activation

 private:
  static int64_t column_floats(int64_t pixels, int64_t channels) {
    return round_up((pixels + 2 * kReach) * channels, kLanes) + kLanes;
  }

  float* columns;
};

// The three Desk::column rows of a row of the result.
struct Columns {
  const float* at[3];
  int64_t channels;

  // kLanes elements of two neighbouring pixels, `i` elements into the strip.
  template <bool kFirst = false, bool kLast = false>
  inline __attribute__((always_inline)) Pair pair(int64_t i) const {
    return resize<kFirst, kLast>([&](int dx, int k) { return load(at[dx] + i + k * channels); });
  }
};

// From a sum of taps and its share of the edge features to the result.
struct Finish {
  bool activate;
  int64_t e_ahead, to_ahead;  // floats to the same place two rows on, which is fetched

  inline __attribute__((always_inline)) Vec operator()(Vec sum, Vec e) const {
    return activate ? silu(sum + e) : sum + e;
  }
  // kLanes elements.
  inline __attribute__((always_inline)) void wholly(float* to, Vec sum, const float* e) const {
    __builtin_prefetch(e + e_ahead);
    __builtin_prefetch(to + to_ahead, 1);
    store(to, (*this)(sum, load(e)));
  }
  // Up to kLanes elements.
  void partly(float* to, Vec sum, const float* e, int64_t count) const {
    const int n = static_cast<int>(at_least(0, at_most(count, kLanes)));
    store_partial(to, (*this)(sum, load_partial(e, n)), n);
  }
};

// ---- One row of a strip, but for the crop's border. Arguments are copies: stores leave them
// alone.

// Channels that fill vectors.
void whole_pixels(Columns columns, Finish finish, int64_t pixels, const float* e, float* to) {
  const int64_t channels = columns.channels;
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Pair pair = columns.pair(x * channels + c);
      const int64_t at = 2 * x * channels + c;
      finish.wholly(to + at, pair.first, e + at);
      finish.wholly(to + at + channels, pair.second, e + at + channels);
    }
  }
}

// Vectors that are filled by a few pixels.
template <int kChannels>
void zipped_pixels(Columns columns, Finish finish, int64_t pixels, const float* e, float* to) {
  columns.channels = kChannels;
  const int64_t floats = pixels * kChannels;
  int64_t i = 0;
  for (; i + kLanes <= floats; i += kLanes, e += 2 * kLanes, to += 2 * kLanes) {
    const Pair pair = columns.pair(i);
    finish.wholly(to, zip_low<kChannels>(pair.first, pair.second), e);
    finish.wholly(to + kLanes, zip_high<kChannels>(pair.first, pair.second), e + kLanes);
  }
  if (i == floats) return;
  const Pair pair = columns.pair(i);
  const int64_t left = 2 * (floats - i);
  finish.partly(to, zip_low<kChannels>(pair.first, pair.second), e, left);
  if (left <= kLanes) return;
  finish.partly(to + kLanes, zip_high<kChannels>(pair.first, pair.second), e + kLanes,
                left - kLanes);
}

// Any number of channels; `mixed` holds the row before the activation.
void any_pixels(Columns columns, Finish finish, int64_t pixels, const float* e, float* mixed,
                float* to) {
  const int64_t channels = columns.channels, floats = 2 * pixels * channels;
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Pair pair = columns.pair(x * channels + c);
      const int count = static_cast<int>(at_most(kLanes, channels - c));
      store_partial(mixed + 2 * x * channels + c, pair.first, count);
      store_partial(mixed + (2 * x + 1) * channels + c, pair.second, count);
    }
  }
  for (int64_t i = 0; i < floats; i += kLanes) {
    finish.partly(to + i, load(mixed + i), e + i, floats - i);
  }
}

// The crop's first or last pixel of a row, the pixel to whose side `columns` begin.
template <bool kFirst>
void border_pixel(Columns columns, Finish finish, const float* e, const float* border,
                  const float* corner, float* to) {
  for (int64_t c = 0; c < columns.channels; c += kLanes) {
    const Pair pair = columns.pair<kFirst, !kFirst>(c);
    const int count = static_cast<int>(at_most(kLanes, columns.channels - c));
    Vec inside = load_partial(e + c, count) - load_partial(border + c, count);
    if (corner != nullptr) inside += load_partial(corner + c, count);
    store_partial(to + c, finish(kFirst ? pair.first : pair.second, inside), count);
  }
}

struct Resize {
  const Stage& stage;
  const CropEdge& edge;
  Finish finish;
  float* y;

  // Columns [begin, end) of low-resolution row r: two rows of the result.
  void rows_of(int64_t r, int64_t begin, int64_t end, const Desk& desk) const {
    const int64_t channels = stage.out;
    const int64_t first = at_least(begin - kReach, 0), last = at_most(end + kReach, stage.columns);
    const int64_t floats = (last - first) * channels;
    const int64_t into = (first - (begin - kReach)) * channels;
    with_ends(r == 0, r == stage.rows - 1, [&](auto top, auto bottom) {
      for (int dx = 0; dx < 3; ++dx) {
        const float* row[5];
        for (int k = 0; k < 5; ++k) {
          row[k] = stage.row(r + k - kReach) + dx * stage.tap + first * channels;
        }
        const int64_t down = 3 * stage.tap;  // to the tap below
        float *upper = desk.column(0, dx) + into, *lower = desk.column(1, dx) + into;
        for (int64_t i = 0; i < floats; i += kLanes) {
          const Pair pair = resize<decltype(top)::value, decltype(bottom)::value>(
              [&](int dy, int k) { return load(row[k] + dy * down + i); });
          store(upper + i, pair.first);
          store(lower + i, pair.second);
        }
      }
    });
    for (int64_t x = begin - kReach; x < first; ++x) copy_pixel(desk, x - begin, first - begin);
    for (int64_t x = last; x < end + kReach; ++x) copy_pixel(desk, x - begin, last - 1 - begin);
    for (int phase = 0; phase < 2; ++phase) row_of(2 * r + phase, phase, begin, end, desk);
  }

  // Pixel `to` of the strip, outside the crop, is its nearest inside.
  void copy_pixel(const Desk& desk, int64_t to, int64_t from) const {
    for (int i = 0; i < 6; ++i) {
      float* column = desk.column(i / 3, i % 3) + kReach * stage.out;
      for (int64_t c = 0; c < stage.out; ++c) {
        column[to * stage.out + c] = column[from * stage.out + c];
      }
    }
  }

  void row_of(int64_t row, int phase, int64_t begin, int64_t end, const Desk& desk) const {
    const int64_t channels = stage.out, pixels = end - begin, floats = 2 * pixels * channels;
    const bool top = row == 0, bottom = row == 2 * stage.rows - 1;
    const float* e = edge.edge + row * edge.stride + 2 * begin * channels;
    if (top || bottom) {
      const float* border = (top ? edge.above : edge.below) + 2 * begin * channels;
      for (int64_t i = 0; i < floats; ++i) desk.edge_row[i] = e[i] - border[i];
      e = desk.edge_row;
    }
    float* to = y + (2 * row * stage.columns + 2 * begin) * channels;
    Columns columns{{desk.column(phase, 0), desk.column(phase, 1), desk.column(phase, 2)},
                    channels};
    inner_pixels(columns, pixels, e, desk.mixed, to);
    if (begin == 0) {
      const float* corner = top ? edge.corner[0] : bottom ? edge.corner[2] : nullptr;
      border_pixel<true>(columns, finish, e, edge.left + row * channels, corner, to);
    }
    if (end == stage.columns) {
      const float* corner = top ? edge.corner[1] : bottom ? edge.corner[3] : nullptr;
      const int64_t last = floats - channels;
      for (const float*& at : columns.at) at += (pixels - 1) * channels;
      border_pixel<false>(columns, finish, e + last, edge.right + row * channels, corner,
                          to + last);
    }
  }

  void inner_pixels(const Columns& columns, int64_t pixels, const float* e, float* mixed,
                    float* to) const {
    if (stage.out % kLanes == 0) return whole_pixels(columns, finish, pixels, e, to);
    if (stage.out == 1) return zipped_pixels<1>(columns, finish, pixels, e, to);
    if constexpr (kLanes > 2) {
      if (stage.out == 2) return zipped_pixels<2>(columns, finish, pixels, e, to);
    }
    if constexpr (kLanes > 4) {
      if (stage.out == 4) return zipped_pixels<4>(columns, finish, pixels, e, to);
    }
    if constexpr (kLanes > 8) {
      if (stage.out == 8) return zipped_pixels<8>(columns, finish, pixels, e, to);
    }
    any_pixels(columns, finish, pixels, e, mixed, to);
  }
};

}  // namespace

size_t packed_upsample_size(int64_t in_channels, int64_t out_channels) {
  return static_cast<size_t>(Layout(in_channels, out_channels).total);
}

void pack_upsample(const UpsampleWeights& weights, float* packed) {
  const int64_t in = weights.in_channels, out = weights.out_channels;
  const Layout layout(in, out);
  for (int64_t i = 0; i < layout.period; ++i) {
    packed[i] = weights.norm_weight[i % in];
    packed[layout.period + i] = weights.norm_bias[i % in];
  }
  float* taps = packed + 2 * layout.period;
  if (layout.pixel_lanes) {
    for (int64_t column = 0; column < kTaps * out; ++column) {
      const int64_t tap = column / out, channel = column % out;
      float* to = taps + column * (in + 1);
      for (int64_t k = 0; k < in; ++k) {
        to[k] = weights.conv_weight[(channel * in + k) * kTaps + tap];
      }
      to[in] = tap == kCentre ? weights.conv_bias[channel] : 0;
    }
    return;
  }
  constexpr int64_t width = kPanel * kLanes;
  for (int64_t column = 0; column < layout.panels * width; ++column) {
    float* to = taps + column / width * layout.panel + column % width;
    const int64_t tap = column / out, channel = column % out;
    const bool inside = tap < kTaps;
    to[0] = tap == kCentre ? weights.conv_bias[channel] : 0;
    for (int64_t k = 0; k < in; ++k) {
      to[(k + 1) * width] = inside ? weights.conv_weight[(channel * in + k) * kTaps + tap] : 0;
    }
  }
}

void local_upsample(const float* x, int64_t rows, int64_t columns, int64_t in_channels,
                    int64_t out_channels, const CropEdge& edge, const float* packed, float epsilon,
                    bool activate, float* y, const Memory& memory, const Parallel& parallel) {
  const Layout layout(in_channels, out_channels);
  const int64_t count = rows * columns * in_channels;
  const Moments moments = moments_of_all(x, count, memory, parallel);
  const float inverse = moments.inverse_deviation(epsilon);
  float* scale = take<float>(memory, layout.period);
  for (int64_t i = 0; i < layout.period; ++i) scale[i] = packed[i] * inverse;

  const int64_t wide = layout.pixel_lanes ? round_up(columns, kLanes) : columns;
  const int64_t tap = round_up(wide * out_channels, kLanes) + kLanes;
  const int64_t slots = at_most(rows, at_least(kRing / (kTaps * tap), 4 * kReach));
  const int64_t band = slots == rows ? rows : slots - 2 * kReach;
  const Stage stage{
      rows,
      columns,
      in_channels,
      out_channels,
      x,
      layout,
      packed + 2 * layout.period,
      {static_cast<float>(moments.mean), scale, packed + layout.period, layout.period},
      take<float>(memory, slots * kTaps * tap),
      slots,
      tap};
  const Resize resizing{stage, edge, {activate, 2 * edge.stride, 4 * columns * out_channels}, y};

  // Tap maps: `units` of a row, tiles of pixels or runs.
  const int64_t units = layout.pixel_lanes ? ceil_div(columns, kRun) : columns;
  const int64_t unit_cost = in_channels * kTaps * out_channels * (layout.pixel_lanes ? kRun : 1);
  const int64_t tile = layout.pixel_lanes ? run_floats(in_channels) : kPixels * in_channels;
  float* tiles = take<float>(memory, kMostTasks * tile);

  const int64_t strips = at_most(columns, ceil_div(columns * out_channels, kStrip));
  const int64_t strip = ceil_div(columns, strips);
  const int64_t rows_a_task = at_least(1, at_most(kResizeRows, band * strips / kResizeTasks));
  const int64_t desk = Desk::floats(strip, out_channels);
  float* desks = take<float>(memory, ceil_div(band, rows_a_task) * strips * desk);

  int64_t mapped = 0;  // rows whose tap maps are made
  for_parts(0, rows, band, [&](int64_t begin, int64_t end) {
    const int64_t from = mapped * units;
    mapped = at_most(rows, end + kReach);
    const int64_t work = mapped * units - from;
    const int64_t most = layout.pixel_lanes ? work : ceil_div(work, kPixels);
    const int64_t map_tasks =
        at_most(kMostTasks, at_most(most, ceil_div(work * unit_cost, kTaskCost)));
    parallel_for(parallel, static_cast<size_t>(map_tasks), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t first = from + work * i / map_tasks, last = from + work * (i + 1) / map_tasks;
      map_taps_of_any(stage, first, last, tiles + i * tile);
    });

    const int64_t groups = ceil_div(end - begin, rows_a_task);
    parallel_for(parallel, static_cast<size_t>(groups * strips), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t g = i / strips, s = i % strips;
      const int64_t left = columns * s / strips, right = columns * (s + 1) / strips;
      const Desk own(desks + i * desk, strip, out_channels);
      for (int64_t r = begin + (end - begin) * g / groups;
           r < begin + (end - begin) * (g + 1) / groups; ++r) {
        resizing.rows_of(r, left, right, own);
      }
    });
  });
}

}  // namespace i2f::I2F_TIER
