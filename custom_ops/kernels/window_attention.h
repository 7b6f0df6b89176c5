#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// One map of tokens, cut into square windows after `offset` padding slots at its top and left.
struct WindowedMap {
  int64_t height, width;  // tokens, at least 1
  int64_t offset;         // 0..side - 1

  // Always inlined: a copy that the tiers share would be compiled for one of them.
  __attribute__((always_inline)) int64_t tokens() const { return height * width; }
  __attribute__((always_inline)) int64_t rows(int64_t side) const {  // of windows
    return (offset + height + side - 1) / side;
  }
  __attribute__((always_inline)) int64_t columns(int64_t side) const {
    return (offset + width + side - 1) / side;
  }
};

// The numbers of one WindowAttention call (OPERATORS.md).
struct WindowAttentionShape {
  static constexpr int64_t kMaxSide = 1024;

  const WindowedMap* maps;  // [map_count], of one image
  int64_t map_count;        // at least 1
  int64_t images;           // whose maps' tokens lie one after the other
  int64_t side;             // of a window, tokens, 1..kMaxSide
  int64_t heads;            // at least 1
  int64_t head_width;       // D / heads, a multiple of 4, 4..kMaxHeadWidth
};

// Softmax attention within windows, with rotary embedding: writes every element of out [T, D]. qkv
// [T, 3 * D], padding [3 * D], whose first D numbers are not read. Any float may be NaN or Inf.
//
// Error: that of the plain float32 formula, or less. A row whose logits hold a NaN or +Inf, or
// nothing but -Inf, is NaN. Same bits for any number of threads.
using WindowAttentionKernel = void(const WindowAttentionShape& shape, const float* qkv,
                                   const float* padding, float* out, const Memory& memory,
                                   const Parallel& parallel);

// The same of queries, keys, weights and values that are rounded to bfloat16 before they are
// multiplied, or nullptr where the tier has no matrix unit: WindowAttentionKernel is faster there.
using Bf16WindowAttentionKernel = WindowAttentionKernel*();

}  // namespace i2f
