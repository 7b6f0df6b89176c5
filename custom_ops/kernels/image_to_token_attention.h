#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The numbers of one ImageToTokenAttention call (OPERATORS.md), all at least 1 but for `rows`.
struct ImageToTokenSizes {
  int64_t rows;      // L image tokens; 0 is fine
  int64_t tokens;    // T that they attend to
  int64_t width;     // D of queries, keys and values over all heads
  int64_t heads;     // that divide D
  int64_t inputs;    // I of what is projected to queries
  int64_t channels;  // C of an image token
};

// Its tensors, as OPERATORS.md lays them out.
struct ImageToTokenInputs {
  const float *query, *query_input;        // [L, D], [L, I]
  const float *query_weight, *query_bias;  // [D, I], [D]
  const float *key, *value;                // [T, D]
  const float* image;                      // [L, C]
  const float *out_weight, *out_bias;      // [C, D], [C]
  const float *norm_weight, *norm_bias;    // [C]
};

// ImageToTokenAttention of OPERATORS.md: out [L, C], no overlap. What an image token becomes
// depends on that token and the T others alone.
using ImageToTokenAttentionKernel = void(const ImageToTokenSizes& sizes,
                                         const ImageToTokenInputs& inputs, float epsilon,
                                         float* out, const Memory& memory,
                                         const Parallel& parallel);

}  // namespace i2f
