#pragma once

#include "kernels/edge_projection.h"

namespace i2f {

// Bytes of the packed parameters; channels are at least 1. 0 where the tier has nothing faster than
// edge_projection for so many.
using PackedBf16EdgeProjectionSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges the parameters for bf16_edge_projection; `packed` is aligned to 64 bytes.
using PackBf16EdgeProjectionKernel = void(const EdgeProjectionWeights& weights, void* packed);

// Bf16EdgeProjection of OPERATORS.md: as edge_projection. `packed` is what
// pack_bf16_edge_projection of the same tier wrote.
using Bf16EdgeProjectionKernel = void(const float* x, int64_t side, int64_t grid,
                                      int64_t in_channels, int64_t out_channels, const void* packed,
                                      const EdgeTerms& terms, const Memory& memory,
                                      const Parallel& parallel);

}  // namespace i2f
