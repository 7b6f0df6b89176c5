// A residual block of the edge network: two convolutions, each behind a norm and SiLU. The norm and
// the activation happen as a convolution reads its input, bias and residual as it writes, and the
// statistics of what the first one writes as it goes: a block reads and writes each map once, but
// for the statistics of its input.
//
// Channels that fill vectors: Winograd's F(4x4, 3x3), a tile of 4x4 pixels from 6x6 with 36
// products a pair of channels where the plain formula has 144. Its error grows with the points it
// interpolates at; 0, +-5/8, +-3/2 and infinity lose less than half as much as the usual 0, +-1,
// +-2 (2.5e-7 instead of 5.5e-7 of the largest value, root mean square, 256 channels; the plain
// formula 0.4e-7: python scripts/winograd_points.py), and all their powers below are exact in
// float32.
//
// Fewer channels, a power of two: the lanes hold the channels of a few neighbouring pixels, and the
// plain formula reads rows that stay in the cache.

#include "kernels/edge_block.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/moments.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {
namespace {

struct Map {
  const float* data;
  int64_t rows, columns, channels;
};

// (x - mean) * scale + shift, then SiLU.
struct Norm {
  float mean;
  const float *scale, *shift;
};

// ---- Winograd.

constexpr int kTile = 4;                // pixels of a tile's side
constexpr int kSide = 6;                // pixels that they are made of
constexpr int kPoints = kSide * kSide;  // products of a tile
constexpr double kA = 0.625, kB = 1.5;  // points 0, +-kA, +-kB, infinity
constexpr float kA1 = kA, kA2 = kA * kA, kA3 = kA * kA * kA;
constexpr float kB1 = kB, kB2 = kB * kB, kB3 = kB * kB * kB;
constexpr float kSum = kA * kA + kB * kB, kProduct = kA * kA * kB * kB;

// Where the packed parameters lie, in floats.
struct Layout {
  explicit Layout(int64_t channels)
      : few_channels(channels < kLanes && (channels & (channels - 1)) == 0),
        vectors(channels <= kLanes ? 1 : 2),
        width(few_channels ? kLanes : round_up(channels, vectors * kLanes)),
        panels(width / (vectors * kLanes)),
        panel((channels + 1) * vectors * kLanes),
        weights(few_channels ? 9 * channels * kLanes : panels * kPoints * panel),
        half(3 * width + weights) {}

  bool few_channels;
  int64_t vectors;  // of a panel
  int64_t width;    // of norm and bias: channels in whole panels
  int64_t panels;   // of output channels, for each kPoints panels of weights
  int64_t panel, weights;
  int64_t half;  // norm's scale and shift, bias, weights
};

inline __attribute__((always_inline)) void transform_input(const Vec (&d)[kSide],
                                                           Vec (&to)[kSide]) {
  const Vec a = broadcast(kA1), a2 = broadcast(kA2), b = broadcast(kB1), b2 = broadcast(kB2);
  const Vec even_a = d[4] - b2 * d[2], odd_a = a * (d[3] - b2 * d[1]);
  const Vec even_b = d[4] - a2 * d[2], odd_b = b * (d[3] - a2 * d[1]);
  to[0] = d[4] - broadcast(kSum) * d[2] + broadcast(kProduct) * d[0];
  to[1] = even_a + odd_a;
  to[2] = even_a - odd_a;
  to[3] = even_b + odd_b;
  to[4] = even_b - odd_b;
  to[5] = d[5] - broadcast(kSum) * d[3] + broadcast(kProduct) * d[1];
}

inline __attribute__((always_inline)) void transform_output(const Vec (&m)[kSide],
                                                            Vec (&to)[kTile]) {
  const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const Vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  to[0] = m[0] + sum_a + sum_b;
  to[1] = broadcast(kA1) * difference_a + broadcast(kB1) * difference_b;
  to[2] = broadcast(kA2) * sum_a + broadcast(kB2) * sum_b;
  to[3] = m[5] + broadcast(kA3) * difference_a + broadcast(kB3) * difference_b;
}

// The weights' transform, [6, 3]: powers of the point over the product of its distances to the
// others.
void weight_matrix(double (&g)[kSide][3]) {
  const double a2 = kA * kA, b2 = kB * kB;
  const double scale[kSide] = {1 / (a2 * b2),
                               1 / (2 * a2 * (a2 - b2)),
                               1 / (2 * a2 * (a2 - b2)),
                               1 / (2 * b2 * (b2 - a2)),
                               1 / (2 * b2 * (b2 - a2)),
                               0};
  const double points[kSide] = {0, kA, -kA, kB, -kB, 0};
  for (int i = 0; i < kSide; ++i) {
    g[i][0] = scale[i];
    g[i][1] = scale[i] * points[i];
    g[i][2] = i == kSide - 1 ? 1 : scale[i] * points[i] * points[i];
  }
}

inline Vec load_channels(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_partial(p, static_cast<int>(count));
}
inline void store_channels(float* p, Vec v, int64_t count) {
  count >= kLanes ? store(p, v) : store_partial(p, v, static_cast<int>(count));
}

// One convolution of a map by tiles, counted along the rows; N vectors of output channels a panel.
template <int N>
struct Winograd {
  static constexpr int kHeight = kTileRows<N>;  // tiles that are multiplied together
  static constexpr int64_t kBlock = (27 / kHeight + 1) * kHeight;  // tiles that are in hand
  static constexpr int64_t kWide = N * kLanes;

