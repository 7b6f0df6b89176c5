#include "ops/calibration.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "ops/linear_kernels.h"
#include "ops/operator.h"

namespace i2f {

namespace {

// A layer large enough that the product takes most of the time, and small enough for the second
// cache of any machine.
constexpr int64_t kRows = 96, kInputs = 256, kOutputs = 64;
constexpr int kRounds = 5;  // after one that warms up; the best counts

// Memory of one call after the other, and no threads.
class Alone {
 public:
  Memory memory() {
    used_ = 0;
    return {this, [](void* self, size_t count, size_t size) {
              return static_cast<Alone*>(self)->take(checked_product(count, size));
            }};
  }
  static Parallel parallel() {
    return {nullptr, [](void*, size_t count, void (*task)(void* user, size_t index), void* user) {
              for (size_t i = 0; i < count; ++i) task(user, i);
            }};
  }

 private:
  void* take(size_t bytes) {
    if (used_ == blocks_.size()) blocks_.emplace_back(bytes), sizes_.push_back(bytes);
    if (sizes_[used_] < bytes) blocks_[used_] = Buffer<char>(bytes), sizes_[used_] = bytes;
    return blocks_[used_++].data();
  }
  std::vector<Buffer<char>> blocks_;
  std::vector<size_t> sizes_;
  size_t used_ = 0;
};

struct Layer {
  LinearSizes sizes{kInputs, kOutputs};
  std::vector<float> x, weight, bias, ones, out;
  std::vector<int8_t> codes;
  std::vector<uint16_t> halves;
  Alone alone;
  Buffer<char> packed_of[kTierCount];  // weights, as a tier takes them

  Layer()
      : x(kRows * kInputs),
        weight(kInputs * kOutputs),
        bias(kOutputs),
        ones(kOutputs, 1.0f),
        out(kRows * kOutputs),
        codes(weight.size()),
        halves(weight.size()) {
    uint32_t state = 1;  // of a generator of even numbers in [-1, 1); their halves are bfloat16
    const auto next = [&state] {
      state = state * 1664525u + 1013904223u;
      return static_cast<int32_t>(state) >> 24;
    };
    for (float& value : x) {  // a sum of several, as rows of a network have few large numbers
      value = static_cast<float>(next() + next() + next() + next()) / 128.0f;
    }
    for (size_t i = 0; i < weight.size(); ++i) {
      const int code = next();
      codes[i] = static_cast<int8_t>(code);
      halves[i] = static_cast<uint16_t>(0x3f80 + (code & 0x807f));  // 1 to 2, either sign
      weight[i] = static_cast<float>(code) / 128.0f;
    }
  }

  // A call of the product on a tier.
  std::function<void()> call(Product product, size_t tier) {
    Buffer<char>* packed = &packed_of[tier];
    switch (product) {
      case Product::kFloat32: {
        *packed = Buffer<char>(kernels::packed_linear_size.of_tier[tier](sizes) * sizeof(float));
        auto* to = reinterpret_cast<float*>(packed->data());
        const LinearWeights weights{weight.data(), bias.data(), nullptr, nullptr};
        kernels::pack_linear.of_tier[tier](sizes, weights, to, Alone::parallel());
        return [this, tier, packed] {
          const auto* from = reinterpret_cast<const float*>(packed->data());
          kernels::norm_linear.of_tier[tier](x.data(), kRows, sizes, from, 1e-5f, false, out.data(),
                                             alone.memory(), Alone::parallel());
        };
      }
      case Product::kBfloat16:
        *packed = Buffer<char>(kernels::packed_bf16_linear_size.of_tier[tier](sizes));
        kernels::pack_bf16_linear.of_tier[tier](sizes, {halves.data(), bias.data()},
                                                packed->data());
        return [this, tier, packed] {
          kernels::bf16_linear.of_tier[tier](x.data(), kRows, sizes, packed->data(), {}, out.data(),
                                             alone.memory(), Alone::parallel());
        };
      case Product::kInt8:
        *packed = Buffer<char>(kernels::packed_int8_linear_size.of_tier[tier](sizes));
        kernels::pack_int8_linear.of_tier[tier](sizes, {codes.data(), ones.data(), bias.data()},
                                                packed->data());
        return [this, tier, packed] {
          kernels::int8_linear.of_tier[tier](x.data(), kRows, sizes, packed->data(), {}, out.data(),
                                             alone.memory(), Alone::parallel());
        };
    }
    return {};
  }
};

}  // namespace

void measure_rates(Product product, const bool (&candidates)[kTierCount],
                   float (&rates)[kTierCount]) {
  Layer layer;
  std::function<void()> calls[kTierCount];
  double best[kTierCount];
  std::fill_n(best, kTierCount, std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < kTierCount; ++i) {
    if (candidates[i]) calls[i] = layer.call(product, i);
  }
  for (int round = 0; round <= kRounds; ++round) {  // in turn: what disturbs touches all alike
    for (size_t i = 0; i < kTierCount; ++i) {
      if (!candidates[i]) continue;
      const auto begin = std::chrono::steady_clock::now();
      calls[i]();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      if (round > 0) best[i] = std::min(best[i], taken.count());
    }
  }
  for (size_t i = 0; i < kTierCount; ++i) {
    const double products = double{kRows} * kInputs * kOutputs;
    rates[i] = candidates[i] ? static_cast<float>(products * 1e-9 / std::max(best[i], 1e-9)) : 0.0f;
  }
}

}  // namespace i2f
