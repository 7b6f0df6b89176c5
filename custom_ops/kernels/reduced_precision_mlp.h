#pragma once

#include "kernels/reduced_precision_linear.h"

namespace i2f {

// An MLP with a LayerNorm before it, D numbers to H to D.
struct Mlp {
  int64_t width;                         // D
  int64_t hidden;                        // H
  const float *norm_weight, *norm_bias;  // [D]
  float epsilon;
  // Its layers, D to H and H to D, as pack_int8_linear or pack_bf16_linear of the same tier wrote
  // them.
  const void *first, *second;
};

// Int8Mlp and Bf16Mlp of OPERATORS.md: x [rows, D] -> out [rows, D], no overlap; rows may be 0.
// Each row's result depends on that row alone.
using Int8MlpKernel = void(const float* x, int64_t rows, const Mlp& mlp, float* out,
                           const Memory& memory, const Parallel& parallel);
using Bf16MlpKernel = void(const float* x, int64_t rows, const Mlp& mlp, float* out,
                           const Memory& memory, const Parallel& parallel);

}  // namespace i2f
