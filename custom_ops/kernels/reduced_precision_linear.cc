// Linear layers in low precision (kernels/reduced_linear.h).

#include "kernels/reduced_precision_linear.h"

#include "kernels/reduced_linear.h"

namespace i2f::I2F_TIER {

using reduced_linear::Bf16Linear;
using reduced_linear::Int8Linear;

namespace {

constexpr int64_t kLargeResult = 1 << 20;  // numbers of a result that leaves the caches

// A task takes one block of rows after the other.
template <class Layer>
void run(const Layer& layer, const LinearSizes& sizes, const float* x, int64_t rows, bool gelu,
         float* out, const Memory& memory, const Parallel& parallel) {
  if (rows == 0) return;
  const int64_t block = layer.block_rows(rows), tasks = min(kMaxTasks, ceil_div(rows, block));
  const int64_t words = layer.block_words(min(rows, block));
  auto* all = take<uint32_t>(memory, tasks * words);
  parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
    const auto i = static_cast<int64_t>(task);
    for_parts(rows * i / tasks, rows * (i + 1) / tasks, block, [&](int64_t first, int64_t last) {
      layer.run_block(x + first * sizes.inputs, last - first, gelu,
                      rows * sizes.outputs >= kLargeResult, out + first * sizes.outputs,
                      all + i * words);
    });
  });
}

}  // namespace

size_t packed_int8_linear_size(const LinearSizes& sizes) {
  return Int8Linear(sizes, nullptr).packed_bytes();
}

void pack_int8_linear(const LinearSizes& sizes, const Int8LinearWeights& weights, void* packed) {
  Int8Linear(sizes, nullptr).pack(weights, packed);
}

void int8_linear(const float* x, int64_t rows, const LinearSizes& sizes, const void* packed,
                 bool gelu, float* out, const Memory& memory, const Parallel& parallel) {
  run(Int8Linear(sizes, packed), sizes, x, rows, gelu, out, memory, parallel);
}

size_t packed_bf16_linear_size(const LinearSizes& sizes) {
  return Bf16Linear(sizes, nullptr).packed_bytes();
}

void pack_bf16_linear(const LinearSizes& sizes, const Bf16LinearWeights& weights, void* packed) {
  Bf16Linear(sizes, nullptr).pack(weights, packed);
}

void bf16_linear(const float* x, int64_t rows, const LinearSizes& sizes, const void* packed,
                 bool gelu, float* out, const Memory& memory, const Parallel& parallel) {
  run(Bf16Linear(sizes, packed), sizes, x, rows, gelu, out, memory, parallel);
}

}  // namespace i2f::I2F_TIER
