#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The numbers of one MaskUpscaling call (OPERATORS.md), all at least 1 but for height and width.
struct MaskUpscalingSizes {
  int64_t height, width;    // of the map of tokens; 0 is fine
  int64_t channels;         // C of a token
  int64_t first_channels;   // D after the first doubling
  int64_t second_channels;  // E after the second one
};

// The parameters as OPERATORS.md lays them out.
struct MaskUpscalingWeights {
  const float *first_weight, *first_bias;    // [4 D, C], [D]
  const float *norm_weight, *norm_bias;      // [D]
  const float *second_weight, *second_bias;  // [4 E, D], [E]
};

// MaskUpscaling of OPERATORS.md: x [h, w, C], mask [E] -> out [4 h, 4 w], no overlap. What a token
// becomes depends on that token alone.
using MaskUpscalingKernel = void(const MaskUpscalingSizes& sizes, const float* x,
                                 const MaskUpscalingWeights& weights, const float* mask,
                                 float epsilon, float* out, const Memory& memory,
                                 const Parallel& parallel);

}  // namespace i2f
