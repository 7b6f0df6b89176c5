// ImageToTokenAttention: image tokens attend to a few others, and are normalised (OPERATORS.md).

#include "kernels/image_to_token_attention.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(ImageToTokenAttentionKernel, image_to_token_attention)

namespace {

class ImageToTokenAttention final : public Kernel {
 public:
  explicit ImageToTokenAttention(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})), epsilon_(info.attribute("epsilon", 1e-5f)) {
    expect(heads_ >= 1, "heads of at least 1", std::to_string(heads_));
  }

  void compute(KernelContext& context) const override {
    const auto query_weight = context.get<float>(2, "query_weight", {"D", "I"});
    const Dim d("D", query_weight.dim(0)), i("I", query_weight.dim(1));
    const auto out_weight = context.get<float>(7, "out_weight", {"C", d});
    const Dim c("C", out_weight.dim(0));
    expect(c.value >= 1 && d.value >= 1 && i.value >= 1, "C, D and I of at least 1",
           std::to_string(c.value) + ", " + std::to_string(d.value) + " and " +
               std::to_string(i.value));
    expect(d.value % heads_ == 0, "D a multiple of heads=" + std::to_string(heads_),
           std::to_string(d.value));
    const auto query = context.get<float>(0, "query", {"L", d});
    const auto key = context.get<float>(4, "key", {"T", d});
    const Dim l("L", query.dim(0)), t("T", key.dim(0));
    expect(t.value >= 1, "T of at least 1", std::to_string(t.value));
    const ImageToTokenInputs inputs{query.data,
                                    context.get<float>(1, "query_input", {l, i}).data,
                                    query_weight.data,
                                    context.get<float>(3, "query_bias", {d}).data,
                                    key.data,
                                    context.get<float>(5, "value", {t, d}).data,
                                    context.get<float>(6, "image", {l, c}).data,
                                    out_weight.data,
                                    context.get<float>(8, "out_bias", {c}).data,
                                    context.get<float>(9, "norm_weight", {c}).data,
                                    context.get<float>(10, "norm_bias", {c}).data};
    const ImageToTokenSizes sizes{l.value, t.value, d.value, heads_, i.value, c.value};
    kernels::image_to_token_attention(sizes, inputs, epsilon_,
                                      context.output<float>(0, {l.value, c.value}),
                                      context.memory(), context.parallel());
  }

 private:
  int64_t heads_;
  float epsilon_;
};

const Registration kImageToTokenAttention({"ImageToTokenAttention",
                                           11,
                                           false,
                                           {kElementType<float>},
                                           create_kernel<ImageToTokenAttention>});

}  // namespace
}  // namespace i2f
