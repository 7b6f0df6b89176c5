// HybridExperts, Bf16HybridExperts: a shared expert for all tokens, routed experts for edge tokens
// (OPERATORS.md).

#include "kernels/hybrid_experts.h"

#include "kernels/bf16_hybrid_experts.h"
#include "ops/token_list.h"

namespace i2f {

I2F_KERNEL(PackedExpertsSizeKernel, packed_experts_size)
I2F_KERNEL(PackExpertsKernel, pack_experts)
I2F_KERNEL(HybridExpertsKernel, hybrid_experts)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16ExpertsSizeKernel,
                             packed_bf16_experts_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16ExpertsKernel, pack_bf16_experts)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16HybridExpertsKernel, bf16_hybrid_experts)

namespace {

// The parameters in a kernel's own order: that of bfloat16 numbers where it is asked for and serves
// such sizes.
struct PackedExperts {
  PackedExperts(const Inputs& inputs, bool bfloat16) {
    const auto gate = inputs.get<float>(4, "gate_weight", {"1+R", "C"});
    const int64_t experts = gate.dim(0), channels = gate.dim(1);
    expect(experts >= 2 && channels >= 1, "gate_weight [1+R, C] with R >= 1 and C >= 1",
           "[" + std::to_string(experts) + ", " + std::to_string(channels) + "]");
    const Dim all("1+R", experts), c("C", channels);
    const auto w1 = inputs.get<float>(7, "w1", {all, "H", c});
    expect(w1.dim(1) >= 1, "w1 [1+R, H, C] with H >= 1", "H=0");
    const Dim h("H", w1.dim(1));
    const auto take = [&](size_t index, const char* name, Shape shape) {
      return inputs.get<float>(index, name, shape).data;
    };
    sizes = {channels, w1.dim(1), experts - 1};
    ExpertWeights weights{};
    weights.input_norm_weight = take(2, "input_norm_weight", {c});
    weights.input_norm_bias = take(3, "input_norm_bias", {c});
    weights.gate_weight = gate.data;
    weights.gate_bias = take(5, "gate_bias", {all});
    weights.expert_bias = take(6, "expert_bias", {{"R", experts - 1}});
    weights.w1 = w1.data;
    weights.b1 = take(8, "b1", {all, h});
    weights.w2 = take(9, "w2", {all, h, c});
    weights.b2 = take(10, "b2", {all, h});
    weights.norm_weight = take(11, "norm_weight", {2, h});
    weights.norm_bias = take(12, "norm_bias", {2, h});
    weights.w3 = take(13, "w3", {all, c, h});
    weights.b3 = take(14, "b3", {all, c});
    const size_t bytes = bfloat16 ? kernels::packed_bf16_experts_size(sizes) : 0;
    if (bytes > 0) {
      bf16 = Buffer<char>(bytes);
      kernels::pack_bf16_experts(sizes, weights, bf16.data());
    } else {
      fp32 = Buffer<float>(kernels::packed_experts_size(sizes));
      kernels::pack_experts(sizes, weights, fp32.data());
    }
  }

  ExpertSizes sizes;
  Buffer<float> fp32;
  Buffer<char> bf16;
};

template <bool kBfloat16>
class HybridExperts final : public Kernel {
 public:
  explicit HybridExperts(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(2, 15)) packed_ = std::make_unique<PackedExperts>(info, kBfloat16);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedExperts(context, kBfloat16));
  }

 private:
  void run(KernelContext& context, const PackedExperts& experts) const {
    const auto x = context.get<float>(0, "x", {"L", {"C", experts.sizes.channels}});
    const int64_t tokens = x.dim(0);
    const auto edge = edge_tokens(context, 1, tokens);
    float* out = context.output<float>(0, {tokens, experts.sizes.channels});
    if (experts.bf16.data() != nullptr) {
      kernels::bf16_hybrid_experts(x.data, tokens, edge.data, edge.dim(0), experts.sizes,
                                   experts.bf16.data(), epsilon_, out, context.memory(),
                                   context.parallel());
    } else {
      kernels::hybrid_experts(x.data, tokens, edge.data, edge.dim(0), experts.sizes,
                              experts.fp32.data(), epsilon_, out, context.memory(),
                              context.parallel());
    }
  }

  float epsilon_;
  std::unique_ptr<PackedExperts> packed_;  // when the parameters are constants
};

const Registration kHybridExperts(
    {"HybridExperts", 15, false, {kElementType<float>}, create_kernel<HybridExperts<false>>});
const Registration kBf16HybridExperts(
    {"Bf16HybridExperts", 15, false, {kElementType<float>}, create_kernel<HybridExperts<true>>});

}  // namespace
}  // namespace i2f
