// The inner tile of a matrix product, whose sums stay in registers for a fused epilogue.
#pragma once

#include "kernels/simd.h"

namespace i2f::I2F_TIER {

// Rows of a tile that is N vectors wide: as many as leave registers for N vectors of the panel and
// one of a row.
template <int N>
constexpr int kTileRows = (kRegisters - N - 1) / N;

// A panel holds N vectors of columns for every k, one k after the other, behind N vectors that the
// sums start from (a bias): N * kLanes * (depth + 1) floats.
template <int N>
inline int64_t panel_floats(int64_t depth) {
  return N * kLanes * (depth + 1);
}

// sums[m][n] = panel's start + sum over k < depth of rows[m][k] * panel[k][n], in ascending k
// whatever M is: a row's result does not depend on the tile it is in.
template <int M, int N>
inline __attribute__((always_inline)) void multiply(const float* const* rows, const float* panel,
                                                    int64_t depth, Vec (&sums)[M][N]) {
  const float* row[M];
#pragma GCC unroll 32
  for (int m = 0; m < M; ++m) {
    row[m] = rows[m];
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) sums[m][n] = load(panel + n * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    panel += N * kLanes;
    Vec column[N];
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) column[n] = load(panel + n * kLanes);
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      const Vec x = broadcast(row[m][k]);
#pragma GCC unroll 32
      for (int n = 0; n < N; ++n) sums[m][n] += x * column[n];
    }
  }
}

// Sums that something indexes at run time leave the registers first.
template <int M, int N>
inline __attribute__((always_inline)) void copy(const Vec (&sums)[M][N], Vec (&to)[M][N]) {
#pragma GCC unroll 32
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) to[m][n] = sums[m][n];
  }
}

// Calls body(Rows<M>()) with M = rows, 1 <= rows <= kMost: one instance of a tile for each height.
template <int M>
struct Rows {
  static constexpr int kCount = M;
};
template <int kMost, class Body>
inline void with_rows(int64_t rows, const Body& body) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return with_rows<kMost - 1>(rows, body);
  }
  body(Rows<kMost>());
}

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls body(begin, end) for [begin, end) in the fewest parts of at most `most`, equal but for one.
template <class Body>
inline void for_parts(int64_t begin, int64_t end, int64_t most, const Body& body) {
  const int64_t count = end - begin, parts = ceil_div(count, most);
  for (int64_t i = 0; i < parts; ++i) {
    body(begin + count * i / parts, begin + count * (i + 1) / parts);
  }
}

}  // namespace i2f::I2F_TIER
