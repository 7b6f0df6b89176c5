#pragma once

#include "kernels/hybrid_experts.h"

namespace i2f {

// Bytes of the packed parameters; 0 where the tier has nothing faster than hybrid_experts for these
// sizes.
using PackedBf16ExpertsSizeKernel = size_t(const ExpertSizes& sizes);

// Rearranges the parameters for bf16_hybrid_experts; `packed` is aligned to 64 bytes.
using PackBf16ExpertsKernel = void(const ExpertSizes& sizes, const ExpertWeights& weights,
                                   void* packed);

// Bf16HybridExperts of OPERATORS.md: as hybrid_experts. `packed` is what pack_bf16_experts of the
// same tier wrote. Each token's result depends on that token alone, and on whether it is an edge
// token.
using Bf16HybridExpertsKernel = void(const float* x, int64_t tokens, const int64_t* edge,
                                     int64_t edges, const ExpertSizes& sizes, const void* packed,
                                     float epsilon, float* out, const Memory& memory,
                                     const Parallel& parallel);

}  // namespace i2f
