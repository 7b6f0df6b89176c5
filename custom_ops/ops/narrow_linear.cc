// Int8Linear and Bf16Linear: linear layers in low precision, with a GELU if asked for
// (OPERATORS.md).

#include "kernels/narrow_linear.h"

#include "ops/operator.h"

namespace i2f {
namespace {

// What sets the two operators apart. `scale` is the one parameter that only int8 has.
struct Int8 {
  static constexpr size_t kInputs = 4;
  static constexpr int64_t kMostInputs = kMostInt8Inputs;

  static Buffer<char> pack(const Inputs& inputs, const NarrowLinearSizes& sizes,
                           const int8_t* weight, const Dim& n) {
    const Int8LinearWeights weights{weight, inputs.get<float>(2, "scale", {n}).data,
                                    inputs.get<float>(3, "bias", {n}).data};
    Buffer<char> packed(kernels().packed_int8_linear_size(sizes));
    kernels().pack_int8_linear(sizes, weights, packed.data());
    return packed;
  }
  using Weight = int8_t;
  static Int8LinearKernel* kernel() { return kernels().int8_linear; }
};

struct Bf16 {
  static constexpr size_t kInputs = 3;
  static constexpr int64_t kMostInputs = kMaxDim;

  static Buffer<char> pack(const Inputs& inputs, const NarrowLinearSizes& sizes,
                           const Bfloat16* weight, const Dim& n) {
    const Bf16LinearWeights weights{&weight->bits, inputs.get<float>(2, "bias", {n}).data};
    Buffer<char> packed(kernels().packed_bf16_linear_size(sizes));
    kernels().pack_bf16_linear(sizes, weights, packed.data());
    return packed;
  }
  using Weight = Bfloat16;
  static Bf16LinearKernel* kernel() { return kernels().bf16_linear; }
};

// The parameters in a kernel's own order.
template <class P>
struct Packed {
  explicit Packed(const Inputs& inputs) {
    const auto weight = inputs.get<typename P::Weight>(1, "weight", {"N", "K"});
    sizes = {weight.dim(1), weight.dim(0)};
    expect(sizes.outputs >= 1 && sizes.inputs >= 1 && sizes.inputs <= P::kMostInputs,
           "weight [N, K] with N >= 1 and 1 <= K <= " + std::to_string(P::kMostInputs),
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    data = P::pack(inputs, sizes, weight.data, {"N", sizes.outputs});
  }

  NarrowLinearSizes sizes;
  Buffer<char> data;
};

template <class P, bool kGelu>
class NarrowLinear final : public Kernel {
 public:
  explicit NarrowLinear(const KernelInfo& info) {
    if (info.known(1, P::kInputs)) packed_ = std::make_unique<Packed<P>>(info);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, Packed<P>(context));
  }

 private:
  void run(KernelContext& context, const Packed<P>& packed) const {
    const auto x = context.get<float>(0, "x", {"T", {"K", packed.sizes.inputs}});
    P::kernel()(x.data, x.dim(0), packed.sizes, packed.data.data(), kGelu,
                context.output<float>(0, {x.dim(0), packed.sizes.outputs}), context.memory(),
                context.parallel());
  }

  std::unique_ptr<Packed<P>> packed_;  // when the parameters are constants
};

template <class P, bool kGelu>
OperatorSpec narrow_linear(const char* name) {
  return {name, P::kInputs, false, {kElementType<float>}, create_kernel<NarrowLinear<P, kGelu>>};
}

}  // namespace

OperatorSpec Int8Linear_spec() { return narrow_linear<Int8, false>("Int8Linear"); }

OperatorSpec Int8LinearGelu_spec() { return narrow_linear<Int8, true>("Int8LinearGelu"); }

OperatorSpec Bf16Linear_spec() { return narrow_linear<Bf16, false>("Bf16Linear"); }

OperatorSpec Bf16LinearGelu_spec() { return narrow_linear<Bf16, true>("Bf16LinearGelu"); }

}  // namespace i2f
