#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Sizes of a linear layer, both at least 1.
struct LinearSizes {
  int64_t inputs;   // C
  int64_t outputs;  // N
};

// The parameters: weight [N, C], bias [N], and the LayerNorm before it [C], or nullptr twice.
struct LinearWeights {
  const float *weight, *bias;
  const float *norm_weight, *norm_bias;
};

// Floats of the packed parameters.
using PackedLinearSizeKernel = size_t(const LinearSizes& sizes);

// Rearranges the parameters for the kernels below; `packed` is aligned to 64 bytes.
using PackLinearKernel = void(const LinearSizes& sizes, const LinearWeights& weights, float* packed,
                              const Parallel& parallel);

// NormLinear and LinearAdd of OPERATORS.md: x [rows, C] -> out [rows, N], no overlap, but `out` may
// be `residual` [rows, N]; `packed` is what pack_linear of the same tier wrote, with a norm and
// without. Each row's result depends on that row alone. 0 rows are fine.
using NormLinearKernel = void(const float* x, int64_t rows, const LinearSizes& sizes,
                              const float* packed, float epsilon, bool gelu, float* out,
                              const Memory& memory, const Parallel& parallel);
using LinearAddKernel = void(const float* x, const float* residual, int64_t rows,
                             const LinearSizes& sizes, const float* packed, float* out,
                             const Memory& memory, const Parallel& parallel);

}  // namespace i2f