  Winograd(const Map& x, const Norm& norm, const Layout& layout, const float* packed,
           const float* residual, float* y)
      : x(x),
        norm(norm),
        layout(layout),
        bias(packed + 2 * layout.width),
        weights(packed + 3 * layout.width),
        residual(residual),
        y(y),
        depth(round_up(x.channels, kLanes)),
        tile_columns(ceil_div(x.columns, kTile)),
        tiles(ceil_div(x.rows, kTile) * tile_columns) {}

  int64_t blocks() const { return ceil_div(tiles, kBlock); }
  int64_t scratch_floats() const { return kPoints * (depth + kBlock * depth + kBlock * kWide); }

  // Makes block `block` of the result; its moments, if they are asked for.
  void run(int64_t block, float* scratch, Moments* moments) const {
    const int64_t begin = block * kBlock, end = min(tiles, begin + kBlock);
    float* inputs = scratch + kPoints * depth;            // [kPoints][kBlock][depth]
    float* products = inputs + kPoints * kBlock * depth;  // [kPoints][kBlock][kWide]
    gather(begin, end, scratch, inputs);
    if (moments != nullptr) *moments = {};
    for (int64_t p = 0; p < layout.panels; ++p) {
      multiply_all(end - begin, inputs, weights + p * kPoints * layout.panel, products);
      scatter(begin, end, p * kWide, products, moments);
    }
  }

  // The tiles' pixels, normalised, activated and transformed: down the columns first, of which
  // neighbouring tiles share two.
  void gather(int64_t begin, int64_t end, float* columns, float* inputs) const {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t / tile_columns * kTile - 1, column = t % tile_columns * kTile - 1;
      const bool continued = t > begin && column > 0;
      for (int64_t j = continued ? kSide - kTile : 0; j < kSide; ++j) {
        transform_column(row, column + j, slot(columns, column + j));
      }
      const float* from[kSide];
      for (int j = 0; j < kSide; ++j) from[j] = slot(columns, column + j);
      for (int i = 0; i < kSide; ++i) {
        for (int64_t c = 0; c < depth; c += kLanes) {
          Vec d[kSide], v[kSide];
#pragma GCC unroll 6
          for (int j = 0; j < kSide; ++j) d[j] = load(from[j] + i * depth + c);
          transform_input(d, v);
          float* to = inputs + (i * kSide * kBlock + (t - begin)) * depth + c;
#pragma GCC unroll 6
          for (int j = 0; j < kSide; ++j) store(to + j * kBlock * depth, v[j]);
        }
      }
    }
  }

  float* slot(float* columns, int64_t column) const {
    return columns + (column + kSide) % kSide * kSide * depth;
  }

