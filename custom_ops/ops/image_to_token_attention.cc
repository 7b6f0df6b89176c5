// ImageToTokenAttention: image tokens attend to a few others, and are normalised (OPERATORS.md).

#include "kernels/image_to_token_attention.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(PackedImageToTokenSizeKernel, packed_image_to_token_size)
I2F_KERNEL(PackImageToTokenKernel, pack_image_to_token)
I2F_KERNEL(ImageToTokenAttentionKernel, image_to_token_attention)

namespace {

// query_weight, out_weight and out_bias.
struct Parameters {
  explicit Parameters(const Inputs& inputs) {
    const auto query_weight = inputs.get<float>(2, "query_weight", {"D", "I"});
    const int64_t d = query_weight.dim(0), i = query_weight.dim(1);
    const auto out_weight = inputs.get<float>(7, "out_weight", {"C", {"D", d}});
    const int64_t c = out_weight.dim(0);
    expect(c >= 1 && d >= 1 && i >= 1, "C, D and I of at least 1",
           std::to_string(c) + ", " + std::to_string(d) + " and " + std::to_string(i));
    sizes = {0, 1, d, 1, i, c};
    weights = {query_weight.data, out_weight.data,
               inputs.get<float>(8, "out_bias", {{"C", c}}).data};
  }

  ImageToTokenSizes sizes{};
  ImageToTokenWeights weights{};
};

class ImageToTokenAttention final : public Kernel {
 public:
  explicit ImageToTokenAttention(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})), epsilon_(info.attribute("epsilon", 1e-5f)) {
    expect(heads_ >= 1, "heads of at least 1", std::to_string(heads_));
    if (!info.known(2, 3) || !info.known(7, 9)) return;
    const Parameters parameters(info);
    kept_ = Buffer<float>(kernels::packed_image_to_token_size(parameters.sizes));
    kernels::pack_image_to_token(parameters.sizes, parameters.weights, kept_.data());
  }

  void compute(KernelContext& context) const override {
    const Parameters parameters(context);
    ImageToTokenSizes sizes = parameters.sizes;
    const float* packed = kept_.data();
    if (packed == nullptr) {
      auto* data = context.scratch<float>(kernels::packed_image_to_token_size(sizes));
      kernels::pack_image_to_token(sizes, parameters.weights, data);
      packed = data;
    }
    expect(sizes.width % heads_ == 0, "D a multiple of heads=" + std::to_string(heads_),
           std::to_string(sizes.width));
    sizes.heads = heads_;
    const Dim d("D", sizes.width), c("C", sizes.channels);
    const auto query = context.get<float>(0, "query", {"L", d});
    const auto key = context.get<float>(4, "key", {"T", d});
    sizes.rows = query.dim(0);
    sizes.tokens = key.dim(0);
    expect(sizes.tokens >= 1, "T of at least 1", std::to_string(sizes.tokens));
    const Dim l("L", sizes.rows);
    const ImageToTokenInputs inputs{
        query.data,
        context.get<float>(1, "query_input", {l, {"I", sizes.inputs}}).data,
        parameters.weights.query_weight,
        context.get<float>(3, "query_bias", {d}).data,
        key.data,
        context.get<float>(5, "value", {{"T", sizes.tokens}, d}).data,
        context.get<float>(6, "image", {l, c}).data,
        context.get<float>(9, "norm_weight", {c}).data,
        context.get<float>(10, "norm_bias", {c}).data};
    kernels::image_to_token_attention(sizes, inputs, packed, epsilon_,
                                      context.output<float>(0, {sizes.rows, sizes.channels}),
                                      context.memory(), context.parallel());
  }

 private:
  int64_t heads_;
  float epsilon_;
  Buffer<float> kept_;
};

const Registration kImageToTokenAttention({"ImageToTokenAttention",
                                           11,
                                           false,
                                           {kElementType<float>},
                                           create_kernel<ImageToTokenAttention>});

}  // namespace
}  // namespace i2f
