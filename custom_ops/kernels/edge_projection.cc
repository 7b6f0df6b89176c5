// The 1x1 convolution to edge features e and the 3x3 convolution of e are linear, and nothing lies
// between them: W_t e = (W_t L) x + W_t b for each tap t inside the map, 0 outside. So the nine tap
// maps of x hold everything: a pixel of conv3x3(e) is the sum of nine terms, one of each map, and
// border and corner terms are those of the nine that come from outside the pixel's token.
//
// A block is a band of rows; tap maps are made a row at a time, in a ring of three.

#include "kernels/edge_projection.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kTaps = 9;
constexpr int64_t kBand = 16;  // rows of a block

struct Layout {
  Layout(int64_t in, int64_t out)
      : vectors(kTaps * out <= kLanes ? 1 : 2),
        columns(kTaps * out),
        panels(ceil_div(columns, vectors * kLanes)),
        panel((in + 1) * vectors * kLanes),
        width(panels * vectors * kLanes) {}
  int64_t vectors;
  int64_t columns;  // tap and output channel
  int64_t panels, panel;
  int64_t width;  // of a pixel of the tap maps
};

// Which of the nine terms, by rows and columns of the convolution: [begin, end) of each.
struct Terms {
  int top, bottom, left, right;
};
constexpr Terms kAll{0, 3, 0, 3};
constexpr Terms kBorders[4] = {{0, 1, 0, 3}, {2, 3, 0, 3}, {0, 3, 0, 1}, {0, 3, 2, 3}};
constexpr Terms kCorners[4] = {{0, 1, 0, 1}, {0, 1, 2, 3}, {2, 3, 0, 1}, {2, 3, 2, 3}};

struct Projection {
  const float* x;
  int64_t side, grid, in, out;
  const Layout& layout;
  const float* packed;
  EdgeTerms to;

  int64_t row_floats() const { return side * layout.width; }

  void run(int64_t block, float* ring) const {
    const int64_t begin = block * kBand, end = min(side, begin + kBand);
    const auto held = [&](int64_t r) { return ring + (r + 3) % 3 * row_floats(); };
    for (int64_t r = begin - 1; r <= end; ++r) {
      if (r >= 0 && r < side) {
        const int first = r >= end ? 2 : 0, last = r < begin ? 1 : 3;  // rows of taps in use
        map_taps(r, 3 * first * out, 3 * last * out, held(r));
      }
      const int64_t y = r - 1;
      if (y < begin) continue;
      const float* rows[3];
      for (int i = 0; i < 3; ++i) {
        rows[i] = y + i - 1 < 0 || y + i - 1 >= side ? nullptr : held(y + i - 1);
      }
      finish_row(y, rows);
    }
  }

