#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Parameters of one half of a residual block as OPERATORS.md lays them out: norm, SiLU, 3x3
// convolution.
struct EdgeBlockHalf {
  const float *norm_weight, *norm_bias;  // [C]
  const float *conv_weight, *conv_bias;  // [C, C, 3, 3], [C]
};

// Floats of the packed parameters of a block with `channels`, at least 1.
using PackedEdgeBlockSizeKernel = size_t(int64_t channels);

// Rearranges the parameters for edge_block.
using PackEdgeBlockKernel = void(const EdgeBlockHalf& first, const EdgeBlockHalf& second,
                                 int64_t channels, float* packed);

// EdgeBlock of OPERATORS.md: x [rows, columns, channels] -> y of the same shape, no overlap, all
// sizes at least 1. `packed` is what pack_edge_block of the same tier wrote. Takes memory for one
// more map, and what each thread needs for its tiles: up to 36 * (31 * C + 960) floats, C rounded
// up to whole vectors, which is 1.2 MiB for 256 channels.
using EdgeBlockKernel = void(const float* x, int64_t rows, int64_t columns, int64_t channels,
                             const float* packed, float epsilon, float* y, const Memory& memory,
                             const Parallel& parallel);

}  // namespace i2f
