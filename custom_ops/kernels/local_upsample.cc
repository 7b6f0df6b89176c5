// conv3x3(bicubic2x(n)) = sum over the nine taps t of shift_t(bicubic2x(W_t n)): the convolution's
// products are taken at low resolution, four times fewer of them, and bicubic2x, which works on
// each channel alone, is left for the end, on few channels. How depends on how many they are.

#include "kernels/local_upsample.h"

#include "kernels/moments.h"
#include "kernels/upsample_stage.h"

namespace i2f::I2F_TIER {
namespace {

// Of the norm's parameters, as UpsampleStage has them.
int64_t norm_period(int64_t in) { return in % kLanes == 0 ? in : in * kLanes; }

}  // namespace

size_t packed_upsample_size(int64_t in_channels, int64_t out_channels) {
  return static_cast<size_t>(2 * norm_period(in_channels)) +
         (few_channels(out_channels) ? packed_few_channels_size(in_channels, out_channels)
                                     : packed_many_channels_size(in_channels, out_channels));
}

void pack_upsample(const UpsampleWeights& weights, float* packed) {
  const int64_t period = norm_period(weights.in_channels);
  for (int64_t i = 0; i < period; ++i) {
    packed[i] = weights.norm_weight[i % weights.in_channels];
    packed[period + i] = weights.norm_bias[i % weights.in_channels];
  }
  const auto pack = few_channels(weights.out_channels) ? pack_few_channels : pack_many_channels;
  pack(weights, packed + 2 * period);
}

void local_upsample(const float* x, int64_t rows, int64_t columns, int64_t in_channels,
                    int64_t out_channels, const EdgeFeatures& edge_features, const float* packed,
                    float epsilon, bool activate, float* y, const Memory& memory,
                    const Parallel& parallel) {
  const Moments moments = moments_of_all(x, rows * columns * in_channels, memory, parallel);
  const float inverse = moments.inverse_deviation(epsilon);
  const int64_t period = norm_period(in_channels);
  float* scale = take<float>(memory, period);
  for (int64_t i = 0; i < period; ++i) scale[i] = packed[i] * inverse;

  const UpsampleStage stage{x,
                            rows,
                            columns,
                            in_channels,
                            out_channels,
                            static_cast<float>(moments.mean),
                            scale,
                            packed + period,
                            period};
  const auto run = few_channels(out_channels) ? upsample_few_channels : upsample_many_channels;
  run(stage, edge_features, packed + 2 * period, activate, y, memory, parallel);
}

}  // namespace i2f::I2F_TIER
