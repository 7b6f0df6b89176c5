// Linear layers with what comes before or after them in the same pass: a LayerNorm, a GELU, a
// residual addition. None of them leaves a map of its own in memory.

#include "kernels/linear.h"

#include "kernels/desks.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;  // of a tile

// A block of rows meets one panel after the other, so that rows and panel come from the second
// cache: no more rows than it holds beside a panel, and no more inputs at a time.
constexpr int64_t kLeastRows = 4 * kRows, kMostRows = 8 * kRows;  // of a block
constexpr int64_t kEnoughBlocks = 64;
constexpr int64_t kStep = 768;  // inputs at a time
constexpr int64_t kSum = 256;  // inputs summed from zero: one running sum of thousands loses digits

inline int64_t panels(const LinearSizes& sizes) { return ceil_div(sizes.outputs, 2 * kLanes); }

// Floats from one of a block's own rows to the next: whole vectors, and no power of two, which
// would put all rows into the same few places of the first cache.
inline int64_t row_stride(int64_t inputs) { return (ceil_div(inputs, kLanes) + 1) * kLanes; }

// Calls body(first, count, desk) for blocks of rows; a desk has room for a block's own rows of
// `inputs` floats.
template <class Body>
void for_row_blocks(int64_t rows, int64_t inputs, const Memory& memory, const Parallel& parallel,
                    const Body& body) {
  const int64_t most = at_least(kLeastRows, at_most(kMostRows, rows / kEnoughBlocks));
  const int64_t blocks = ceil_div(rows, most), size = inputs == 0 ? 0 : row_stride(inputs);
  for_blocks(blocks, size * at_most(rows, most), memory, parallel, [&](int64_t block, float* desk) {
    const int64_t first = rows * block / blocks;
    body(first, rows * (block + 1) / blocks - first, desk);
  });
}

// Inputs [begin, begin + depth) of `count` rows, `stride` floats apart, times the weights. Sums
// that are not whole yet wait in `out`; whole ones go to write(row, output, pair of vectors,
// outputs from there on).
template <class Write>
void multiply_block(StridedRows x, int64_t count, int64_t begin, int64_t depth,
                    const LinearSizes& sizes, const float* packed, float* out, const Write& write) {
  const bool whole = begin + depth == sizes.inputs;
  for (int64_t p = 0; p < panels(sizes); ++p) {
    const float* panel = packed + p * panel_floats<2>(sizes.inputs);
    const int64_t n = p * 2 * kLanes, outputs = sizes.outputs - n;
    for_parts(0, count, kRows, [&](int64_t first, int64_t last) {
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float* rows[M];
        float* to[M];
        Vec sums[M][2], results[M][2];  // one in registers, one in memory: the epilogue is a loop
        for (int m = 0; m < M; ++m) {
          rows[m] = x[first + m];
          to[m] = out + (first + m) * sizes.outputs + n;
          load_pair(begin == 0 ? panel : to[m], begin == 0 ? 2 * kLanes : outputs, results[m]);
        }
        for (int64_t k = 0; k < depth; k += kSum) {
#pragma GCC unroll 32
          for (int m = 0; m < M; ++m) sums[m][0] = sums[m][1] = Vec{};
          add_products<M, 2>(rows, panel + (begin + k + 1) * 2 * kLanes, at_most(kSum, depth - k),
                             sums);
#pragma GCC unroll 32
          for (int m = 0; m < M; ++m) {
            results[m][0] += sums[m][0];
            results[m][1] += sums[m][1];
            rows[m] += kSum;
          }
        }
        for (int m = 0; m < M; ++m) {
          if (whole) {
            write(first + m, n, results[m], outputs);
          } else {
            store_pair(to[m], results[m], outputs);
          }
        }
      });
    });
  }
}

}  // namespace

size_t packed_linear_size(const LinearSizes& sizes) {
  return static_cast<size_t>(panels(sizes) * panel_floats<2>(sizes.inputs));
}

void pack_linear(const LinearSizes& sizes, const LinearWeights& weights, float* packed,
                 const Parallel& parallel) {
  const Fold fold{weights.norm_weight, weights.norm_bias};
  parallel_for(parallel, static_cast<size_t>(2 * panels(sizes)), [&](size_t index) {
    const auto i = static_cast<int64_t>(index);
    pack_columns(weights.weight, weights.bias, fold.scale == nullptr ? nullptr : &fold,
                 sizes.outputs, sizes.inputs, i * kLanes, static_cast<int>(i % 2), 2,
                 packed + i / 2 * panel_floats<2>(sizes.inputs));
  });
}

void norm_linear(const float* x, int64_t rows, const LinearSizes& sizes, const float* packed,
                 float epsilon, bool with_gelu, float* out, const Memory& memory,
                 const Parallel& parallel) {
  if (rows == 0) return;
  const int64_t inputs = sizes.inputs, stride = row_stride(inputs);
  for_row_blocks(rows, inputs, memory, parallel, [&](int64_t first, int64_t count, float* normed) {
    for (int64_t i = 0; i < count; ++i) {
      normalise(x + (first + i) * inputs, inputs, epsilon, normed + i * stride);
    }
    float* block = out + first * sizes.outputs;
    for (int64_t k = 0; k < inputs; k += kStep) {
      multiply_block({normed + k, stride}, count, k, at_most(kStep, inputs - k), sizes, packed,
                     block, [&](int64_t row, int64_t n, Vec* v, int64_t outputs) {
                       if (with_gelu) {
                         for (int i = 0; i < 2; ++i) v[i] = gelu(v[i]);
                       }
                       store_pair(block + row * sizes.outputs + n, v, outputs);
                     });
    }
  });
}

void linear_add(const float* x, const float* residual, int64_t rows, const LinearSizes& sizes,
                const float* packed, float* out, const Memory& memory, const Parallel& parallel) {
  if (rows == 0) return;
  // Rows that take several steps are copied for each: they lie far apart.
  const int64_t inputs = sizes.inputs, own = inputs > kStep ? kStep : 0;
  for_row_blocks(rows, own, memory, parallel, [&](int64_t first, int64_t count, float* desk) {
    const int64_t at = first * sizes.outputs;
    for (int64_t k = 0; k < inputs; k += kStep) {
      const int64_t depth = at_most(kStep, inputs - k);
      StridedRows part{x + first * inputs + k, inputs};
      if (own > 0) {
        for (int64_t i = 0; i < count; ++i) {
          copy_floats(part[i], depth, desk + i * row_stride(own));
        }
        part = {desk, row_stride(own)};
      }
      multiply_block(part, count, k, depth, sizes, packed, out + at,
                     [&](int64_t row, int64_t n, const Vec* v, int64_t outputs) {
                       const int64_t here = at + row * sizes.outputs + n;
                       // The next panel's place: the hardware does not foresee so many short rows.
                       const int64_t next = outputs > 2 * kLanes ? here + 2 * kLanes
                                                                 : here - n + count * sizes.outputs;
                       for (int64_t i = 0; i < 2 * kLanes; i += 16) {
                         __builtin_prefetch(residual + next + i);
                         __builtin_prefetch(out + next + i, 1);
                       }
                       store_pair_plus(out + here, v, outputs, residual + here);
                     });
    }
  });
}

}  // namespace i2f::I2F_TIER
