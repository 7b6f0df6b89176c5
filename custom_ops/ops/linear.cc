// NormLinear and LinearAdd: linear layers with a LayerNorm before or a residual addition after them
// (OPERATORS.md).

#include "kernels/linear.h"

#include "ops/operator.h"

namespace i2f {
namespace {

// The parameters in a kernel's own order: weight and bias are inputs `first` and the one behind it,
// norm_weight and norm_bias inputs 1 and 2 if there is a norm.
struct PackedLinear {
  PackedLinear(const Inputs& inputs, size_t first, bool norm) {
    const auto weight = inputs.get<float>(first, "weight", {"N", "C"});
    sizes = {weight.dim(1), weight.dim(0)};
    expect(sizes.inputs >= 1 && sizes.outputs >= 1, "weight [N, C] with N >= 1 and C >= 1",
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    const auto bias = inputs.get<float>(first + 1, "bias", {{"N", sizes.outputs}});
    LinearWeights weights{weight.data, bias.data, nullptr, nullptr};
    if (norm) {
      const Dim c("C", sizes.inputs);
      weights.norm_weight = inputs.get<float>(1, "norm_weight", {c}).data;
      weights.norm_bias = inputs.get<float>(2, "norm_bias", {c}).data;
    }
    data = Buffer<float>(kernels().packed_linear_size(sizes));
    kernels().pack_linear(sizes, weights, data.data());
  }

  LinearSizes sizes;
  Buffer<float> data;
};

class NormLinear final : public Kernel {
 public:
  explicit NormLinear(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(1, 5)) packed_ = std::make_unique<PackedLinear>(info, 3, true);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedLinear(context, 3, true));
  }

 private:
  void run(KernelContext& context, const PackedLinear& linear) const {
    const auto x = context.get<float>(0, "x", {"L", {"C", linear.sizes.inputs}});
    kernels().norm_linear(x.data, x.dim(0), linear.sizes, linear.data.data(), epsilon_,
                          context.output<float>(0, {x.dim(0), linear.sizes.outputs}),
                          context.memory(), context.parallel());
  }

  float epsilon_;
  std::unique_ptr<PackedLinear> packed_;  // when the parameters are constants
};

class LinearAdd final : public Kernel {
 public:
  explicit LinearAdd(const KernelInfo& info) {
    if (info.known(2, 4)) packed_ = std::make_unique<PackedLinear>(info, 2, false);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedLinear(context, 2, false));
  }

 private:
  static void run(KernelContext& context, const PackedLinear& linear) {
    const auto x = context.get<float>(0, "x", {"L", {"C", linear.sizes.inputs}});
    const int64_t rows = x.dim(0), outputs = linear.sizes.outputs;
    const auto residual = context.get<float>(1, "residual", {{"L", rows}, {"N", outputs}});
    kernels().linear_add(x.data, residual.data, rows, linear.sizes, linear.data.data(),
                         context.output<float>(0, {rows, outputs}), context.parallel());
  }

  std::unique_ptr<PackedLinear> packed_;  // when the parameters are constants
};

}  // namespace

OperatorSpec NormLinear_spec() {
  return {"NormLinear", 5, false, {kElementType<float>}, create_kernel<NormLinear>};
}

OperatorSpec LinearAdd_spec() {
  return {"LinearAdd", 4, false, {kElementType<float>}, create_kernel<LinearAdd>};
}

}  // namespace i2f
