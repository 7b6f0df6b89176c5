// TokenToImageAttention: a few tokens attend to the image's (OPERATORS.md).

#include "kernels/token_to_image_attention.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(PackedTokenToImageSizeKernel, packed_token_to_image_size)
I2F_KERNEL(PackTokenToImageKernel, pack_token_to_image)
I2F_KERNEL(TokenToImageAttentionKernel, token_to_image_attention)

namespace {

// key_weight and value_weight.
struct Parameters {
  explicit Parameters(const Inputs& inputs) {
    const auto key_weight = inputs.get<float>(3, "key_weight", {"D", "C"});
    const int64_t d = key_weight.dim(0), c = key_weight.dim(1);
    expect(c >= 1 && d >= 1, "C and D of at least 1",
           std::to_string(c) + " and " + std::to_string(d));
    sizes = {1, 1, d, 1, c};
    weights = {key_weight.data, inputs.get<float>(4, "value_weight", {{"D", d}, {"C", c}}).data};
  }

  TokenToImageSizes sizes{};
  TokenToImageWeights weights{};
};

class TokenToImageAttention final : public Kernel {
 public:
  explicit TokenToImageAttention(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})) {
    expect(heads_ >= 1, "heads of at least 1", std::to_string(heads_));
    if (!info.known(3, 5)) return;
    const Parameters parameters(info);
    kept_ = Buffer<float>(kernels::packed_token_to_image_size(parameters.sizes));
    kernels::pack_token_to_image(parameters.sizes, parameters.weights, kept_.data());
  }

  void compute(KernelContext& context) const override {
    const Parameters parameters(context);
    TokenToImageSizes sizes = parameters.sizes;
    expect(sizes.width % heads_ == 0, "D a multiple of heads=" + std::to_string(heads_),
           std::to_string(sizes.width));
    sizes.heads = heads_;
    const float* packed = kept_.data();
    if (packed == nullptr) {
      auto* data = context.scratch<float>(kernels::packed_token_to_image_size(sizes));
      kernels::pack_token_to_image(sizes, parameters.weights, data);
      packed = data;
    }
    const Dim d("D", sizes.width);
    const auto query = context.get<float>(0, "query", {"T", d});
    const auto image = context.get<float>(1, "image", {"L", {"C", sizes.channels}});
    sizes.tokens = query.dim(0);
    sizes.rows = image.dim(0);
    expect(sizes.tokens >= 1 && sizes.rows >= 1, "T and L of at least 1",
           std::to_string(sizes.tokens) + " and " + std::to_string(sizes.rows));
    const TokenToImageInputs inputs{query.data, image.data,
                                    context.get<float>(2, "key", {{"L", sizes.rows}, d}).data,
                                    context.get<float>(5, "value_bias", {d}).data};
    kernels::token_to_image_attention(sizes, inputs, parameters.weights, packed,
                                      context.output<float>(0, {sizes.tokens, sizes.width}),
                                      context.memory(), context.parallel());
  }

 private:
  int64_t heads_;
  Buffer<float> kept_;
};

const Registration kTokenToImageAttention({"TokenToImageAttention",
                                           6,
                                           false,
                                           {kElementType<float>},
                                           create_kernel<TokenToImageAttention>});

}  // namespace
}  // namespace i2f
