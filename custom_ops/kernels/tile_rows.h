// Rows of attention in bfloat16 on their way to tiles, and of logits on their way from them.
#pragma once

#include "kernels/bfloat16.h"
#include "kernels/shuffle.h"
#include "kernels/tiles.h"

#ifdef I2F_TILES
namespace i2f::I2F_TIER {

inline Vec larger(Vec x, Vec y) { return x > y ? x : y; }  // y where one is a NaN

// Lane i of the result is the sum, or the largest number, of row i. The rows are lost.
inline Vec sums_of_rows(Vec (&rows)[kLanes]) {
  transpose(rows);
  for (int i = 1; i < kLanes; ++i) rows[0] += rows[i];
  return rows[0];
}
inline Vec largest_of_rows(Vec (&rows)[kLanes]) {
  transpose(rows);
  for (int i = 1; i < kLanes; ++i) rows[0] = larger(rows[i], rows[0]);
  return rows[0];
}

// A row of `groups` times kDepth numbers, times a factor, as words of two neighbours: a vector of
// them every `stride` words. largest.see() sees what is rounded.
template <class Largest>
inline void round_row(const float* row, int64_t groups, float factor, uint32_t* to, int64_t stride,
                      Largest& largest) {
  for (int64_t g = 0; g < groups; ++g, row += kDepth, to += stride) {
    const Vec low = load(row) * factor, high = load(row + kTile) * factor;
    largest.see(low);
    largest.see(high);
    store(to, bfloat16_pairs(low, high));
  }
}

// A tile of words whose columns are rows of `from`, `stride` words from one to the next.
inline void transpose_to_tile(const uint32_t* from, int64_t stride, uint32_t* tile) {
  Vec square[kTile];
#pragma GCC unroll 16
  for (int i = 0; i < kTile; ++i) square[i] = (Vec)load(from + i * stride);
  transpose(square);
#pragma GCC unroll 16
  for (int i = 0; i < kTile; ++i) store(tile + i * kTile, (VecWord)square[i]);
}

}  // namespace i2f::I2F_TIER
#endif
