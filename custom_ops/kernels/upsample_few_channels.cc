// A stage of local upsampling whose output channels are a part of a vector: 1, 2, 4 or 8.
//
// As for many channels, the convolution's products are taken at low resolution, on maps that are
// resized for the result. Along each axis the outer two of three taps meet the same cubic weights
// one pixel apart, so that a map of their sum, W_0 n[i] + W_2 n[i+1], serves both; with the inner
// taps' map that makes two maps an axis, four in all, of nine products. Where the crop ends one of
// the outer taps falls into the zero padding: maps without it take the place of the sum's.
//
// A task takes a block of rows of a strip of columns from the input to the result, row by row, so
// that the first cache holds most of what it reads. Pixels are in the lanes until maps are made.

#include "kernels/blocks.h"
#include "kernels/shuffle.h"
#include "kernels/upsample_stage.h"

namespace i2f::I2F_TIER {
namespace {

// Vectors [pixels, channels] <-> [channels, pixels].
template <int kChannels>
inline __attribute__((always_inline)) void separate(Vec (&v)[kChannels]) {
#pragma GCC unroll 8
  for (int left = kChannels; left > 1; left /= 2) {
    Vec apart[kChannels];
#pragma GCC unroll 16
    for (int i = 0; i < kChannels / 2; ++i) {
      apart[i] = even_lanes(v[2 * i], v[2 * i + 1]);
      apart[i + kChannels / 2] = odd_lanes(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kChannels; ++i) v[i] = apart[i];
  }
}
template <int kChannels>
inline __attribute__((always_inline)) void interleave(Vec (&v)[kChannels]) {
#pragma GCC unroll 8
  for (int left = kChannels; left > 1; left /= 2) {
    Vec zipped[kChannels];
#pragma GCC unroll 16
    for (int i = 0; i < kChannels / 2; ++i) {
      zipped[2 * i] = zip_low<1>(v[i], v[i + kChannels / 2]);
      zipped[2 * i + 1] = zip_high<1>(v[i], v[i + kChannels / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kChannels; ++i) v[i] = zipped[i];
  }
}

// Two pixels of a map resized along one axis: inner(k) is the inner taps' map at pixel k - 2 from
// theirs, outer(k) the outer taps'.
template <class Inner, class Outer>
inline __attribute__((always_inline)) Pair resize(const Inner& inner, const Outer& outer) {
  const Vec q0 = broadcast(kCubic[0]), q1 = broadcast(kCubic[1]), q2 = broadcast(kCubic[2]),
            q3 = broadcast(kCubic[3]);
  const Vec i1 = inner(1), i2 = inner(2), i3 = inner(3);
  const Vec o0 = outer(0), o1 = outer(1), o2 = outer(2), o3 = outer(3);
  return {(q3 * inner(0) + q2 * i1 + q1 * i2 + q0 * i3) + (q0 * o0 + q1 * o1 + q2 * o2 + q3 * o3),
          (q0 * i1 + q1 * i2 + q2 * i3 + q3 * inner(4)) + (q3 * o0 + q2 * o1 + q1 * o2 + q0 * o3)};
}

// A row of the convolution's taps and the row of the input that it meets.
struct RowOfTaps {
  int number;
  const float* panel;
};

template <int kChannels>
class FewChannels {
 public:
  FewChannels(const UpsampleStage& stage, const EdgeFeatures& edge_features, const float* packed,
              bool activate, float* y)
      : stage_(stage),
        edge_features_(edge_features),
        taps_(packed),
        bias_(packed + kTaps * kChannels * stage.in),
        finish_{activate, 2 * edge_features.stride, 4 * stage.columns * kChannels},
        y_(y),
        strips_(ceil_div(stage.columns, kMaxColumns)),
        strip_(round_up(ceil_div(stage.columns, strips_), kUnit)),
        blocks_(max(ceil_div(stage.rows, kMaxRows),
                    2 * min(ceil_div(kTasks, 2 * strips_), stage.rows / (2 * kMinRows)))) {}

  int64_t tasks() const { return strips_ * blocks_; }
  int64_t scratch_floats() const { return Scratch(stage_.in, nullptr).floats; }

  void run(int64_t task, float* memory) const {
    Scratch scratch(stage_.in, memory);
    scratch.begin = task % strips_ * strip_;
    scratch.end = min(stage_.columns, scratch.begin + strip_);
    const int64_t block = task / strips_;
    const int64_t begin = stage_.rows * block / blocks_, end = stage_.rows * (block + 1) / blocks_;
    int64_t made = max(-1, begin - kReach);  // rows of the maps, from there on
    for (int64_t r = begin; r < end; ++r) {
      for (; made <= min(stage_.rows - 1, r + kReach); ++made) make_maps(made, scratch);
      resize_rows(r, scratch);
    }
  }

 private:
  // Vectors of a run of pixels: two maps' sums stay in registers, and what they are made of.
  static constexpr int kInRegisters = (kRegisters - 1) / (2 * kChannels + 2);
  static constexpr int kWide = kInRegisters >= 4 ? 4 : kInRegisters >= 2 ? 2 : 1;
  static constexpr int64_t kRun = kWide * kLanes;
  static constexpr int64_t kMargins = 2 * kReach;  // pixels of a strip's maps beside its own
  static constexpr int64_t kPixels = max(64, min(256, 384 / kChannels));  // of its maps
  static constexpr int64_t kUnit = kLanes / kChannels;  // pixels of a vector of the result
  static constexpr int64_t kMaxColumns = (kPixels - kMargins) / kUnit * kUnit;
  static constexpr int64_t kPanel = kPixels + kLanes;  // floats of a channel's row
  // About so many tasks, an even number, if they have the rows: each makes the maps of 2 * kReach
  // rows beside its own.
  static constexpr int64_t kTasks = 8, kMinRows = 20, kMaxRows = 128;

  // A row of maps: that of the inner column of taps, that of the outer ones, and for the crop's
  // first and last column a few pixels without the first column of taps and without the last. What
  // is read beyond its end concerns no pixel.
  static constexpr int64_t kSide = kLanes * kChannels;
  static constexpr int64_t kMapFloats = kPixels * kChannels;
  static constexpr int64_t kRowFloats = 2 * (kMapFloats + kSide) + kMargins * kChannels + kLanes;
  static constexpr int kRing = 2 * kReach + 1;
  static constexpr int kEnds = 3;  // rows of maps that a row at the crop's top or bottom sees

  // A strip of columns and what it is worked on with.
  struct Scratch {
    Scratch(int64_t in, float* memory) {
      const auto take = [&](int64_t count) {
        float* taken = memory == nullptr ? nullptr : memory + floats;
        floats += round_up(count, kLanes);
        return taken;
      };
      for (float*& panel : panels) panel = take(in * kPanel);
      gathered = take(in * kLanes);
      for (float*& row : inner) row = take(kRowFloats);
      for (float*& row : outer) row = take(kRowFloats);
      for (float*& row : no_first) row = take(kRowFloats);
      for (float*& row : no_last) row = take(kRowFloats);
      upper = take(kRowFloats);
      lower = take(kRowFloats);
      unused = take(kRowFloats);
      edge_row = take(2 * kMapFloats);
    }

    // Where the other parts of a row of maps begin.
    int64_t outer_columns() const { return round_up(end - begin + kMargins, kRun) * kChannels; }
    int64_t no_first_column() const { return 2 * outer_columns(); }
    int64_t no_last_column() const { return no_first_column() + kSide; }

    int64_t floats = 0;
    int64_t begin = 0, end = 0;  // columns
    float* panels[2];            // rows of the normed input, pixels in the lanes [in, kPanel]:
    int64_t held[2] = {-1, -1};  // of these, an even and an odd one
    float* gathered;             // pixels at the crop's ends
    // Rows of the maps of the inner row of taps, of the outer ones, and, at the crop's top and
    // bottom, without the first row of taps and without the last.
    float *inner[kRing], *outer[kRing], *no_first[kEnds], *no_last[kEnds];
    // Two rows of the result before they are resized along, and what nobody reads.
    float *upper, *lower, *unused;
    float* edge_row;
  };

  // ---- Rows of the input, pixels in the lanes.

  // Row `row` from kReach columns before the strip on, the nearest one for a row outside the crop.
  const float* panel_of(int64_t row, Scratch& scratch) const {
    row = max(0, min(stage_.rows - 1, row));
    float* panel = scratch.panels[row % 2];
    if (scratch.held[row % 2] == row) return panel;
    scratch.held[row % 2] = row;
    const float* pixels = stage_.x + row * stage_.columns * stage_.in;
    for (int64_t i = 0; i < scratch.end - scratch.begin + kMargins; i += kLanes) {
      const int64_t first = scratch.begin - kReach + i;
      const bool inside = first >= 0 && first + kLanes <= stage_.columns;
      for (int64_t p = 0; p < kLanes && !inside; ++p) {
        const int64_t nearest = max(0, min(stage_.columns - 1, first + p));
        copy_floats(pixels + nearest * stage_.in, stage_.in, scratch.gathered + p * stage_.in);
      }
      norm(inside ? pixels + first * stage_.in : scratch.gathered, panel + i);
    }
    return panel;
  }

  // kLanes pixels.
  void norm(const float* from, float* to) const {
    if (stage_.in % kLanes == 0) return norm_together<kLanes>(from, to);
    if (stage_.in == 1) return norm_together<1>(from, to);
    if (stage_.in == 2) return norm_together<2>(from, to);
    if constexpr (kLanes > 4) {
      if (stage_.in == 4) return norm_together<4>(from, to);
    }
    if constexpr (kLanes > 8) {
      if (stage_.in == 8) return norm_together<8>(from, to);
    }
    for (int64_t k = 0; k < stage_.in; ++k) {
      for (int64_t p = 0; p < kLanes; ++p) {
        to[k * kPanel + p] =
            (from[p * stage_.in + k] - stage_.mean) * stage_.scale[k] + stage_.shift[k];
      }
    }
  }
  // Where there are kTogether input channels, or a multiple of kTogether = kLanes.
  template <int kTogether>
  void norm_together(const float* from, float* to) const {
    const int64_t stride = kTogether == kLanes ? stage_.in : kLanes;
    const Vec mean = broadcast(stage_.mean);
    for (int64_t k = 0; k < stage_.in; k += kTogether) {
      const Vec scale = load(stage_.scale + k), shift = load(stage_.shift + k);
      Vec v[kTogether];
#pragma GCC unroll 16
      for (int i = 0; i < kTogether; ++i) {
        const float* at = from + i * stride + k;
        __builtin_prefetch(at + stage_.ahead());
        v[i] = (load(at) - mean) * scale + shift;
      }
      separate<kTogether>(v);
#pragma GCC unroll 16
      for (int i = 0; i < kTogether; ++i) store(to + (k + i) * kPanel, v[i]);
    }
  }

  // ---- Maps.

  // Row `row`, -1 <= row < rows: its outer taps meet the input's rows `row` and `row` + 1.
  void make_maps(int64_t row, Scratch& scratch) const {
    const float* here = panel_of(row, scratch);
    const float* below = panel_of(row + 1, scratch);
    const RowOfTaps inner[] = {{1, here}}, outer[] = {{0, here}, {2, below}};
    const int64_t slot = (row + kRing) % kRing;
    make_row(inner, 1, scratch, scratch.inner[slot]);
    make_row(outer, 2, scratch, scratch.outer[slot]);
    const int64_t from_top = row + 1, from_bottom = row - (stage_.rows - kEnds);
    if (from_top < kEnds) make_row(outer + 1, 1, scratch, scratch.no_first[from_top]);
    if (from_bottom >= 0) make_row(outer, 1, scratch, scratch.no_last[from_bottom]);
  }

  void make_row(const RowOfTaps* rows, int count, const Scratch& scratch, float* to) const {
    const int64_t columns = scratch.end - scratch.begin;
    for (int64_t i = 0; i < columns + kMargins; i += kRun) {
      Vec inner[kChannels][kWide] = {}, outer[kChannels][kWide] = {};
      if (rows->number == 1) {
        for (int c = 0; c < kChannels; ++c) {
          for (Vec& sum : inner[c]) sum = broadcast(bias_[c]);
        }
      }
      add_products<true, true>(rows, count, i, inner, outer);
      store_pixels(inner, to + i * kChannels);
      store_pixels(outer, to + scratch.outer_columns() + i * kChannels);
    }
    if (scratch.begin == 0) make_side<false, true>(rows, count, 0, to + scratch.no_first_column());
    if (scratch.end == stage_.columns) {
      make_side<true, false>(rows, count, columns - 1, to + scratch.no_last_column());
    }
  }
  template <bool kFirst, bool kLast>
  void make_side(const RowOfTaps* rows, int count, int64_t pixel, float* to) const {
    Vec inner[kChannels][1], outer[kChannels][1] = {};
    add_products<kFirst, kLast>(rows, count, pixel, inner, outer);
    store_pixels(outer, to);
  }

  // Adds the products of N vectors of pixels, from `pixel` on, with these rows of taps: with the
  // inner column of taps, if both of the outer ones are wanted, and with those.
  template <bool kFirst, bool kLast, int N>
  inline __attribute__((always_inline)) void add_products(const RowOfTaps* rows, int count,
                                                          int64_t pixel, Vec (&inner)[kChannels][N],
                                                          Vec (&outer)[kChannels][N]) const {
    const int64_t in = stage_.in;
    for (int r = 0; r < count; ++r) {
      const float* weights = taps_ + rows[r].number * 3 * in * kChannels;
      const float* panel = rows[r].panel + pixel;
      for (int64_t k = 0; k < in; ++k, panel += kPanel, weights += 3 * kChannels) {
        Vec here[N], next[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          here[n] = load(panel + n * kLanes);
          next[n] = load(panel + n * kLanes + 1);
        }
#pragma GCC unroll 8
        for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) {
            if constexpr (kFirst) outer[c][n] += weights[c] * here[n];
            if constexpr (kFirst && kLast) inner[c][n] += weights[kChannels + c] * here[n];
            if constexpr (kLast) outer[c][n] += weights[2 * kChannels + c] * next[n];
          }
        }
      }
    }
  }

  template <int N>
  static inline __attribute__((always_inline)) void store_pixels(const Vec (&sums)[kChannels][N],
                                                                 float* to) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      Vec v[kChannels];
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) v[c] = sums[c][n];
      interleave<kChannels>(v);
#pragma GCC unroll 8
      for (int c = 0; c < kChannels; ++c) store(to + (n * kChannels + c) * kLanes, v[c]);
    }
  }

