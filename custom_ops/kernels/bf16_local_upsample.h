#pragma once

#include "kernels/local_upsample.h"

namespace i2f {

// Bytes of the packed parameters of a stage; 0 where the tier has nothing faster than
// local_upsample for so many channels.
using PackedBf16UpsampleSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges the parameters for bf16_local_upsample; `packed` is aligned to 64 bytes.
using PackBf16UpsampleKernel = void(const UpsampleWeights& weights, void* packed);

// Bf16LocalUpsample of OPERATORS.md: as local_upsample. `packed` is what pack_bf16_upsample of the
// same tier wrote.
using Bf16LocalUpsampleKernel = void(const float* x, int64_t rows, int64_t columns,
                                     int64_t in_channels, int64_t out_channels,
                                     const EdgeFeatures& edge_features, const void* packed,
                                     float epsilon, bool activate, float* y, const Memory& memory,
                                     const Parallel& parallel);

}  // namespace i2f
