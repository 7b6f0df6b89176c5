#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// Parameters of a stage as OPERATORS.md lays them out.
struct UpsampleWeights {
  int64_t in_channels, out_channels;     // Ci, Co, at least 1
  const float *norm_weight, *norm_bias;  // [Ci]
  const float *conv_weight, *conv_bias;  // [Co, Ci, 3, 3], [Co]
};

// What of the convolved edge features concerns a crop of 2*rows x 2*columns pixels.
struct EdgeFeatures {
  const float* inside;  // [2*rows, 2*columns, Co] within rows of `stride` floats
  int64_t stride;
  const float *above, *below;  // [2*columns, Co]: to be subtracted from the first and last row
  const float *left, *right;   // [2*rows, Co]: from the first and last column
  const float* corner[4];      // [Co]: to be added above left, above right, below left, below right
};

// Floats of the packed parameters.
using PackedUpsampleSizeKernel = size_t(int64_t in_channels, int64_t out_channels);

// Rearranges the parameters for local_upsample.
using PackUpsampleKernel = void(const UpsampleWeights& weights, float* packed);

// LocalUpsample of OPERATORS.md: x [rows, columns, Ci] -> y [2*rows, 2*columns, Co], no overlap,
// all sizes at least 1. `packed` is what pack_upsample of the same tier wrote. Its working memory
// is a few MiB and grows with `columns` alone.
using LocalUpsampleKernel = void(const float* x, int64_t rows, int64_t columns, int64_t in_channels,
                                 int64_t out_channels, const EdgeFeatures& edge_features,
                                 const float* packed, float epsilon, bool activate, float* y,
                                 const Memory& memory, const Parallel& parallel);

}  // namespace i2f
