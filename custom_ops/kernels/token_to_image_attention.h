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
};

// The weights that are packed, as OPERATORS.md lays them out.
struct TokenToImageWeights {
  const float *key_weight, *value_weight;  // [D, C]
};

// What differs from call to call.
struct TokenToImageInputs {
  const float* query;       // [T, D]
  const float* image;       // [L, C]
  const float* key;         // [L, D]
  const float* value_bias;  // [D]
};

// Floats of the packed weights; rows and tokens do not matter.
using PackedTokenToImageSizeKernel = size_t(const TokenToImageSizes& sizes);

// Rearranges the weights for the kernel below; `packed` is aligned to 64 bytes.
using PackTokenToImageKernel = void(const TokenToImageSizes& sizes,
                                    const TokenToImageWeights& weights, float* packed);

// TokenToImageAttention of OPERATORS.md: out [T, D], no overlap; `packed` is what
// pack_token_to_image of the same tier wrote of `weights`.
using TokenToImageAttentionKernel = void(const TokenToImageSizes& sizes,
                                         const TokenToImageInputs& inputs,
                                         const TokenToImageWeights& weights, const float* packed,
                                         float* out, const Memory& memory,
                                         const Parallel& parallel);

}  // namespace i2f