  // ---- Resizing.

  // Low-resolution row r: two rows of the result.
  void resize_rows(int64_t r, const Scratch& scratch) const {
    Rows inner, outer, first, last;
    for (int k = 0; k < kRing; ++k) {
      const int64_t row = max(-1, min(stage_.rows - 1, r + k - kReach));
      inner.at[k] = scratch.inner[(row + kRing) % kRing];
      outer.at[k] = scratch.outer[(row + kRing) % kRing];
      first.at[k] = scratch.no_first[min(kEnds - 1, row + 1)];
      last.at[k] = scratch.no_last[max(0, row - (stage_.rows - kEnds))];
    }
    const bool top = r == 0, bottom = r == stage_.rows - 1;
    resize_down(inner, outer, scratch, top ? scratch.unused : scratch.upper,
                bottom ? scratch.unused : scratch.lower);
    if (top) resize_down(inner, first, scratch, scratch.upper, scratch.unused);
    if (bottom) resize_down(inner, last, scratch, scratch.unused, scratch.lower);
    resize_along(scratch.upper, 2 * r, scratch);
    resize_along(scratch.lower, 2 * r + 1, scratch);
  }

  // Rows of maps, from kReach above to kReach below. Arguments are copies: stores leave them alone.
  struct Rows {
    const float* at[kRing];
  };
  void resize_down(Rows inner, Rows outer, const Scratch& scratch, float* upper,
                   float* lower) const {
    const int64_t count = scratch.end == stage_.columns ? scratch.no_last_column() + kSide
                          : scratch.begin == 0          ? scratch.no_last_column()
                                                        : scratch.no_first_column();
    for (int64_t i = 0; i < count; i += kLanes) {
      const Pair pair = resize([&](int k) { return load(inner.at[k] + i); },
                               [&](int k) { return load(outer.at[k] + i); });
      store(upper + i, pair.first);
      store(lower + i, pair.second);
    }
  }

