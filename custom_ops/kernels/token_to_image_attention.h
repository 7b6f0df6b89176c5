#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The numbers of one TokenToImageAttention call (OPERATORS.md), all at least 1.
struct TokenToImageSizes {
  int64_t tokens;    // T
  int64_t rows;      // L image tokens that they attend to
  int64_t width;     // D of queries, keys and values over all heads
  int64_t heads;     // that divide D
  int64_t channels;  // C of an image token
  int64_t values;    // rows of `value`: 1 or L
};

// Its tensors, as OPERATORS.md lays them out.
struct TokenToImageInputs {
  const float* query;                      // [T, D]
  const float* image;                      // [L, C]
  const float* key;                        // [L, D]
  const float *key_weight, *value_weight;  // [D, C]
  const float* value;                      // [values, D]
};

// TokenToImageAttention of OPERATORS.md: out [T, D], no overlap.
using TokenToImageAttentionKernel = void(const TokenToImageSizes& sizes,
                                         const TokenToImageInputs& inputs, float* out,
                                         const Memory& memory, const Parallel& parallel);

}  // namespace i2f
