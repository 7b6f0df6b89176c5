// NormLinear and LinearAdd: linear layers with a LayerNorm before or a residual addition after them
// (OPERATORS.md).

#include "ops/linear_kernels.h"
#include "ops/operator.h"

namespace i2f {

namespace {

// Constant weights up to so many are packed once. Those of larger layers would take twice the
// memory for good; packed at each call they cost a few percent of it.
constexpr int64_t kMaxKept = 1 << 18;

// A layer's parameters: weight and bias are inputs `first` and the one behind it, norm_weight and
// norm_bias inputs 1 and 2 if there is a norm.
struct Parameters {
  Parameters(const Inputs& inputs, size_t first, bool norm) {
    const auto weight = inputs.get<float>(first, "weight", {"N", "C"});
    sizes = {weight.dim(1), weight.dim(0)};
    expect(sizes.inputs >= 1 && sizes.outputs >= 1, "weight [N, C] with N >= 1 and C >= 1",
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    const auto bias = inputs.get<float>(first + 1, "bias", {{"N", sizes.outputs}});
    weights = {weight.data, bias.data, nullptr, nullptr};
    if (norm) {
      const Dim c("C", sizes.inputs);
      weights.norm_weight = inputs.get<float>(1, "norm_weight", {c}).data;
      weights.norm_bias = inputs.get<float>(2, "norm_bias", {c}).data;
    }
  }

  LinearSizes sizes{};
  LinearWeights weights{};
};

// What both operators share: parameters in the kernel's own order.
class Linear : public Kernel {
 protected:
  Linear(const KernelInfo& info, size_t first, bool norm) : first_(first), norm_(norm) {
    if (!info.known(norm ? 1 : first, first + 2)) return;
    const Parameters parameters(info, first, norm);
    if (parameters.sizes.inputs * parameters.sizes.outputs > kMaxKept) return;
    sizes_ = parameters.sizes;
    kept_ = Buffer<float>(kernels::packed_linear_size(sizes_));
    kernels::pack_linear(sizes_, parameters.weights, kept_.data(), one_thread());
  }

  struct Packed {
    LinearSizes sizes;
    const float* data;
  };
  Packed packed(KernelContext& context) const {
    if (kept_.data() != nullptr) return {sizes_, kept_.data()};
    const Parameters parameters(context, first_, norm_);
    auto* data = context.scratch<float>(kernels::packed_linear_size(parameters.sizes));
    kernels::pack_linear(parameters.sizes, parameters.weights, data, context.parallel());
    return {parameters.sizes, data};
  }

 private:
  size_t first_;
  bool norm_;
  LinearSizes sizes_{};
  Buffer<float> kept_;
};

template <bool kGelu>
class NormLinear final : public Linear {
 public:
  explicit NormLinear(const KernelInfo& info)
      : Linear(info, 3, true), epsilon_(info.attribute("epsilon", 1e-5f)) {}

  void compute(KernelContext& context) const override {
    const Packed linear = packed(context);
    const auto x = context.get<float>(0, "x", {"L", {"C", linear.sizes.inputs}});
    kernels::norm_linear(x.data, x.dim(0), linear.sizes, linear.data, epsilon_, kGelu,
                         context.output<float>(0, {x.dim(0), linear.sizes.outputs}),
                         context.memory(), context.parallel());
  }

 private:
  float epsilon_;
};

class LinearAdd final : public Linear {
 public:
  explicit LinearAdd(const KernelInfo& info) : Linear(info, 2, false) {}

  void compute(KernelContext& context) const override {
    const Packed linear = packed(context);
    const auto x = context.get<float>(0, "x", {"L", {"C", linear.sizes.inputs}});
    const int64_t rows = x.dim(0), outputs = linear.sizes.outputs;
    const auto residual = context.get<float>(1, "residual", {{"L", rows}, {"N", outputs}});
    kernels::linear_add(x.data, residual.data, rows, linear.sizes, linear.data,
                        context.output<float>(0, {rows, outputs}), context.memory(),
                        context.parallel());
  }
};

const Registration kNormLinear(
    {"NormLinear", 5, false, {kElementType<float>}, create_kernel<NormLinear<false>>});
const Registration kNormLinearGelu(
    {"NormLinearGelu", 5, false, {kElementType<float>}, create_kernel<NormLinear<true>>});
const Registration kLinearAdd(
    {"LinearAdd", 4, false, {kElementType<float>}, create_kernel<LinearAdd>, output_in_input<1>});

}  // namespace
}  // namespace i2f
