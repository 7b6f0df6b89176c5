#pragma once

#include "kernels/edge_block.h"

namespace i2f {

// Bytes of the packed parameters of a block with `channels`, at least 1; 0 where the tier has
// nothing faster than edge_block for so many.
using PackedBf16EdgeBlockSizeKernel = size_t(int64_t channels);

// Rearranges the parameters for bf16_edge_block; `packed` is aligned to 64 bytes.
using PackBf16EdgeBlockKernel = void(const EdgeBlockHalf& first, const EdgeBlockHalf& second,
                                     int64_t channels, void* packed);

// Bf16EdgeBlock of OPERATORS.md: as edge_block. `packed` is what pack_bf16_edge_block of the same
// tier wrote. Takes memory for one more map and, for each thread, for some of its rows.
using Bf16EdgeBlockKernel = void(const float* x, int64_t rows, int64_t columns, int64_t channels,
                                 const void* packed, float epsilon, float* y, const Memory& memory,
                                 const Parallel& parallel);

}  // namespace i2f