  // Columns [begin, end) of the tap maps of row r, and what else their panels hold.
  void map_taps(int64_t r, int64_t begin, int64_t end, float* ring) const {
    layout.vectors == 1 ? map_taps_of<1>(r, begin, end, ring) : map_taps_of<2>(r, begin, end, ring);
  }
  template <int N>
  void map_taps_of(int64_t r, int64_t begin, int64_t end, float* ring) const {
    constexpr int64_t kWide = N * kLanes;
    for (int64_t p = begin / kWide; p * kWide < end; ++p) {
      const float* panel = packed + p * layout.panel;
      for_parts(0, side, kTileRows<N>, [&](int64_t first, int64_t last) {
        with_rows<kTileRows<N>>(last - first, [&](auto height) {
          constexpr int M = decltype(height)::kCount;
          const float* rows[M];
          for (int m = 0; m < M; ++m) rows[m] = x + (r * side + first + m) * in;
          Vec sums[M][N];
          multiply<M, N>(rows, panel, in, sums);
          float* at = ring + first * layout.width + p * kWide;
#pragma GCC unroll 32
          for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) store(at + m * layout.width + n * kLanes, sums[m][n]);
          }
        });
      });
    }
  }

  void finish_row(int64_t y, const float* const (&rows)[3]) const {
    if (out % kLanes == 0) return finish_row_of<0>(y, rows);
    if (out == 1) return finish_row_of<1>(y, rows);
    if (out == 2) return finish_row_of<2>(y, rows);
    if (out == 4) return finish_row_of<4>(y, rows);
    if (out == 8) return finish_row_of<8>(y, rows);
    finish_row_of<-1>(y, rows);
  }

  // kChannels: how many there are, 0 for whole vectors, -1 for any number.
  template <int kChannels>
  void finish_row_of(int64_t y, const float* const (&rows)[3]) const {
    const int64_t s = side / grid, token = y / s;
    const auto put = [&](float* to, int64_t pixel, int64_t at, const Terms& terms) {
      sum<kChannels>(rows, at, terms, to + pixel * out);
    };
    for (int64_t i = 0; i < side; ++i) put(to.edge, y * side + i, i, kAll);
    const bool ends[2] = {y % s == 0, y % s == s - 1};
    for (int b = 0; b < 2; ++b) {
      if (!ends[b]) continue;
      for (int64_t i = 0; i < side; ++i) {
        put(to.border, (b * grid + token) * side + i, i, kBorders[b]);
      }
    }
    for (int64_t k = 0; k < grid; ++k) {
      const int64_t at[2] = {s * k, s * k + s - 1};
      for (int b = 0; b < 2; ++b) {
        put(to.border, ((2 + b) * grid + k) * side + y, at[b], kBorders[2 + b]);
        for (int c = 0; c < 2; ++c) {
          if (ends[c]) {
            put(to.corner, ((2 * c + b) * grid + token) * grid + k, at[b], kCorners[2 * c + b]);
          }
        }
      }
    }
  }

  // The sum of some terms of pixel `at`, those outside the map being 0.
  template <int kChannels>
  inline __attribute__((always_inline)) void sum(const float* const (&rows)[3], int64_t at,
                                                 const Terms& terms, float* result) const {
    const int left = at == 0 && terms.left == 0 ? 1 : terms.left;
    const int right = at == side - 1 && terms.right == 3 ? 2 : terms.right;
    const auto each = [&](const auto& body) {
      for (int dy = terms.top; dy < terms.bottom; ++dy) {
        if (rows[dy] == nullptr) continue;
        for (int dx = left; dx < right; ++dx) {
          body(rows[dy] + (at + dx - 1) * layout.width + (dy * 3 + dx) * out);
        }
      }
    };
    if constexpr (kChannels == 0) {
      for (int64_t c = 0; c < out; c += kLanes) {
        Vec total{};
        each([&](const float* term) { total += load(term + c); });
        store(result + c, total);
      }
    } else if constexpr (kChannels > 0) {
      float total[kChannels] = {};
      each([&](const float* term) {
        for (int c = 0; c < kChannels; ++c) total[c] += term[c];
      });
      for (int c = 0; c < kChannels; ++c) result[c] = total[c];
    } else {
      for (int64_t c = 0; c < out; ++c) {
        float total = 0;
        each([&](const float* term) { total += term[c]; });
        result[c] = total;
      }
    }
  }
};

}  // namespace

size_t packed_edge_projection_size(int64_t in_channels, int64_t out_channels) {
  const Layout layout(in_channels, out_channels);
  return static_cast<size_t>(layout.panels * layout.panel);
}

void pack_edge_projection(const EdgeProjectionWeights& weights, float* packed) {
  const int64_t in = weights.in_channels, middle = weights.middle_channels;
  const Layout layout(in, weights.out_channels);
  const int64_t wide = layout.vectors * kLanes;
  for (int64_t column = 0; column < layout.width; ++column) {
    float* to = packed + column / wide * layout.panel + column % wide;
    const int64_t tap = column / weights.out_channels, channel = column % weights.out_channels;
    const bool inside = column < layout.columns;
    for (int64_t k = 0; k <= in; ++k) {  // first what the lateral bias adds
      double sum = 0;
      for (int64_t m = 0; inside && m < middle; ++m) {
        const double w = weights.conv_weight[(channel * middle + m) * kTaps + tap];
        sum += w * (k == 0 ? weights.lateral_bias[m] : weights.lateral_weight[m * in + k - 1]);
      }
      to[k * wide] = static_cast<float>(sum);
    }
  }
}

void edge_projection(const float* x, int64_t side, int64_t grid, int64_t in_channels,
                     int64_t out_channels, const float* packed, const EdgeTerms& terms,
                     const Memory& memory, const Parallel& parallel) {
  const Layout layout(in_channels, out_channels);
  const Projection projection{x, side, grid, in_channels, out_channels, layout, packed, terms};
  for_blocks(ceil_div(side, kBand), 3 * projection.row_floats(), memory, parallel,
             [&](int64_t block, float* scratch) { projection.run(block, scratch); });
}

}  // namespace i2f::I2F_TIER