  void transform_column(int64_t row, int64_t column, float* to) const {
    if (column < 0 || column >= x.columns) {
      for (int64_t i = 0; i < kSide * depth; i += kLanes) store(to + i, Vec{});
      return;
    }
    const Vec mean = broadcast(norm.mean);
    for (int64_t c = 0; c < depth; c += kLanes) {
      const Vec scale = load(norm.scale + c), shift = load(norm.shift + c);
      Vec d[kSide], v[kSide];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) {
        d[i] = Vec{};
        if (row + i < 0 || row + i >= x.rows) continue;
        const float* from = x.data + ((row + i) * x.columns + column) * x.channels + c;
        d[i] = silu((load_channels(from, x.channels - c) - mean) * scale + shift);
      }
      transform_input(d, v);
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) store(to + i * depth + c, v[i]);
    }
  }

  void multiply_all(int64_t count, const float* inputs, const float* panel, float* products) const {
    for (int64_t point = 0; point < kPoints; ++point) {
      for (int64_t first = 0; first < count; first += kHeight) {
        const float* rows[kHeight];
        for (int64_t m = 0; m < kHeight; ++m) {  // behind the last tile, the last one again
          rows[m] = inputs + (point * kBlock + min(first + m, count - 1)) * depth;
        }
        Vec sums[kHeight][N];
        multiply<kHeight, N>(rows, panel, x.channels, sums);
        float* to = products + (point * kBlock + first) * kWide;
#pragma GCC unroll 32
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) store(to + m * kWide + n * kLanes, sums[m][n]);
        }
      }
      panel += layout.panel;
    }
  }

  // Tiles of the result, channels [channel, channel + kWide).
  void scatter(int64_t begin, int64_t end, int64_t channel, const float* products,
               Moments* moments) const {
    for (int64_t n = 0; n < N; ++n) {
      const int64_t first = channel + n * kLanes, count = x.channels - first;
      if (count <= 0) return;
      const Vec offset = load(bias + first);
      LaneMoments lanes;
      for (int64_t t = begin; t < end; ++t) {
        const float* from = products + (t - begin) * kWide + n * kLanes;
        Vec half[kSide][kTile];
#pragma GCC unroll 6
        for (int j = 0; j < kSide; ++j) {
          Vec m[kSide];
#pragma GCC unroll 6
          for (int i = 0; i < kSide; ++i) {
            m[i] = load(from + (i * kSide + j) * kBlock * kWide);
          }
          transform_output(m, half[j]);
        }
        const int64_t row = t / tile_columns * kTile, column = t % tile_columns * kTile;
        const int64_t height = x.rows - row, width = x.columns - column;
#pragma GCC unroll 4
        for (int i = 0; i < kTile; ++i) {
          if (i >= height) break;
          Vec m[kSide], out[kTile];
#pragma GCC unroll 6
          for (int j = 0; j < kSide; ++j) m[j] = half[j][i];
          transform_output(m, out);
          const int64_t at = ((row + i) * x.columns + column) * x.channels + first;
#pragma GCC unroll 4
          for (int j = 0; j < kTile; ++j) {
            if (j >= width) break;
            Vec v = out[j] + offset;
            if (residual != nullptr) v += load_channels(residual + at + j * x.channels, count);
            store_channels(y + at + j * x.channels, v, count);
            if (moments != nullptr) lanes.add(v);
          }
        }
        lanes.end_tile();
      }
      if (moments != nullptr) moments->add(lanes.moments(count));
    }
  }

  Map x;
  Norm norm;
  const Layout& layout;
  const float *bias, *weights;
  const float* residual;
  float* y;
  int64_t depth;
  int64_t tile_columns, tiles;
};

// ---- Few channels.

// Lane i is channel kChannel of its pixel.
template <int kChannels, int kChannel>
struct OfPixel {
  static constexpr int at(int i) { return i / kChannels * kChannels + kChannel; }
};

template <int kChannels>
struct FewChannels {
  static constexpr int kRows = 4;  // of the result, made together
  static constexpr int kHeld = kRows + 2;
  static constexpr int64_t kBand = 32;  // rows of a block

  FewChannels(const Map& x, const Norm& norm, const Layout& layout, const float* packed,
              const float* residual, float* y)
      : x(x),
        norm(norm),
        bias(packed + 2 * layout.width),
        weights(packed + 3 * layout.width),
        residual(residual),
        y(y),
        row_floats(x.columns * kChannels),
        stride(round_up(row_floats + 2 * kChannels, kLanes) + 2 * kLanes) {}

  int64_t blocks() const { return ceil_div(x.rows, kBand); }
  int64_t scratch_floats() const { return kHeld * stride; }

