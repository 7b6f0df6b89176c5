// Int8Mlp and Bf16Mlp: the MLP of a transformer block in low precision (OPERATORS.md).

#include "kernels/reduced_precision_mlp.h"

#include "ops/linear_kernels.h"
#include "ops/operator.h"

namespace i2f {

I2F_REDUCED_PRECISION_KERNEL(Product::kInt8, Int8MlpKernel, int8_mlp)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16MlpKernel, bf16_mlp)

namespace {

// A layer: its sizes and where its parameters stand, under which names.
struct Layer {
  LinearSizes sizes;
  Dim outputs;
  size_t index;
  const char *scale, *bias;
};

// What sets the two operators apart.
struct Int8 {
  static constexpr size_t kOfLayer = 3;  // inputs of a layer
  static constexpr int64_t kMaxInputs = kMaxInt8Inputs;

  static Buffer<char> pack(const Inputs& inputs, const Layer& layer, const int8_t* weight) {
    const float* scale = inputs.get<float>(layer.index + 1, layer.scale, {layer.outputs}).data;
    const float* bias = inputs.get<float>(layer.index + 2, layer.bias, {layer.outputs}).data;
    Buffer<char> packed(kernels::packed_int8_linear_size(layer.sizes));
    kernels::pack_int8_linear(layer.sizes, {weight, scale, bias}, packed.data());
    return packed;
  }
  using Weight = int8_t;
  static constexpr const auto& kKernel = kernels::int8_mlp;
};

struct Bf16 {
  static constexpr size_t kOfLayer = 2;
  static constexpr int64_t kMaxInputs = kMaxDim;

  static Buffer<char> pack(const Inputs& inputs, const Layer& layer, const Bfloat16* weight) {
    const float* bias = inputs.get<float>(layer.index + 1, layer.bias, {layer.outputs}).data;
    Buffer<char> packed(kernels::packed_bf16_linear_size(layer.sizes));
    kernels::pack_bf16_linear(layer.sizes, {&weight->bits, bias}, packed.data());
    return packed;
  }
  using Weight = Bfloat16;
  static constexpr const auto& kKernel = kernels::bf16_mlp;
};

// The layers' parameters in a kernel's own order.
template <class P>
struct Packed {
  static constexpr size_t kFirst = 3, kSecond = kFirst + P::kOfLayer;
  static constexpr size_t kInputs = kSecond + P::kOfLayer;

  explicit Packed(const Inputs& inputs) {
    const auto weight = inputs.get<typename P::Weight>(kFirst, "weight1", {"H", "D"});
    hidden = weight.dim(0), width = weight.dim(1);
    const int64_t most = P::kMaxInputs;
    expect(hidden >= 1 && width >= 1 && hidden <= most && width <= most,
           "weight1 [H, D] with H and D from 1 to " + std::to_string(most),
           "[" + std::to_string(hidden) + ", " + std::to_string(width) + "]");
    const Dim h("H", hidden), d("D", width);
    const auto weight2 = inputs.get<typename P::Weight>(kSecond, "weight2", {d, h});
    first = P::pack(inputs, {{width, hidden}, h, kFirst, "scale1", "bias1"}, weight.data);
    second = P::pack(inputs, {{hidden, width}, d, kSecond, "scale2", "bias2"}, weight2.data);
  }

  int64_t hidden, width;
  Buffer<char> first, second;
};

template <class P>
class ReducedPrecisionMlp final : public Kernel {
 public:
  explicit ReducedPrecisionMlp(const KernelInfo& info)
      : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(Packed<P>::kFirst, Packed<P>::kInputs)) {
      packed_ = std::make_unique<Packed<P>>(info);
    }
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, Packed<P>(context));
  }

 private:
  void run(KernelContext& context, const Packed<P>& packed) const {
    const Dim d("D", packed.width);
    const auto x = context.get<float>(0, "x", {"T", d});
    const Mlp mlp{packed.width,
                  packed.hidden,
                  context.get<float>(1, "norm_weight", {d}).data,
                  context.get<float>(2, "norm_bias", {d}).data,
                  epsilon_,
                  packed.first.data(),
                  packed.second.data()};
    P::kKernel(x.data, x.dim(0), mlp, context.output<float>(0, {x.dim(0), packed.width}),
               context.memory(), context.parallel());
  }

  float epsilon_;
  std::unique_ptr<Packed<P>> packed_;  // when the parameters are constants
};

template <class P>
OperatorSpec spec_of(const char* name) {
  return {name,
          Packed<P>::kInputs,
          false,
          {kElementType<float>},
          create_kernel<ReducedPrecisionMlp<P>>};
}

const Registration kInt8Mlp(spec_of<Int8>("Int8Mlp"));
const Registration kBf16Mlp(spec_of<Bf16>("Bf16Mlp"));

}  // namespace
}  // namespace i2f
