#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The most inputs of an int8 layer: sums of their products stay within 32 bits.
constexpr int64_t kMaxInt8Inputs = 1 << 17;

// The parameters as OPERATORS.md lays them out.
struct Int8LinearWeights {
  const int8_t* weight;  // [N, K]
  const float* scale;    // [N]
  const float* bias;     // [N]
};
struct Bf16LinearWeights {
  const uint16_t* weight;  // [N, K], the bits of bfloat16 numbers
  const float* bias;       // [N]
};

// Bytes of the packed parameters.
using PackedInt8LinearSizeKernel = size_t(const LinearSizes& sizes);
using PackedBf16LinearSizeKernel = size_t(const LinearSizes& sizes);

// Rearranges the parameters for int8_linear or bf16_linear; `packed` is aligned to 64 bytes.
using PackInt8LinearKernel = void(const LinearSizes& sizes, const Int8LinearWeights& weights,
                                  void* packed);
using PackBf16LinearKernel = void(const LinearSizes& sizes, const Bf16LinearWeights& weights,
                                  void* packed);

// What stands around a layer.
struct AroundLinear {
  const float* norm_weight = nullptr;  // [K], of a LayerNorm of each row of x; without one, null
  const float* norm_bias = nullptr;    // [K]
  float epsilon = 0;                   // of the LayerNorm
  bool gelu = false;                   // of the result
  const float* residual = nullptr;     // [rows, N], added at the end; without one, null
};

// Int8Linear and Bf16Linear of OPERATORS.md, and what may stand around them: x [rows, K] -> out
// [rows, N], no overlap but that `residual` may be `out`; rows may be 0. `packed` is what the
// packing function of the same tier wrote. Each row's result depends on that row alone.
using Int8LinearKernel = void(const float* x, int64_t rows, const LinearSizes& sizes,
                              const void* packed, const AroundLinear& around, float* out,
                              const Memory& memory, const Parallel& parallel);
using Bf16LinearKernel = void(const float* x, int64_t rows, const LinearSizes& sizes,
                              const void* packed, const AroundLinear& around, float* out,
                              const Memory& memory, const Parallel& parallel);

}  // namespace i2f