  void run(int64_t block, float* scratch, Moments* moments) const {
    const int64_t begin = block * kBand, end = min(x.rows, begin + kBand);
    if (moments != nullptr) *moments = {};
    for (int64_t row = begin; row < end; row += kRows) {
      for (int64_t r = row == begin ? row - 1 : row + 1; r < row + kRows + 1; ++r) {
        activate(r, held(scratch, r));
      }
      const float* rows[kHeld];
      for (int i = 0; i < kHeld; ++i) rows[i] = held(scratch, row - 1 + i);
      const int64_t count = min(kRows, end - row);
      convolve(rows, row, count);
      if (moments != nullptr) {
        moments->add(moments_of_chunks(y + row * row_floats, count * row_floats));
      }
    }
  }

  float* held(float* scratch, int64_t row) const {
    return scratch + (row + kHeld) % kHeld * stride;
  }

  // Row `row`, normalised and activated, behind a pixel of zeros and before more of them.
  void activate(int64_t row, float* to) const {
    if (row < 0 || row >= x.rows) {
      for (int64_t i = 0; i < stride; i += kLanes) store(to + i, Vec{});
      return;
    }
    const Vec mean = broadcast(norm.mean), scale = load(norm.scale), shift = load(norm.shift);
    const float* from = x.data + row * row_floats;
    for (int c = 0; c < kChannels; ++c) to[c] = 0;
    int64_t i = 0;
    for (; i + kLanes <= row_floats; i += kLanes) {
      store(to + kChannels + i, silu((load(from + i) - mean) * scale + shift));
    }
    const int left = static_cast<int>(row_floats - i);
    const Vec last = silu((load_partial(from + i, left) - mean) * scale + shift);
    for (int64_t k = i + kChannels; k < stride; ++k) to[k] = 0;
    store_partial(to + kChannels + i, last, left);
  }

  void convolve(const float* const (&rows)[kHeld], int64_t row, int64_t count) const {
    const float* const w = weights;
    const Vec offset = load(bias);
    for (int64_t i = 0; i < row_floats; i += 2 * kLanes) {
      Vec sums[kRows][2];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = offset;
#pragma GCC unroll 6
      for (int h = 0; h < kHeld; ++h) {
#pragma GCC unroll 3
        for (int dx = 0; dx < 3; ++dx) {
          const float* at = rows[h] + i + dx * kChannels;
          add_pixels<0>(load(at), load(at + kLanes), w + dx * kChannels * kLanes, h, sums);
        }
      }
      for (int r = 0; r < count; ++r) {
        const int64_t at = (row + r) * row_floats + i;
        finish(at, sums[r][0], row_floats - i);
        finish(at + kLanes, sums[r][1], row_floats - i - kLanes);
      }
    }
  }

  // What the pixels of held row h add to the rows that see it, from channel kChannel on.
  template <int kChannel>
  static inline __attribute__((always_inline)) void add_pixels(Vec first, Vec second,
                                                               const float* w, int h,
                                                               Vec (&sums)[kRows][2]) {
    if constexpr (kChannel < kChannels) {
      using Of = OfPixel<kChannels, kChannel>;
      const Vec a = shuffle<Of>(first, first), b = shuffle<Of>(second, second);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        if (h - r < 0 || h - r > 2) continue;
        const Vec weight = load(w + ((h - r) * 3 * kChannels + kChannel) * kLanes);
        sums[r][0] += a * weight;
        sums[r][1] += b * weight;
      }
      add_pixels<kChannel + 1>(first, second, w, h, sums);
    }
  }

  void finish(int64_t at, Vec sum, int64_t left) const {
    if (left <= 0) return;
    if (residual != nullptr) sum += load_channels(residual + at, left);
    store_channels(y + at, sum, left);
  }

  Map x;
  Norm norm;
  const float *bias, *weights;
  const float* residual;
  float* y;
  int64_t row_floats, stride;
};

// ---- Both.

// Runs one half of a block; the moments of what it writes, if they are asked for.
template <class Convolution>
void run_half(const Convolution& convolution, Moments* moments, const Memory& memory,
              const Parallel& parallel) {
  const int64_t blocks = convolution.blocks();
  Moments* parts = moments == nullptr ? nullptr : take<Moments>(memory, blocks);
  for_blocks(blocks, convolution.scratch_floats(), memory, parallel,
             [&](int64_t b, float* scratch) {
               convolution.run(b, scratch, parts == nullptr ? nullptr : parts + b);
             });
  if (moments != nullptr) *moments = sum_of(parts, blocks);
}

template <class Convolution>
struct Choice {
  using Type = Convolution;
};

