#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

// The numbers of one CycleScan call (OPERATORS.md).
struct CycleScanShape {
  const int64_t* lengths;  // [sequences], tokens of each sequence of an image, at least 1
  int64_t sequences;       // at least 1
  int64_t images;          // whose tokens lie one after the other
  int64_t channels;        // C, at least 1
  int64_t states;          // N, at least 1
  int64_t passes;          // R, at least 1
};

// The parameters as OPERATORS.md lays them out.
struct CycleScanWeights {
  const float* rate;   // [C, N], NaN or at most 0, not -Inf
  const float* skip;   // [C]
  const float* bias;   // [C]
  const float* gamma;  // [C, R]
};

// CycleScan of OPERATORS.md: u [T, C], projected [T, C + 2 N] -> out [T, C], no overlap.
//
// One pass over all tokens from states that are zero, and a second one over the first tokens alone,
// which adds what all later passes start with, as far as it has not faded below 2^-25.
//
// Error: that of R passes in float32, or less. Same bits for any number of threads.
using CycleScanKernel = void(const CycleScanShape& shape, const float* u, const float* projected,
                             const CycleScanWeights& weights, float* out, const Memory& memory,
                             const Parallel& parallel);

}  // namespace i2f
