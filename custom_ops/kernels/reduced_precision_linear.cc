// Linear layers in low precision (kernels/reduced_linear.h), and what stands around them.

#include "kernels/reduced_precision_linear.h"

#include "kernels/reduced_linear.h"

namespace i2f::I2F_TIER {

namespace {

using namespace reduced_linear;

constexpr int64_t kLargeResult = 1 << 20;  // numbers of a result that leaves the caches

// A task takes one block of rows after the other.
template <class Layer>
void run(const Layer& layer, const LinearSizes& sizes, const float* x, int64_t rows,
         const AroundLinear& around, float* out, const Memory& memory, const Parallel& parallel) {
  if (rows == 0) return;
  const int64_t inputs = sizes.inputs, outputs = sizes.outputs;
  const int64_t block = layer.block_rows(rows), tasks = min(kMaxTasks, ceil_div(rows, block));
  const NormedLayer<Layer> normed_layer(layer, inputs,
                                        {around.norm_weight, around.norm_bias, around.epsilon});
  const bool norm = around.norm_weight != nullptr;
  const int64_t normed = norm ? normed_layer.block_floats(min(rows, block)) : 0;
  const int64_t words = normed + layer.block_words(min(rows, block));
  auto* all = take<uint32_t>(memory, tasks * words);
  parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
    const auto i = static_cast<int64_t>(task);
    uint32_t* own = all + i * words;
    for_parts(rows * i / tasks, rows * (i + 1) / tasks, block, [&](int64_t first, int64_t last) {
      const float* from = x + first * inputs;
      float* to = out + first * outputs;
      After after{around.gelu, nullptr, rows * outputs >= kLargeResult};
      if (around.residual != nullptr) after.residual = around.residual + first * outputs;
      if (norm) {
        normed_layer.run_block(from, last - first, after, to, reinterpret_cast<float*>(own),
                               own + normed);
      } else {
        layer.run_block([=](int64_t r) { return from + r * inputs; }, last - first, after, to, own);
      }
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
                 const AroundLinear& around, float* out, const Memory& memory,
                 const Parallel& parallel) {
  run(Int8Linear(sizes, packed), sizes, x, rows, around, out, memory, parallel);
}

size_t packed_bf16_linear_size(const LinearSizes& sizes) {
  return Bf16Linear(sizes, nullptr).packed_bytes();
}

void pack_bf16_linear(const LinearSizes& sizes, const Bf16LinearWeights& weights, void* packed) {
  Bf16Linear(sizes, nullptr).pack(weights, packed);
}

void bf16_linear(const float* x, int64_t rows, const LinearSizes& sizes, const void* packed,
                 const AroundLinear& around, float* out, const Memory& memory,
                 const Parallel& parallel) {
  run(Bf16Linear(sizes, packed), sizes, x, rows, around, out, memory, parallel);
}

}  // namespace i2f::I2F_TIER
