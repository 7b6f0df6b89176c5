// Int8Linear and Bf16Linear: linear layers in low precision, with a GELU if asked for
// (OPERATORS.md).

#include "ops/linear_kernels.h"
#include "ops/operator.h"

namespace i2f {

namespace {

// What sets the two operators apart. `scale` is the one parameter that only int8 has.
struct Int8 {
  static constexpr size_t kInputs = 4;
  static constexpr int64_t kMaxInputs = kMaxInt8Inputs;

  static Buffer<char> pack(const Inputs& inputs, const LinearSizes& sizes, const int8_t* weight,
                           const Dim& n) {
    const Int8LinearWeights weights{weight, inputs.get<float>(2, "scale", {n}).data,
                                    inputs.get<float>(3, "bias", {n}).data};
    Buffer<char> packed(kernels::packed_int8_linear_size(sizes));
    kernels::pack_int8_linear(sizes, weights, packed.data());
    return packed;
  }
  using Weight = int8_t;
  static constexpr const auto& kKernel = kernels::int8_linear;
};

struct Bf16 {
  static constexpr size_t kInputs = 3;
  static constexpr int64_t kMaxInputs = kMaxDim;

  static Buffer<char> pack(const Inputs& inputs, const LinearSizes& sizes, const Bfloat16* weight,
                           const Dim& n) {
    const Bf16LinearWeights weights{&weight->bits, inputs.get<float>(2, "bias", {n}).data};
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
  explicit Packed(const Inputs& inputs) {
    const auto weight = inputs.get<typename P::Weight>(1, "weight", {"N", "K"});
    sizes = {weight.dim(1), weight.dim(0)};
    expect(sizes.outputs >= 1 && sizes.inputs >= 1 && sizes.inputs <= P::kMaxInputs,
           "weight [N, K] with N >= 1 and 1 <= K <= " + std::to_string(P::kMaxInputs),
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    data = P::pack(inputs, sizes, weight.data, {"N", sizes.outputs});
  }

  LinearSizes sizes;
  Buffer<char> data;
};

template <class P, bool kGelu>
class ReducedPrecisionLinear final : public Kernel {
 public:
  explicit ReducedPrecisionLinear(const KernelInfo& info) {
    if (info.known(1, P::kInputs)) packed_ = std::make_unique<Packed<P>>(info);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, Packed<P>(context));
  }

 private:
  void run(KernelContext& context, const Packed<P>& packed) const {
    const auto x = context.get<float>(0, "x", {"T", {"K", packed.sizes.inputs}});
    P::kKernel(x.data, x.dim(0), packed.sizes, packed.data.data(), kGelu,
               context.output<float>(0, {x.dim(0), packed.sizes.outputs}), context.memory(),
               context.parallel());
  }

  std::unique_ptr<Packed<P>> packed_;  // when the parameters are constants
};

template <class P, bool kGelu>
OperatorSpec spec_of(const char* name) {
  return {name,
          P::kInputs,
          false,
          {kElementType<float>},
          create_kernel<ReducedPrecisionLinear<P, kGelu>>};
}

const Registration kInt8Linear(spec_of<Int8, false>("Int8Linear"));
const Registration kInt8LinearGelu(spec_of<Int8, true>("Int8LinearGelu"));
const Registration kBf16Linear(spec_of<Bf16, false>("Bf16Linear"));
const Registration kBf16LinearGelu(spec_of<Bf16, true>("Bf16LinearGelu"));

}  // namespace
}  // namespace i2f
