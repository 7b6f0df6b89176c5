// A block of tokens goes through both doublings and the product with the mask's channels at once:
// what lies between, 32 times as large as the logits, stays in the cache.

#include "kernels/mask_upscaling.h"

#include "kernels/math.h"
#include "kernels/token_lanes.h"

namespace i2f::I2F_TIER {
namespace {

using namespace token_lanes;

constexpr int64_t kParts = 4;  // that a doubling makes of a pixel

class Upscaling {
 public:
  Upscaling(const MaskUpscalingSizes& sizes, const MaskUpscalingWeights& weights, const float* mask,
            float epsilon)
      : sizes_(sizes), weights_(weights), mask_(mask), epsilon_(epsilon) {}

  int64_t scratch_floats() const {
    return (sizes_.channels + sizes_.first_channels + kParts * sizes_.second_channels +
            kParts * kParts) *
           kWidth;
  }

  // Tokens [first, first + count) of x become their logits in out.
  void block(const float* x, int64_t first, int64_t count, float* scratch, float* out) const {
    const int64_t channels = sizes_.channels, d = sizes_.first_channels;
    float* once = scratch + channels * kWidth;
    float* twice = once + d * kWidth;
    float* logits = twice + kParts * sizes_.second_channels * kWidth;
    gather({x + first * channels, channels}, count, channels, scratch);
    for (int64_t part = 0; part < kParts; ++part) {
      fill(weights_.first_bias, d, once);
      add_product({weights_.first_weight + part * d * channels, channels}, d, channels, scratch,
                  once);
      layer_norm(once, d, epsilon_, weights_.norm_weight, weights_.norm_bias,
                 [](Vec v) { return gelu(v); });
      double_again(once, twice, logits + part * kParts * kWidth);
    }
    for (int64_t t = 0; t < count; ++t) place(first + t, logits + t, out);
  }

 private:
  // Pixels [D, kWidth] become logits [kParts, kWidth]; `twice` is room for [kParts, E, kWidth].
  void double_again(const float* once, float* twice, float* logits) const {
    const int64_t d = sizes_.first_channels, e = sizes_.second_channels;
    for (int64_t part = 0; part < kParts; ++part) {
      fill(weights_.second_bias, e, twice + part * e * kWidth);
    }
    add_product({weights_.second_weight, d}, kParts * e, d, once, twice);
    for (int64_t part = 0; part < kParts; ++part, logits += kWidth) {
      Vec sums[2] = {};
      for (int64_t i = 0; i < e; ++i, twice += kWidth) {
        for (int n = 0; n < 2; ++n) sums[n] += gelu(load(twice + n * kLanes)) * mask_[i];
      }
      for (int n = 0; n < 2; ++n) store(logits + n * kLanes, sums[n]);
    }
  }

  // The logits of one token, [kParts, kParts] that are kWidth apart, where they belong in the map.
  void place(int64_t token, const float* logits, float* out) const {
    const int64_t row = 4 * (token / sizes_.width), column = 4 * (token % sizes_.width);
    for (int64_t part = 0; part < kParts; ++part) {
      for (int64_t i = 0; i < kParts; ++i, logits += kWidth) {
        const int64_t y = row + part / 2 * 2 + i / 2, x = column + part % 2 * 2 + i % 2;
        out[y * 4 * sizes_.width + x] = *logits;
      }
    }
  }

  const MaskUpscalingSizes& sizes_;
  const MaskUpscalingWeights& weights_;
  const float* mask_;
  float epsilon_;
};

}  // namespace

void mask_upscaling(const MaskUpscalingSizes& sizes, const float* x,
                    const MaskUpscalingWeights& weights, const float* mask, float epsilon,
                    float* out, const Memory& memory, const Parallel& parallel) {
  const Upscaling upscaling(sizes, weights, mask, epsilon);
  for_token_blocks(sizes.height * sizes.width, upscaling.scratch_floats(), memory, parallel,
                   [&](int64_t first, int64_t count, float* scratch) {
                     upscaling.block(x, first, count, scratch, out);
                   });
}

}  // namespace i2f::I2F_TIER
