// Linear layers with what comes before or after them in the same pass: a LayerNorm, a GELU, a
// residual addition. None of them leaves a map of its own in memory.

#include "kernels/linear.h"

#include "kernels/layer_norm.h"
#include "kernels/linear_block.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

using namespace linear_block;

// How far ahead, in floats, maps that are read in order are fetched: between products the hardware
// loses their track.
constexpr int64_t kAhead = 2048;

inline void fetch(const float* from, int64_t count) {
  for (int64_t c = 0; c < count; c += 16) __builtin_prefetch(from + c);
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
  const auto body = [&](int64_t first, int64_t count, float* sums, float* normed) {
    for (int64_t i = 0; i < count; ++i) {
      const float* row = x + (first + i) * inputs;
      fetch(row + kAhead, inputs);
      normalise(row, inputs, epsilon, normed + i * stride);
    }
    float* to = out + first * sizes.outputs;
    multiply_block(
        count, sizes, packed, sums,
        [&](int64_t k, int64_t) -> StridedRows { return {normed + k, stride}; },
        [to, with_gelu](int64_t at, Vec* v, int64_t outputs) {
          if (with_gelu) {
            for (int i = 0; i < 2; ++i) v[i] = gelu(v[i]);
          }
          store_pair(to + at, v, outputs);
        });
  };
  for_row_blocks(rows, stride, sizes, memory, parallel, body);
}

void linear_add(const float* x, const float* residual, int64_t rows, const LinearSizes& sizes,
                const float* packed, float* out, const Memory& memory, const Parallel& parallel) {
  if (rows == 0) return;
  // Rows that take several steps are copied for each: they lie far apart.
  const int64_t inputs = sizes.inputs, stride = inputs > kStep ? row_stride(kStep) : 0;
  const auto body = [&](int64_t first, int64_t count, float* sums, float* copies) {
    const auto part = [&](int64_t k, int64_t depth) -> StridedRows {
      const StridedRows own{x + first * inputs + k, inputs};
      if (stride == 0) return own;
      for (int64_t i = 0; i < count; ++i) copy_floats(own[i], depth, copies + i * stride);
      return {copies, stride};
    };
    const float* plus = residual + first * sizes.outputs;
    float* to = out + first * sizes.outputs;
    multiply_block(count, sizes, packed, sums, part,
                   [plus, to](int64_t at, const Vec* v, int64_t outputs) {
                     fetch(plus + at + kAhead, kWidth);
                     store_pair_plus(to + at, v, outputs, plus + at);
                   });
  };
  for_row_blocks(rows, stride, sizes, memory, parallel, body);
}

}  // namespace i2f::I2F_TIER
