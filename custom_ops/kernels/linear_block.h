// The product of a float32 linear layer, block of rows by block of rows: what the layers of
// linear.h and those of bfloat16 numbers share that have no instructions of their own.
#pragma once

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

namespace i2f::I2F_TIER::linear_block {

constexpr int kRows = kTileRows<2>;     // of a tile
constexpr int64_t kWidth = 2 * kLanes;  // of a panel

// A block of rows meets one panel after the other, so that rows and panel come from the second
// cache: no more rows than it holds beside a panel, and no more inputs at a time.
constexpr int64_t kMinRows = 4 * kRows, kMaxRows = 8 * kRows;  // of a block
constexpr int64_t kEnoughBlocks = 64;
constexpr int64_t kStep = 768;  // inputs at a time, and outputs
static_assert(kStep % kWidth == 0, "a step is whole panels");
constexpr int64_t kSum = 256;  // inputs summed from zero: one running sum of thousands loses digits

inline int64_t panels(const LinearSizes& sizes) { return ceil_div(sizes.outputs, kWidth); }

// Floats from one of a block's own rows to the next: whole vectors, and no power of two, which
// would put all rows into the same few places of the first cache.
inline int64_t row_stride(int64_t inputs) { return (ceil_div(inputs, kLanes) + 1) * kLanes; }

// The most rows of a block.
inline int64_t block_rows(int64_t rows) {
  return max(kMinRows, min(kMaxRows, rows / kEnoughBlocks));
}

// Calls body(first, count, sums, own) for blocks of rows, with room for the sums of a step and for
// `size` floats of its own a row.
template <class Body>
void for_row_blocks(int64_t rows, int64_t size, const LinearSizes& sizes, const Memory& memory,
                    const Parallel& parallel, const Body& body) {
  const int64_t most = block_rows(rows);
  const int64_t blocks = ceil_div(rows, most), height = min(rows, most);
  const int64_t sums = height * min(kStep, panels(sizes) * kWidth);
  for_blocks(blocks, sums + height * size, memory, parallel, [&](int64_t block, float* scratch) {
    const int64_t first = rows * block / blocks;
    body(first, rows * (block + 1) / blocks - first, scratch, scratch + sums);
  });
}

// sums [count, kWidth] = rows of `from`, `stride` apart, plus `depth` inputs of `count` rows times
// a panel from those inputs on.
inline void multiply_panel(StridedRows x, int64_t count, int64_t depth, const float* panel,
                           const float* from, int64_t stride, float* sums) {
  for_parts(0, count, kRows, [&](int64_t first, int64_t last) {
    with_rows<kRows>(last - first, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* rows[M];
      for (int m = 0; m < M; ++m) rows[m] = x[first + m];
      const float* before = from + first * stride;
      float* to = sums + first * kWidth;
      for (int64_t k = 0; k < depth; k += kSum) {
        Vec products[M][2] = {};
        add_products<M, 2>(rows, panel + k * kWidth, min(kSum, depth - k), products);
        const int64_t step = k == 0 ? stride : kWidth;
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
          for (int n = 0; n < 2; ++n) {
            const Vec sum = load(before + m * step + n * kLanes) + products[m][n];
            store(to + m * kWidth + n * kLanes, sum);
          }
        }
        before = to;
        for (int m = 0; m < M; ++m) rows[m] += kSum;
      }
    });
  });
}

// The layer for `count` rows, without what comes after it. rows(k, depth) gives inputs [k, k +
// depth) of all of them, `sums` is room for kStep outputs of each. Calls finish(at, pair of sums,
// outputs from there on), `at` counting in [count, outputs]: row after row, unlike the product,
// since memory is fast where it is used in order.
template <class Rows, class Finish>
void multiply_block(int64_t count, const LinearSizes& sizes, const float* packed, float* sums,
                    const Rows& rows, const Finish& finish) {
  for (int64_t begin = 0; begin < sizes.outputs; begin += kStep) {
    const int64_t end = min(begin + kStep, sizes.outputs);
    for (int64_t k = 0; k < sizes.inputs; k += kStep) {
      const int64_t depth = min(kStep, sizes.inputs - k);
      const StridedRows x = rows(k, depth);
      for (int64_t n = begin; n < end; n += kWidth) {
        const float* panel = packed + n / kWidth * panel_floats<2>(sizes.inputs);
        float* to = sums + (n - begin) * count;
        multiply_panel(x, count, depth, panel + (k + 1) * kWidth, k == 0 ? panel : to,
                       k == 0 ? 0 : kWidth, to);
      }
    }
    for (int64_t row = 0; row < count; ++row) {
      const float* from = sums + row * kWidth;
      for (int64_t n = begin; n < end; n += kWidth, from += count * kWidth) {
        Vec pair[2] = {load(from), load(from + kLanes)};
        finish(row * sizes.outputs + n, pair, sizes.outputs - n);
      }
    }
  }
}

}  // namespace i2f::I2F_TIER::linear_block
