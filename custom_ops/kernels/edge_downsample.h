#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Floats of the packed parameters; channels are at least 1.
using PackedEdgeDownsampleSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges `weight` [out, in, 3, 3] and `bias` [out] for edge_downsample.
using PackEdgeDownsampleKernel = void(const float* weight, const float* bias, int64_t in_channels,
                                      int64_t out_channels, float* packed);

// EdgeDownsample of OPERATORS.md: x [rows, columns, in] -> y [(rows + 1) / 2, (columns + 1) / 2,
// out], no overlap, all sizes at least 1. `packed` is what pack_edge_downsample of the same tier
// wrote.
using EdgeDownsampleKernel = void(const float* x, int64_t rows, int64_t columns,
                                  int64_t in_channels, int64_t out_channels, const float* packed,
                                  float* y, const Memory& memory, const Parallel& parallel);

}  // namespace i2f
