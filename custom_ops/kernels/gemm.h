// The inner tile of a matrix product, whose sums stay in registers for a fused epilogue.
#pragma once

#include "kernels/shuffle.h"
#include "kernels/simd.h"

namespace i2f::I2F_TIER {

constexpr int kFactors = kFactorsFromLanes ? kLanes : 1;  // of a row, that a tile takes at a time

// Rows of a tile that is N vectors wide: as many as leave registers for N vectors of the panel for
// each factor and one of a row. With factors from lanes GCC 12 wants four more, or spills: of 52
// instructions of the tile of 14 rows that broadcast each factor 28 were products, of 128 of that
// of 10 rows 80, and of 91 of that of 9 rows 72.
template <int N>
constexpr int kTileRows = (kRegisters - N * kFactors - (kFactorsFromLanes ? 5 : 1)) / N;

// A panel holds N vectors of columns for every k, one k after the other, behind N vectors that the
// sums start from (a bias): N * kLanes * (depth + 1) floats.
template <int N>
inline int64_t panel_floats(int64_t depth) {
  return N * kLanes * (depth + 1);
}

// sums[m][n] += sum over k < depth of rows[m][k] * panel[k][n]; `panel` is behind the start here.
template <int M, int N>
inline __attribute__((always_inline)) void add_products(const float* const* rows,
                                                        const float* panel, int64_t depth,
                                                        Vec (&sums)[M][N]) {
  const float* row[M];
#pragma GCC unroll 32
  for (int m = 0; m < M; ++m) row[m] = rows[m];
  int64_t k = 0;
  for (; kFactorsFromLanes && k + kFactors <= depth; k += kFactors) {
    Vec columns[kFactors][N];
#pragma GCC unroll 32
    for (int i = 0; i < kFactors * N; ++i) columns[i / N][i % N] = load(panel + i * kLanes);
    panel += kFactors * N * kLanes;
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      const Vec x = load(row[m] + k);
#pragma GCC unroll 32
      for (int i = 0; i < kFactors * N; ++i) sums[m][i % N] += x[i / N] * columns[i / N][i % N];
    }
  }
  for (; k < depth; ++k) {
    Vec column[N];
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) column[n] = load(panel + n * kLanes);
    panel += N * kLanes;
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      const Vec x = broadcast(row[m][k]);
#pragma GCC unroll 32
      for (int n = 0; n < N; ++n) sums[m][n] += x * column[n];
    }
  }
}

// sums[m][n] = panel's start + sum over k < depth of rows[m][k] * panel[k][n], in ascending k
// whatever M is: a row's result does not depend on the tile it is in.
template <int M, int N>
inline __attribute__((always_inline)) void multiply(const float* const* rows, const float* panel,
                                                    int64_t depth, Vec (&sums)[M][N]) {
#pragma GCC unroll 32
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) sums[m][n] = load(panel + n * kLanes);
  }
  add_products<M, N>(rows, panel + N * kLanes, depth, sums);
}

// Vector `n` of the `of` vectors of a panel: columns of w [columns, depth] from `first` on, 0
// behind the last. `bias` may be null. Where the rows are results of a LayerNorm without its scale
// and shift [depth], both are folded in:
// w (scale x + shift) + bias = (w scale) x + (w shift + bias).
struct Fold {
  const float *scale, *shift;
};
inline void pack_columns(const float* w, const float* bias, const Fold* fold, int64_t columns,
                         int64_t depth, int64_t first, int n, int of, float* panel) {
  float* to = panel + n * kLanes;
  const int64_t width = columns - first < kLanes ? columns - first : kLanes;
  for (int64_t j = 0; j < kLanes; ++j) {
    to[j] = 0.0f;
    if (j >= width) continue;
    const float* column = w + (first + j) * depth;
    const double start = bias != nullptr ? bias[first + j] : 0.0;
    double sums[4] = {start, 0.0, 0.0, 0.0};  // several: none waits for the one before
    for (int64_t k = 0; k < depth && fold != nullptr; ++k) {
      sums[k % 4] += static_cast<double>(column[k]) * fold->shift[k];
    }
    to[j] = static_cast<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  to += of * kLanes;
  for (int64_t k = 0; k < depth; k += kLanes, to += kLanes * of * kLanes) {
    const int64_t height = depth - k < kLanes ? depth - k : kLanes;
    Vec square[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      const float* at = w + (first + j) * depth + k;
      square[j] = j >= width        ? Vec{}
                  : height < kLanes ? load_partial(at, static_cast<int>(height))
                                    : load(at);
    }
    transpose(square);
    for (int64_t i = 0; i < height; ++i) {
      store(to + i * of * kLanes, fold != nullptr ? square[i] * fold->scale[k + i] : square[i]);
    }
  }
}

// StridedRows of floats, `stride` apart.
struct StridedRows {
  const float* data;
  int64_t stride;
  const float* operator[](int64_t row) const { return data + row * stride; }
};

inline void copy_floats(const float* from, int64_t count, float* to) {
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) store(to + c, load(from + c));
  for (; c < count; ++c) to[c] = from[c];
}

inline void load_pair(const float* from, int64_t count, Vec* v) {
  for (int n = 0; n < 2; ++n, from += kLanes, count -= kLanes) {
    const int rest = static_cast<int>(count < 0 ? 0 : count);
    v[n] = count >= kLanes ? load(from) : load_partial(from, rest);
  }
}

// Two vectors of results, of which the first `count` elements are real; plus what lies at `plus`.
inline void store_pair(float* to, const Vec* v, int64_t count) {
  for (int n = 0; n < 2; ++n, to += kLanes, count -= kLanes) {
    if (count >= kLanes) {
      store(to, v[n]);
    } else if (count > 0) {
      store_partial(to, v[n], static_cast<int>(count));
    }
  }
}
inline void store_pair_plus(float* to, const Vec* v, int64_t count, const float* plus) {
  for (int n = 0; n < 2; ++n, to += kLanes, plus += kLanes, count -= kLanes) {
    if (count >= kLanes) {
      store(to, v[n] + load(plus));
    } else if (count > 0) {
      const int rest = static_cast<int>(count);
      store_partial(to, v[n] + load_partial(plus, rest), rest);
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

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Calls body(begin, end) for [begin, end) in the fewest parts of at most `most`, equal but for one.
template <class Body>
inline void for_parts(int64_t begin, int64_t end, int64_t most, const Body& body) {
  const int64_t count = end - begin, parts = ceil_div(count, most);
  for (int64_t i = 0; i < parts; ++i) {
    body(begin + count * i / parts, begin + count * (i + 1) / parts);
  }
}

}  // namespace i2f::I2F_TIER
