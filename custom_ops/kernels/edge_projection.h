#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Parameters of EdgeProjection as OPERATORS.md lays them out; channels are at least 1.
struct EdgeProjectionWeights {
  int64_t in_channels, middle_channels, out_channels;  // C, Ci, Co
  const float *lateral_weight, *lateral_bias;          // [Ci, C], [Ci]
  const float* conv_weight;                            // [Co, Ci, 3, 3]
};

// What LocalUpsample takes of the edge features of a map of side x side pixels, grid x grid tokens.
struct EdgeTerms {
  float* edge;    // [side, side, Co]
  float* border;  // [4, grid, side, Co]
  float* corner;  // [4, grid, grid, Co]
};

// Floats of the packed parameters.
using PackedEdgeProjectionSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges the parameters for edge_projection.
using PackEdgeProjectionKernel = void(const EdgeProjectionWeights& weights, float* packed);

// EdgeProjection of OPERATORS.md: x [side, side, C] -> terms, no overlap; `side` is a positive
// multiple of `grid`, at least 1. `packed` is what pack_edge_projection of the same tier wrote.
using EdgeProjectionKernel = void(const float* x, int64_t side, int64_t grid, int64_t in_channels,
                                  int64_t out_channels, const float* packed, const EdgeTerms& terms,
                                  const Memory& memory, const Parallel& parallel);

}  // namespace i2f
