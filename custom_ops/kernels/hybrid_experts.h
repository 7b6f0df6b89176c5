#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Sizes of a layer of experts, all at least 1.
struct ExpertSizes {
  int64_t channels;  // C
  int64_t hidden;    // H
  int64_t routed;    // R
};

// The parameters as OPERATORS.md lays them out; index 0 is the shared expert.
struct ExpertWeights {
  const float *input_norm_weight, *input_norm_bias;  // [C]
  const float *gate_weight, *gate_bias;              // [1+R, C], [1+R]
  const float* expert_bias;                          // [R]
  const float *w1, *b1, *w2, *b2;                    // [1+R, H, C], [1+R, H], twice
  const float *norm_weight, *norm_bias;              // [2, H]
  const float *w3, *b3;                              // [1+R, C, H], [1+R, C]
};

// Floats of the packed parameters.
using PackedExpertsSizeKernel = size_t(const ExpertSizes& sizes);

// Rearranges the parameters for hybrid_experts; `packed` is aligned to 64 bytes.
using PackExpertsKernel = void(const ExpertSizes& sizes, const ExpertWeights& weights,
                               float* packed);

// HybridExperts of OPERATORS.md: x [tokens, C] -> out [tokens, C], no overlap. `edge` holds `edges`
// strictly ascending indices in [0, tokens); sizes of 0 are fine. `packed` is what pack_experts of
// the same tier wrote. Each token's result depends on that token alone.
using HybridExpertsKernel = void(const float* x, int64_t tokens, const int64_t* edge, int64_t edges,
                                 const ExpertSizes& sizes, const float* packed, float epsilon,
                                 float* out, const Memory& memory, const Parallel& parallel);

}  // namespace i2f
