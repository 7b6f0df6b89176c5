#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The numbers of one HybridAttention call (OPERATORS.md).
struct HybridAttentionShape {
  static constexpr int64_t kCodePadding = 16;  // columns of the packed code weight
  static constexpr int64_t kMaxSummed = 10;    // bits of a code whose codewords may be sums

  int64_t tokens;      // L, a multiple of grid_width
  int64_t edges;       // E, 0..L
  int64_t grid_width;  // tokens a row of the grid, at least 1
  int64_t heads;       // at least 1
  int64_t head_width;  // D / heads, a multiple of 4, 4..kMaxHeadWidth
  int64_t scores;      // B, rows of the code weight: bits of a code (at most 30), or codes
  int64_t codes;       // K, rows of the codewords: 2^B, or B
  bool argmax;  // a key's code is its first largest score ("vq"), not the signs of all ("bsq")

  // Always inlined: a copy that the tiers share would be compiled for one of them.
  __attribute__((always_inline)) int64_t width() const { return heads * head_width; }
  __attribute__((always_inline)) int64_t score_columns() const {
    return (scores + kCodePadding - 1) / kCodePadding * kCodePadding;
  }
};

// What FullAttention gave for a qkv of the same shape. Where few tokens differ from it, most rows
// of full attention follow from these, and need not be computed anew.
struct KnownAttention {
  const float* qkv;     // [L, 3 * D]; nullptr: nothing is known
  const float* out;     // [L, D]
  const float* logsum;  // [L, heads]
};

// Rows of full attention by a kernel of its own: writes rows `tokens` [count] (ascending, count at
// least 1) of out [L, D], but for those that it leaves to others. Writes their tokens to `left`, in
// order, and returns their number; their rows may hold anything. Of the shape, only `tokens`,
// `grid_width`, `heads` and `head_width` are read. Same bits for any number of threads.
using FullRowsKernel = int64_t(const HybridAttentionShape& shape, const float* qkv,
                               const int64_t* tokens, int64_t count, float* out, int64_t* left,
                               const Memory& memory, const Parallel& parallel);

// One that rounds to bfloat16 (Bf16HybridAttention of OPERATORS.md), or nullptr where the tier has
// nothing faster than float32 for heads of this width. It leaves the rows whose queries are not
// finite or have very large logits; or all rows where that is so of keys, or where values are not
// finite or out of scale.
using Bf16FullRowsKernel = FullRowsKernel*(int64_t head_width);

// Full attention for edge tokens, codebook attention for the others: writes every element of out
// [L, D]. qkv [L, 3 * D]; edge [E] strictly ascending in [0, L); codewords [K, D]; code_weight [D +
// 1, score_columns]: the code weight transposed, its last row the bias, padded with 0 and a bias of
// -Inf. `summed` is nullptr, or [B, D], B at most kMaxSummed: but for rounding, the codeword of a
// code is that of code 0 plus, for each of its bits that is set, that bit's row; the lowest bit
// first. Any float may be NaN or Inf. `full_rows` computes the edge rows, or nullptr.
//
// Error: that of the plain float32 formula, or less; sums are of blocks, not running. A row whose
// logits hold a NaN or +Inf, or nothing but -Inf, is NaN. Same bits for any number of threads.
using HybridAttentionKernel = void(const HybridAttentionShape& shape, const float* qkv,
                                   const int64_t* edge, const float* code_weight,
                                   const float* codewords, const float* summed,
                                   const KnownAttention& known, FullRowsKernel* full_rows,
                                   float* out, const Memory& memory, const Parallel& parallel);

// Full attention for all tokens, as for edge tokens above: writes every element of out [L, D], and
// of logsum [L, heads], the logarithm of the sum of a row's exponentiated logits. Of the shape,
// `edges`, `scores`, `codes` and `argmax` are not read.
using FullAttentionKernel = void(const HybridAttentionShape& shape, const float* qkv, float* out,
                                 float* logsum, const Memory& memory, const Parallel& parallel);

}  // namespace i2f
