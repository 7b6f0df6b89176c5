// Int8Linear and Bf16Linear: linear layers in low precision, with a GELU if asked for, after a
// LayerNorm or before a residual addition (OPERATORS.md).

#include "ops/linear_kernels.h"
#include "ops/operator.h"

namespace i2f {

namespace {

// What sets the two precisions apart: how many parameters a layer has, the first of which is input
// `first`. `scale` is the one that only int8 has.
struct Int8 {
  static constexpr size_t kParameters = 3;
  static constexpr int64_t kMaxInputs = kMaxInt8Inputs;

  static Buffer<char> pack(const Inputs& inputs, size_t first, const LinearSizes& sizes,
                           const int8_t* weight, const Dim& n) {
    const Int8LinearWeights weights{weight, inputs.get<float>(first + 1, "scale", {n}).data,
                                    inputs.get<float>(first + 2, "bias", {n}).data};
    Buffer<char> packed(kernels::packed_int8_linear_size(sizes));
    kernels::pack_int8_linear(sizes, weights, packed.data());
    return packed;
  }
  using Weight = int8_t;
  static constexpr const auto& kKernel = kernels::int8_linear;
};

struct Bf16 {
  static constexpr size_t kParameters = 2;
  static constexpr int64_t kMaxInputs = kMaxDim;

  static Buffer<char> pack(const Inputs& inputs, size_t first, const LinearSizes& sizes,
                           const Bfloat16* weight, const Dim& n) {
    const Bf16LinearWeights weights{&weight->bits, inputs.get<float>(first + 1, "bias", {n}).data};
    Buffer<char> packed(kernels::packed_bf16_linear_size(sizes));
    kernels::pack_bf16_linear(sizes, weights, packed.data());
    return packed;
  }
  using Weight = Bfloat16;
  static constexpr const auto& kKernel = kernels::bf16_linear;
};

// The parameters in a kernel's own order.
template <class P>
struct Packed {
  Packed(const Inputs& inputs, size_t first) {
    const auto weight = inputs.get<typename P::Weight>(first, "weight", {"N", "K"});
    sizes = {weight.dim(1), weight.dim(0)};
    expect(sizes.outputs >= 1 && sizes.inputs >= 1 && sizes.inputs <= P::kMaxInputs,
           "weight [N, K] with N >= 1 and 1 <= K <= " + std::to_string(P::kMaxInputs),
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    data = P::pack(inputs, first, sizes, weight.data, {"N", sizes.outputs});
  }

  LinearSizes sizes;
  Buffer<char> data;
};

// What stands around a layer, and how many inputs come before its parameters.
enum class Form { kAlone, kGelu, kNorm, kNormGelu, kAdd };
constexpr bool has_norm(Form form) { return form == Form::kNorm || form == Form::kNormGelu; }
constexpr size_t first_parameter(Form form) {
  return has_norm(form) ? 3 : form == Form::kAdd ? 2 : 1;
}

template <class P, Form kForm>
class ReducedPrecisionLinear final : public Kernel {
 public:
  explicit ReducedPrecisionLinear(const KernelInfo& info)
      : epsilon_(has_norm(kForm) ? info.attribute("epsilon", 1e-5f) : 0) {
    if (info.known(kFirst, kFirst + P::kParameters)) {
      packed_ = std::make_unique<Packed<P>>(info, kFirst);
    }
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, Packed<P>(context, kFirst));
  }

 private:
  static constexpr size_t kFirst = first_parameter(kForm);

  void run(KernelContext& context, const Packed<P>& packed) const {
    const Dim k("K", packed.sizes.inputs);
    const auto x = context.get<float>(0, "x", {"T", k});
    const int64_t rows = x.dim(0), outputs = packed.sizes.outputs;
    AroundLinear around;
    around.gelu = kForm == Form::kGelu || kForm == Form::kNormGelu;
    if (has_norm(kForm)) {
      around.norm_weight = context.get<float>(1, "norm_weight", {k}).data;
      around.norm_bias = context.get<float>(2, "norm_bias", {k}).data;
      around.epsilon = epsilon_;
    }
    if (kForm == Form::kAdd) {
      around.residual = context.get<float>(1, "residual", {{"T", rows}, {"N", outputs}}).data;
    }
    P::kKernel(x.data, rows, packed.sizes, packed.data.data(), around,
               context.output<float>(0, {rows, outputs}), context.memory(), context.parallel());
  }

  float epsilon_;
  std::unique_ptr<Packed<P>> packed_;  // when the parameters are constants
};

template <class P, Form kForm>
OperatorSpec spec_of(const char* name) {
  OperatorSpec spec{name,
                    first_parameter(kForm) + P::kParameters,
                    false,
                    {kElementType<float>},
                    create_kernel<ReducedPrecisionLinear<P, kForm>>};
  if (kForm == Form::kAdd) spec.in_place = output_in_input<1>;
  return spec;
}

const Registration kInt8Linear(spec_of<Int8, Form::kAlone>("Int8Linear"));
const Registration kInt8LinearGelu(spec_of<Int8, Form::kGelu>("Int8LinearGelu"));
const Registration kInt8NormLinear(spec_of<Int8, Form::kNorm>("Int8NormLinear"));
const Registration kInt8NormLinearGelu(spec_of<Int8, Form::kNormGelu>("Int8NormLinearGelu"));
const Registration kInt8LinearAdd(spec_of<Int8, Form::kAdd>("Int8LinearAdd"));
const Registration kBf16Linear(spec_of<Bf16, Form::kAlone>("Bf16Linear"));
const Registration kBf16LinearGelu(spec_of<Bf16, Form::kGelu>("Bf16LinearGelu"));
const Registration kBf16NormLinear(spec_of<Bf16, Form::kNorm>("Bf16NormLinear"));
const Registration kBf16NormLinearGelu(spec_of<Bf16, Form::kNormGelu>("Bf16NormLinearGelu"));
const Registration kBf16LinearAdd(spec_of<Bf16, Form::kAdd>("Bf16LinearAdd"));

}  // namespace
}  // namespace i2f
