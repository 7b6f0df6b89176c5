#pragma once

#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// EdgeStem of OPERATORS.md: maps [planes, rows, columns], weight [channels, planes, 3, 3], bias
// [channels] -> y [rows, columns, channels], no overlap, all sizes at least 1.
using EdgeStemKernel = void(const float* maps, int64_t planes, int64_t rows, int64_t columns,
                            const float* weight, const float* bias, int64_t channels, float* y,
                            const Memory& memory, const Parallel& parallel);

}  // namespace i2f