  static inline __attribute__((always_inline)) Pair along(const float* inner, const float* outer) {
    return resize([&](int k) { return load(inner + k * kChannels); },
                  [&](int k) { return load(outer + k * kChannels); });
  }

  void resize_along(const float* maps, int64_t number, const Scratch& scratch) const {
    const Finish finish = finish_;  // which stores leave alone
    const int64_t floats = (scratch.end - scratch.begin) * kChannels, count = 2 * floats;
    const ResultRow row(stage_, edge_features_, number, scratch.begin, count, scratch.edge_row);
    float* to = y_ + 2 * (number * stage_.columns + scratch.begin) * kChannels;
    const int64_t outer = scratch.outer_columns();
    const auto pixels_of_vector = [=](const float* at, const float* e, float* result) {
      const Pair pair = along(at, at + outer);
      finish.wholly(result, zip_low<kChannels>(pair.first, pair.second), e);
      finish.wholly(result + kLanes, zip_high<kChannels>(pair.first, pair.second), e + kLanes);
    };
    const float* e = row.e;
    int64_t i = 0;
    for (; i + kLanes <= floats; i += kLanes) pixels_of_vector(maps + i, e + 2 * i, to + 2 * i);
    if (i < floats) {
      float some_e[2 * kLanes], some[2 * kLanes];
      copy_floats(e + 2 * i, count - 2 * i, some_e);
      pixels_of_vector(maps + i, some_e, some);
      copy_floats(some, count - 2 * i, to + 2 * i);
    }
    if (scratch.begin == 0) {
      const Vec sum = along(maps, maps + scratch.no_first_column()).first;
      store_partial(to, finish(sum, row.at_end(true, row.e, 0, kChannels)), kChannels);
    }
    if (scratch.end == stage_.columns) {
      const int64_t end = count - kChannels;
      const Vec sum = along(maps + floats - kChannels, maps + scratch.no_last_column()).second;
      store_partial(to + end, finish(sum, row.at_end(false, row.e + end, 0, kChannels)), kChannels);
    }
  }

