#pragma once

#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// CannyMaps of OPERATORS.md: image [rows, columns, 3] RGB, mean and std [3] in BGR order, blur_row
// and blur_column [5] -> maps [5, rows, columns], no overlap, all sizes at least 1.
using CannyMapsKernel = void(const float* image, int64_t rows, int64_t columns, const float* mean,
                             const float* std, const float* blur_row, const float* blur_column,
                             float* maps, const Memory& memory, const Parallel& parallel);

}  // namespace i2f
