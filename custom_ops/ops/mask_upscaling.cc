// MaskUpscaling: from image tokens to the logits of a mask (OPERATORS.md).

#include "kernels/mask_upscaling.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(PackedMaskUpscalingSizeKernel, packed_mask_upscaling_size)
I2F_KERNEL(PackMaskUpscalingKernel, pack_mask_upscaling)
I2F_KERNEL(MaskUpscalingKernel, mask_upscaling)

namespace {

// Inputs 1 to 6.
struct Parameters {
  explicit Parameters(const Inputs& inputs) {
    const auto norm_weight = inputs.get<float>(3, "norm_weight", {"D"});
    const auto second_bias = inputs.get<float>(6, "second_bias", {"E"});
    const int64_t d = norm_weight.dim(0), e = second_bias.dim(0);
    const auto first_weight = inputs.get<float>(1, "first_weight", {{"4 D", 4 * d}, "C"});
    const int64_t c = first_weight.dim(1);
    expect(c >= 1 && d >= 1 && e >= 1, "C, D and E of at least 1",
           std::to_string(c) + ", " + std::to_string(d) + " and " + std::to_string(e));
    sizes = {0, 0, c, d, e};
    weights = {first_weight.data,
               inputs.get<float>(2, "first_bias", {{"D", d}}).data,
               norm_weight.data,
               inputs.get<float>(4, "norm_bias", {{"D", d}}).data,
               inputs.get<float>(5, "second_weight", {{"4 E", 4 * e}, {"D", d}}).data,
               second_bias.data};
  }

  MaskUpscalingSizes sizes{};
  MaskUpscalingWeights weights{};
};

class MaskUpscaling final : public Kernel {
 public:
  explicit MaskUpscaling(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-6f)) {
    if (!info.known(1, 7)) return;
    const Parameters parameters(info);
    sizes_ = parameters.sizes;
    kept_ = Buffer<float>(kernels::packed_mask_upscaling_size(sizes_));
    const Parallel one_thread{nullptr,
                              [](void*, size_t count, void (*task)(void*, size_t), void* user) {
                                for (size_t i = 0; i < count; ++i) task(user, i);
                              }};
    kernels::pack_mask_upscaling(sizes_, parameters.weights, kept_.data(), one_thread);
  }

  void compute(KernelContext& context) const override {
    MaskUpscalingSizes sizes = sizes_;
    const float* packed = kept_.data();
    if (packed == nullptr) {
      const Parameters parameters(context);
      sizes = parameters.sizes;
      auto* data = context.scratch<float>(kernels::packed_mask_upscaling_size(sizes));
      kernels::pack_mask_upscaling(sizes, parameters.weights, data, context.parallel());
      packed = data;
    }
    const auto x = context.get<float>(0, "x", {"h", "w", {"C", sizes.channels}});
    const auto mask = context.get<float>(7, "mask", {{"E", sizes.second_channels}});
    sizes.height = x.dim(0);
    sizes.width = x.dim(1);
    const int64_t most = kMaxDim / 4;
    expect(sizes.height <= most && sizes.width <= most,
           "h and w of at most " + std::to_string(most),
           std::to_string(sizes.height) + " and " + std::to_string(sizes.width));
    kernels::mask_upscaling(sizes, x.data, packed, mask.data, epsilon_,
                            context.output<float>(0, {4 * sizes.height, 4 * sizes.width}),
                            context.memory(), context.parallel());
  }

 private:
  float epsilon_;
  MaskUpscalingSizes sizes_{};
  Buffer<float> kept_;
};

const Registration kMaskUpscaling(
    {"MaskUpscaling", 8, false, {kElementType<float>}, create_kernel<MaskUpscaling>});

}  // namespace
}  // namespace i2f
