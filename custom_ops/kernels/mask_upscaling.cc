// A block of tokens goes through both doublings and the product with the mask's channels at once:
// what lies between, 32 times as large as the logits, stays in the cache.

#include "kernels/mask_upscaling.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;     // of a tile
constexpr int64_t kWidth = 2 * kLanes;  // of a panel
constexpr int64_t kTokens = 4 * kRows;  // of a block
constexpr int64_t kParts = 4;           // that a doubling makes of a pixel

// Where the packed parameters lie. Each part of a doubling has whole panels of its own.
struct Layout {
  explicit Layout(const MaskUpscalingSizes& sizes)
      : first_panels(ceil_div(sizes.first_channels, kWidth)),
        second_panels(ceil_div(sizes.second_channels, kWidth)),
        first_floats(panel_floats<2>(sizes.channels)),
        second_floats(panel_floats<2>(sizes.first_channels)),
        second(kParts * first_panels * first_floats),
        norm_weight(second + kParts * second_panels * second_floats),
        norm_bias(norm_weight + first_panels * kWidth),
        size(norm_bias + first_panels * kWidth) {}
  int64_t first_panels, second_panels;  // of a part
  int64_t first_floats, second_floats;  // of a panel
  int64_t second, norm_weight, norm_bias, size;
};

void pack_parts(const float* weight, const float* bias, int64_t columns, int64_t depth,
                int64_t panels, float* packed) {
  for (int64_t part = 0; part < kParts; ++part, weight += columns * depth) {
    for (int64_t panel = 0; panel < panels; ++panel, packed += panel_floats<2>(depth)) {
      for (int n = 0; n < 2; ++n) {
        const int64_t first = min(panel * kWidth + n * kLanes, columns);
        pack_columns(weight, bias, nullptr, columns, depth, first, n, 2, packed);
      }
    }
  }
}

void pad(const float* from, int64_t count, int64_t whole, float* to) {
  copy_floats(from, count, to);
  for (int64_t i = count; i < whole; ++i) to[i] = 0.0f;
}

}  // namespace

size_t packed_mask_upscaling_size(const MaskUpscalingSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).size);
}

void pack_mask_upscaling(const MaskUpscalingSizes& sizes, const MaskUpscalingWeights& weights,
                         float* packed, const Parallel& parallel) {
  const Layout at(sizes);
  parallel_for(parallel, 2, [&](size_t which) {
    if (which == 0) {
      pack_parts(weights.first_weight, weights.first_bias, sizes.first_channels, sizes.channels,
                 at.first_panels, packed);
    } else {
      pack_parts(weights.second_weight, weights.second_bias, sizes.second_channels,
                 sizes.first_channels, at.second_panels, packed + at.second);
    }
  });
  const int64_t whole = at.first_panels * kWidth;
  pad(weights.norm_weight, sizes.first_channels, whole, packed + at.norm_weight);
  pad(weights.norm_bias, sizes.first_channels, whole, packed + at.norm_bias);
}

void mask_upscaling(const MaskUpscalingSizes& sizes, const float* x, const float* packed,
                    const float* mask, float epsilon, float* out, const Memory& memory,
                    const Parallel& parallel) {
  const int64_t tokens = sizes.height * sizes.width;
  if (tokens == 0) return;
  const Layout at(sizes);
  const int64_t stride = at.first_panels * kWidth;  // of a pixel after the first doubling
  const int64_t width = at.second_panels * kWidth;  // of a part after the second one
  // The mask's channels, and all bits of a lane where there is a channel: what lies behind the last
  // one is no number where a pixel holds none.
  float* channels = take<float>(memory, width);
  int32_t* inside = take<int32_t>(memory, width);
  pad(mask, sizes.second_channels, width, channels);
  for (int64_t i = 0; i < width; ++i) inside[i] = i < sizes.second_channels ? -1 : 0;

  const auto double_once = [&](int64_t first, int64_t count, float* pixels) {
    const float* panel = packed;
    for (int64_t part = 0; part < kParts; ++part) {
      for (int64_t n = 0; n < stride; n += kWidth, panel += at.first_floats) {
        for_parts(0, count, kRows, [&](int64_t begin, int64_t end) {
          with_rows<kRows>(end - begin, [&](auto height) {
            constexpr int M = decltype(height)::kCount;
            const float* rows[M];
            for (int m = 0; m < M; ++m) rows[m] = x + (first + begin + m) * sizes.channels;
            Vec sums[M][2];
            multiply<M, 2>(rows, panel, sizes.channels, sums);
            float* to = pixels + (kParts * begin + part) * stride + n;
#pragma GCC unroll 32
            for (int m = 0; m < M; ++m) {
              store(to + m * kParts * stride, sums[m][0]);
              store(to + m * kParts * stride + kLanes, sums[m][1]);
            }
          });
        });
      }
    }
  };
  const auto activate = [&](float* pixel) {
    normalise(pixel, sizes.first_channels, epsilon, pixel);
    const float *weight = packed + at.norm_weight, *bias = packed + at.norm_bias;
    for (int64_t i = 0; i < sizes.first_channels; i += kLanes) {
      store(pixel + i, gelu(load(pixel + i) * load(weight + i) + load(bias + i)));
    }
  };
  // Where the first logit of pixel `i` of the block's first doubling goes.
  const auto place = [&](int64_t i) {
    const int64_t token = i / kParts, part = i % kParts;
    const int64_t row = 4 * (token / sizes.width) + part / 2 * 2;
    return out + row * 4 * sizes.width + 4 * (token % sizes.width) + part % 2 * 2;
  };
  const auto double_again = [&](int64_t first, int64_t count, const float* pixels) {
    for_parts(0, kParts * count, kRows, [&](int64_t begin, int64_t end) {
      with_rows<kRows>(end - begin, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float* rows[M];
        for (int m = 0; m < M; ++m) rows[m] = pixels + (begin + m) * stride;
        const float* panel = packed + at.second;
        for (int64_t part = 0; part < kParts; ++part) {
          Vec logits[M] = {};
          for (int64_t n = 0; n < width; n += kWidth, panel += at.second_floats) {
            Vec sums[M][2], v[M][2];
            multiply<M, 2>(rows, panel, sizes.first_channels, sums);
            copy(sums, v);
            for (int m = 0; m < M; ++m) {
              for (int j = 0; j < 2; ++j) {
                const int64_t c = n + j * kLanes;
                const Vec product = gelu(v[m][j]) * load(channels + c);
                const auto bits = (VecInt)load(reinterpret_cast<const float*>(inside + c));
                logits[m] += (Vec)((VecInt)product & bits);
              }
            }
          }
          const int64_t below = part / 2 * 4 * sizes.width + part % 2;
          for (int m = 0; m < M; ++m) {
            place(kParts * first + begin + m)[below] = sum_of_lanes(logits[m]);
          }
        }
      });
    });
  };
  const int64_t blocks = ceil_div(tokens, kTokens);
  for_blocks(blocks, kParts * kTokens * stride, memory, parallel, [&](int64_t b, float* pixels) {
    const int64_t first = tokens * b / blocks, count = tokens * (b + 1) / blocks - first;
    double_once(first, count, pixels);
    for (int64_t i = 0; i < kParts * count; ++i) activate(pixels + i * stride);
    double_again(first, count, pixels);
  });
}

}  // namespace i2f::I2F_TIER
