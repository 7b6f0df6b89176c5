#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Sizes of a linear layer of tokens that are known but for a part of low rank (OPERATORS.md,
// LowRankLinear).
struct LowRankSizes {
  int64_t outputs;  // N, at least 1
  int64_t rank;     // r, at least 1
  int64_t roots;    // m, rows of the root, 0 to r
  bool gated;       // whether N is two halves, of which the first gates the second
};

// The parameters: weight [N, r], root [m, r] with zeros below its diagonal, bias [N].
struct LowRankWeights {
  const float *weight, *root, *bias;
};

// Floats of the packed parameters.
using PackedLowRankSizeKernel = size_t(const LowRankSizes& sizes);

// Rearranges the parameters for low_rank_linear; `packed` is aligned to 64 bytes.
using PackLowRankKernel = void(const LowRankSizes& sizes, const LowRankWeights& weights,
                               float* packed);

// Tokens that are x0 + B s: what is known of x0, `stride` floats from one token to the next, and s.
struct LowRankTokens {
  int64_t tokens;         // L
  const float* known;     // [L, stride], of each the first N + r + 1, or N floats
  int64_t stride;         // of `known`
  const float* state;     // [L, r]
  const int64_t* inside;  // [inside_count] strictly ascending in [0, L)
  int64_t inside_count;
};

// LowRankLinear of OPERATORS.md -> out [L, N], gated [L, N / 2]: 0 for tokens inside. `packed` is
// what pack_low_rank of the same tier wrote; `channels` is at least 1. Each token's result depends
// on that token alone.
using LowRankLinearKernel = void(const LowRankTokens& x, const LowRankSizes& sizes,
                                 const float* packed, int64_t channels, float epsilon, float* out,
                                 const Memory& memory, const Parallel& parallel);

// LowRankAdd of OPERATORS.md -> out [wanted_count, outputs] for the tokens `wanted`, strictly
// ascending in [0, L); `rows` [inside_count, outputs]. `packed` is what pack_linear of the same
// tier wrote of weight and bias, without a norm.
using LowRankAddKernel = void(const LowRankTokens& x, const float* rows, const int64_t* wanted,
                              int64_t wanted_count, int64_t outputs, int64_t rank,
                              const float* packed, float* out, const Parallel& parallel);

}  // namespace i2f
