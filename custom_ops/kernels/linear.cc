// Linear layers with what comes before or after them in the same pass: a LayerNorm, a residual
// addition. Neither leaves a map of its own in memory.

#include "kernels/linear.h"

#include "kernels/gemm.h"
#include "kernels/layer_norm.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;       // of a tile
constexpr int64_t kTaskRows = 4 * kRows;  // of a task, at least
constexpr int64_t kMostTasks = 64;        // bounds the scratch

inline int64_t panels(const LinearSizes& sizes) { return ceil_div(sizes.outputs, 2 * kLanes); }

inline int64_t task_count(int64_t rows) { return at_most(kMostTasks, ceil_div(rows, kTaskRows)); }

// Calls body(task, first, last) with the rows of each tile of each task.
template <class Body>
void for_tiles(int64_t rows, const Parallel& parallel, const Body& body) {
  if (rows == 0) return;
  const int64_t tasks = task_count(rows);
  parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t index) {
    const auto task = static_cast<int64_t>(index);
    for_parts(rows * task / tasks, rows * (task + 1) / tasks, kRows,
              [&](int64_t first, int64_t last) { body(task, first, last); });
  });
}

// write(m, n, v, count) takes `count` outputs of row m from n on.
template <int M, class Write>
void multiply_tile(const float* const* rows, const LinearSizes& sizes, const float* packed,
                   const Write& write) {
  Vec sums[M][2], results[M][2];  // one in registers, one in memory: the epilogue is a loop
  for (int64_t p = 0; p < panels(sizes); ++p) {
    multiply<M, 2>(rows, packed + p * panel_floats<2>(sizes.inputs), sizes.inputs, sums);
    copy<M, 2>(sums, results);
    const int64_t n = p * 2 * kLanes;
    for (int m = 0; m < M; ++m) write(m, n, results[m], sizes.outputs - n);
  }
}

}  // namespace

size_t packed_linear_size(const LinearSizes& sizes) {
  return static_cast<size_t>(panels(sizes) * panel_floats<2>(sizes.inputs));
}

void pack_linear(const LinearSizes& sizes, const LinearWeights& weights, float* packed) {
  const Fold fold{weights.norm_weight, weights.norm_bias};
  for (int64_t i = 0; i < 2 * panels(sizes); ++i) {
    pack_columns(weights.weight, weights.bias, fold.scale == nullptr ? nullptr : &fold,
                 sizes.outputs, sizes.inputs, i * kLanes, static_cast<int>(i % 2), 2,
                 packed + i / 2 * panel_floats<2>(sizes.inputs));
  }
}

void norm_linear(const float* x, int64_t rows, const LinearSizes& sizes, const float* packed,
                 float epsilon, float* out, const Memory& memory, const Parallel& parallel) {
  const int64_t stride = ceil_div(sizes.inputs, kLanes) * kLanes;
  float* tiles = take<float>(memory, task_count(rows) * kRows * stride);
  for_tiles(rows, parallel, [&](int64_t task, int64_t first, int64_t last) {
    with_rows<kRows>(last - first, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* normed[M];
      for (int m = 0; m < M; ++m) {
        float* row = tiles + (task * kRows + m) * stride;
        normalise(x + (first + m) * sizes.inputs, sizes.inputs, epsilon, row);
        normed[m] = row;
      }
      multiply_tile<M>(normed, sizes, packed, [&](int m, int64_t n, const Vec* v, int64_t count) {
        store_pair(out + (first + m) * sizes.outputs + n, v, count);
      });
    });
  });
}

void linear_add(const float* x, const float* residual, int64_t rows, const LinearSizes& sizes,
                const float* packed, float* out, const Parallel& parallel) {
  for_tiles(rows, parallel, [&](int64_t, int64_t first, int64_t last) {
    with_rows<kRows>(last - first, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* row[M];
      for (int m = 0; m < M; ++m) row[m] = x + (first + m) * sizes.inputs;
      multiply_tile<M>(row, sizes, packed, [&](int m, int64_t n, const Vec* v, int64_t count) {
        const int64_t at = (first + m) * sizes.outputs + n;
        store_pair_plus(out + at, v, count, residual + at);
      });
    });
  });
}

}  // namespace i2f::I2F_TIER