  const UpsampleStage stage_;
  const EdgeFeatures edge_features_;
  const float *taps_, *bias_;  // [row, in, column, kChannels], [kChannels]
  const Finish finish_;
  float* const y_;
  const int64_t strips_, strip_;  // columns in strips of so many
  const int64_t blocks_;          // of rows
};

template <int kChannels>
void upsample(const UpsampleStage& stage, const EdgeFeatures& edge_features, const float* packed,
              bool activate, float* y, const Memory& memory, const Parallel& parallel) {
  const FewChannels<kChannels> all(stage, edge_features, packed, activate, y);
  for_blocks(all.tasks(), all.scratch_floats(), memory, parallel,
             [&](int64_t task, float* scratch) { all.run(task, scratch); });
}

}  // namespace

size_t packed_few_channels_size(int64_t in, int64_t out) {
  return static_cast<size_t>((kTaps * in + 1) * out);
}

void pack_few_channels(const UpsampleWeights& weights, float* packed) {
  const int64_t in = weights.in_channels, out = weights.out_channels;
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t k = 0; k < in; ++k) {
      for (int64_t i = 0; i < 3 * out; ++i) {
        *packed++ = weights.conv_weight[(i % out * in + k) * kTaps + row * 3 + i / out];
      }
    }
  }
  copy_floats(weights.conv_bias, out, packed);
}

void upsample_few_channels(const UpsampleStage& stage, const EdgeFeatures& edge_features,
                           const float* packed, bool activate, float* y, const Memory& memory,
                           const Parallel& parallel) {
  const auto run = [&](auto kernel) {
    kernel(stage, edge_features, packed, activate, y, memory, parallel);
  };
  if (stage.out == 1) return run(upsample<1>);
  if (stage.out == 2) return run(upsample<2>);
  if constexpr (kLanes > 4) {
    if (stage.out == 4) return run(upsample<4>);
  }
  if constexpr (kLanes > 8) run(upsample<8>);
}

}  // namespace i2f::I2F_TIER
