#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Bytes of the packed parameters; channels are at least 1. 0 where the tier has nothing faster than
// edge_downsample for so many.
using PackedBf16EdgeDownsampleSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges `weight` [out, in, 3, 3] and `bias` [out] for bf16_edge_downsample; `packed` is
// aligned to 64 bytes.
using PackBf16EdgeDownsampleKernel = void(const float* weight, const float* bias,
                                          int64_t in_channels, int64_t out_channels, void* packed);

// Bf16EdgeDownsample of OPERATORS.md: as edge_downsample. `packed` is what
// pack_bf16_edge_downsample of the same tier wrote.
using Bf16EdgeDownsampleKernel = void(const float* x, int64_t rows, int64_t columns,
                                      int64_t in_channels, int64_t out_channels, const void* packed,
                                      float* y, const Memory& memory, const Parallel& parallel);

}  // namespace i2f