template <class Convolution>
void run_block(const Map& x, const Layout& layout, const float* packed, float epsilon, float* y,
               const Memory& memory, const Parallel& parallel) {
  const int64_t count = x.rows * x.columns * x.channels;
  float* scale = take<float>(memory, layout.width);
  const auto norm = [&](const Moments& moments, const float* half) {
    const float inverse = moments.inverse_deviation(epsilon);
    for (int64_t i = 0; i < layout.width; ++i) scale[i] = half[i] * inverse;
    return Norm{static_cast<float>(moments.mean), scale, half + layout.width};
  };
  float* hidden = take<float>(memory, count);
  Moments moments = moments_of_all(x.data, count, memory, parallel);
  const Norm first = norm(moments, packed);
  run_half(Convolution(x, first, layout, packed, nullptr, hidden), &moments, memory, parallel);
  packed += layout.half;
  const Norm second = norm(moments, packed);
  const Map middle{hidden, x.rows, x.columns, x.channels};
  run_half(Convolution(middle, second, layout, packed, x.data, y), nullptr, memory, parallel);
}

void pack_half(const EdgeBlockHalf& half, int64_t channels, const Layout& layout, float* packed) {
  float *scale = packed, *shift = packed + layout.width, *bias = packed + 2 * layout.width;
  for (int64_t i = 0; i < layout.width; ++i) {
    const int64_t c = layout.few_channels ? i % channels : i;
    const bool inside = c < channels;
    scale[i] = inside ? half.norm_weight[c] : 0;
    shift[i] = inside ? half.norm_bias[c] : 0;
    bias[i] = inside ? half.conv_bias[c] : 0;
  }
  float* to = packed + 3 * layout.width;
  if (layout.few_channels) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      for (int64_t from = 0; from < channels; ++from) {
        for (int i = 0; i < kLanes; ++i) {
          *to++ = half.conv_weight[(i % channels * channels + from) * 9 + tap];
        }
      }
    }
    return;
  }
  double g[kSide][3];
  weight_matrix(g);
  const int64_t wide = layout.vectors * kLanes;
  for (int64_t c = 0; c < layout.width; ++c) {
    float* column = to + c / wide * kPoints * layout.panel + c % wide;
    for (int64_t k = 0; k <= channels; ++k) {  // a panel begins with what its sums start from: 0
      const bool inside = c < channels && k > 0;
      const float* w = half.conv_weight + (c * channels + k - 1) * 9;
      for (int i = 0; i < kSide; ++i) {
        double row[3] = {0, 0, 0};
        for (int dx = 0; inside && dx < 3; ++dx) {
          for (int dy = 0; dy < 3; ++dy) row[dx] += g[i][dy] * w[dy * 3 + dx];
        }
        for (int j = 0; j < kSide; ++j) {
          double sum = 0;
          for (int dx = 0; dx < 3; ++dx) sum += row[dx] * g[j][dx];
          column[(i * kSide + j) * layout.panel + k * wide] = static_cast<float>(sum);
        }
      }
    }
  }
}

}  // namespace

size_t packed_edge_block_size(int64_t channels) {
  return static_cast<size_t>(2 * Layout(channels).half);
}

void pack_edge_block(const EdgeBlockHalf& first, const EdgeBlockHalf& second, int64_t channels,
                     float* packed) {
  const Layout layout(channels);
  pack_half(first, channels, layout, packed);
  pack_half(second, channels, layout, packed + layout.half);
}

void edge_block(const float* x, int64_t rows, int64_t columns, int64_t channels,
                const float* packed, float epsilon, float* y, const Memory& memory,
                const Parallel& parallel) {
  const Layout layout(channels);
  const Map map{x, rows, columns, channels};
  const auto run = [&](auto convolution) {
    using Convolution = typename decltype(convolution)::Type;
    run_block<Convolution>(map, layout, packed, epsilon, y, memory, parallel);
  };
  if (!layout.few_channels) {
    return layout.vectors == 1 ? run(Choice<Winograd<1>>()) : run(Choice<Winograd<2>>());
  }
  if (channels == 1) return run(Choice<FewChannels<1>>());
  if constexpr (kLanes > 2) {
    if (channels == 2) return run(Choice<FewChannels<2>>());
  }
  if constexpr (kLanes > 4) {
    if (channels == 4) return run(Choice<FewChannels<4>>());
  }
  if constexpr (kLanes > 8) {
    if (channels == 8) return run(Choice<FewChannels<8>>());
  }
}

}  // namespace i2f::I2F_TIER
