// conv3x3(bicubic2x(n)) = sum over the nine taps t of shift_t(bicubic2x(W_t n)): the convolution's
// products are taken at low resolution, four times fewer of them, and bicubic2x, which works on
// each channel alone, is left for the end, on few channels. How depends on how many they are.

#include "kernels/local_upsample.h"

#include "kernels/upsample_stage.h"

namespace i2f::I2F_TIER {
size_t packed_upsample_size(int64_t in_channels, int64_t out_channels) {
  return static_cast<size_t>(2 * norm_period(in_channels)) +
         (few_channels(out_channels) ? packed_few_channels_size(in_channels, out_channels)
                                     : packed_many_channels_size(in_channels, out_channels));
}

void pack_upsample(const UpsampleWeights& weights, float* packed) {
  const auto pack = few_channels(weights.out_channels) ? pack_few_channels : pack_many_channels;
  pack(weights, pack_norm(weights, packed));
}

void local_upsample(const float* x, int64_t rows, int64_t columns, int64_t in_channels,
                    int64_t out_channels, const EdgeFeatures& edge_features, const float* packed,
                    float epsilon, bool activate, float* y, const Memory& memory,
                    const Parallel& parallel) {
  float* scale = take<float>(memory, norm_period(in_channels));
  const UpsampleStage stage = normed_stage(x, rows, columns, in_channels, out_channels, packed,
                                           epsilon, scale, memory, parallel);
  const auto run = few_channels(out_channels) ? upsample_few_channels : upsample_many_channels;
  run(stage, edge_features, packed + 2 * stage.period, activate, y, memory, parallel);
}

}  // namespace i2f::I2F_TIER
