// A 3x3 convolution of stride 2 as a matrix product: the pixels that a pixel of the result sees lie
// side by side, zeros where they are outside the map, and one row of the product serves each.

#include "kernels/edge_downsample.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int64_t kTiles = 4;  // of pixels in a block

struct Layout {
  Layout(int64_t in, int64_t out)
      : vectors(out <= kLanes ? 1 : 2),
        depth(3 * in),
        panels(ceil_div(out, vectors * kLanes)),
        panel((depth + 1) * vectors * kLanes) {}
  int64_t vectors;
  int64_t depth;  // of a row of taps: each is summed from zero, or the sums would lose digits
  int64_t panels, panel;  // of output channels; for each, and each row of taps, a panel of weights
};

struct Map {
  const float* data;
  int64_t rows, columns, channels;
};

// What pixel (row, column) of the result sees, [3, 3, channels].
void gather(const Map& x, int64_t row, int64_t column, float* to) {
  const int64_t left = 2 * column - 1;
  const int64_t first = max(left, 0), last = min(left + 3, x.columns);
  for (int64_t y = 2 * row - 1; y < 2 * row + 2; ++y, to += 3 * x.channels) {
    const bool inside = y >= 0 && y < x.rows;
    const int64_t begin = inside ? (first - left) * x.channels : 3 * x.channels;
    const int64_t end = (last - left) * x.channels;
    for (int64_t i = 0; i < begin; ++i) to[i] = 0;
    if (!inside) continue;
    const float* from = x.data + (y * x.columns + left) * x.channels;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(to + i, load(from + i));
    for (; i < end; ++i) to[i] = from[i];
    for (; i < 3 * x.channels; ++i) to[i] = 0;
  }
}

template <int N>
void run(const Map& x, int64_t out, const Layout& layout, const float* packed, float* y,
         const Memory& memory, const Parallel& parallel) {
  constexpr int kHeight = kTileRows<N>;
  constexpr int64_t kBlock = kTiles * kHeight;
  const int64_t columns = (x.columns + 1) / 2, pixels = (x.rows + 1) / 2 * columns;
  for_blocks(
      ceil_div(pixels, kBlock), 3 * kBlock * layout.depth, memory, parallel,
      [&](int64_t block, float* scratch) {
        const int64_t begin = block * kBlock, count = min(kBlock, pixels - begin);
        for (int64_t i = 0; i < count; ++i) {
          gather(x, (begin + i) / columns, (begin + i) % columns, scratch + 3 * i * layout.depth);
        }
        for (int64_t p = 0; p < layout.panels; ++p) {
          const float* panel = packed + 3 * p * layout.panel;
          const int64_t channel = p * N * kLanes;
          for (int64_t first = 0; first < count; first += kHeight) {
            Vec results[kHeight][N] = {};
            for (int64_t dy = 0; dy < 3; ++dy) {
              const float* rows[kHeight];
              for (int64_t m = 0; m < kHeight; ++m) {  // behind the last pixel, the last one again
                rows[m] = scratch + (3 * min(first + m, count - 1) + dy) * layout.depth;
              }
              Vec sums[kHeight][N];
              multiply<kHeight, N>(rows, panel + dy * layout.panel, layout.depth, sums);
#pragma GCC unroll 32
              for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 2
                for (int n = 0; n < N; ++n) results[m][n] += sums[m][n];
              }
            }
            for (int64_t m = 0; m < min(kHeight, count - first); ++m) {
              float* to = y + (begin + first + m) * out + channel;
              for (int n = 0; n < N; ++n) {
                const int64_t left = out - channel - n * kLanes;
                if (left >= kLanes) {
                  store(to + n * kLanes, results[m][n]);
                } else if (left > 0) {
                  store_partial(to + n * kLanes, results[m][n], static_cast<int>(left));
                }
              }
            }
          }
        }
      });
}

}  // namespace

size_t packed_edge_downsample_size(int64_t in_channels, int64_t out_channels) {
  const Layout layout(in_channels, out_channels);
  return static_cast<size_t>(3 * layout.panels * layout.panel);
}

void pack_edge_downsample(const float* weight, const float* bias, int64_t in_channels,
                          int64_t out_channels, float* packed) {
  const Layout layout(in_channels, out_channels);
  const int64_t wide = layout.vectors * kLanes;
  for (int64_t c = 0; c < layout.panels * wide; ++c) {
    const bool inside = c < out_channels;
    for (int64_t dy = 0; dy < 3; ++dy) {
      float* to = packed + (3 * (c / wide) + dy) * layout.panel + c % wide;
      to[0] = inside && dy == 0 ? bias[c] : 0;
      for (int64_t k = 0; k < layout.depth; ++k) {
        const int64_t dx = k / in_channels, from = k % in_channels;
        to[(k + 1) * wide] = inside ? weight[(c * in_channels + from) * 9 + 3 * dy + dx] : 0;
      }
    }
  }
}

void edge_downsample(const float* x, int64_t rows, int64_t columns, int64_t in_channels,
                     int64_t out_channels, const float* packed, float* y, const Memory& memory,
                     const Parallel& parallel) {
  const Layout layout(in_channels, out_channels);
  const Map map{x, rows, columns, in_channels};
  if (layout.vectors == 1) return run<1>(map, out_channels, layout, packed, y, memory, parallel);
  run<2>(map, out_channels, layout, packed, y, memory, parallel);
}

}  // namespace i2f::I2F_TIER
