// MaskUpscaling: from image tokens to the logits of a mask (OPERATORS.md).

#include "kernels/mask_upscaling.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(MaskUpscalingKernel, mask_upscaling)

namespace {

class MaskUpscaling final : public Kernel {
 public:
  explicit MaskUpscaling(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-6f)) {}

  void compute(KernelContext& context) const override {
    const auto norm_weight = context.get<float>(3, "norm_weight", {"D"});
    const auto second_bias = context.get<float>(6, "second_bias", {"E"});
    const int64_t d = norm_weight.dim(0), e = second_bias.dim(0);
    const auto first_weight = context.get<float>(1, "first_weight", {{"4 D", 4 * d}, "C"});
    const int64_t c = first_weight.dim(1);
    expect(c >= 1 && d >= 1 && e >= 1, "C, D and E of at least 1",
           std::to_string(c) + ", " + std::to_string(d) + " and " + std::to_string(e));
    const MaskUpscalingWeights weights{
        first_weight.data,
        context.get<float>(2, "first_bias", {{"D", d}}).data,
        norm_weight.data,
        context.get<float>(4, "norm_bias", {{"D", d}}).data,
        context.get<float>(5, "second_weight", {{"4 E", 4 * e}, {"D", d}}).data,
        second_bias.data};
    const auto x = context.get<float>(0, "x", {"h", "w", {"C", c}});
    const auto mask = context.get<float>(7, "mask", {{"E", e}});
    const MaskUpscalingSizes sizes{x.dim(0), x.dim(1), c, d, e};
    const int64_t most = kMaxDim / 4;
    expect(sizes.height <= most && sizes.width <= most,
           "h and w of at most " + std::to_string(most),
           std::to_string(sizes.height) + " and " + std::to_string(sizes.width));
    kernels::mask_upscaling(sizes, x.data, weights, mask.data, epsilon_,
                            context.output<float>(0, {4 * sizes.height, 4 * sizes.width}),
                            context.memory(), context.parallel());
  }

 private:
  float epsilon_;
};

const Registration kMaskUpscaling(
    {"MaskUpscaling", 8, false, {kElementType<float>}, create_kernel<MaskUpscaling>});

}  // namespace
}  // namespace i2f
