// TokenToImageAttention: a few tokens attend to the image's (OPERATORS.md).

#include "kernels/token_to_image_attention.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(TokenToImageAttentionKernel, token_to_image_attention)

namespace {

class TokenToImageAttention final : public Kernel {
 public:
  explicit TokenToImageAttention(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})) {
    expect(heads_ >= 1, "heads of at least 1", std::to_string(heads_));
  }

  void compute(KernelContext& context) const override {
    const auto key_weight = context.get<float>(3, "key_weight", {"D", "C"});
    const Dim d("D", key_weight.dim(0)), c("C", key_weight.dim(1));
    expect(c.value >= 1 && d.value >= 1, "C and D of at least 1",
           std::to_string(c.value) + " and " + std::to_string(d.value));
    expect(d.value % heads_ == 0, "D a multiple of heads=" + std::to_string(heads_),
           std::to_string(d.value));
    const auto query = context.get<float>(0, "query", {"T", d});
    const auto image = context.get<float>(1, "image", {"L", c});
    const int64_t t = query.dim(0), l = image.dim(0);
    expect(t >= 1 && l >= 1, "T and L of at least 1",
           std::to_string(t) + " and " + std::to_string(l));
    const auto value = context.get<float>(5, "value", {"L", d});
    expect(value.dim(0) == 1 || value.dim(0) == l, "a row of value, or L=" + std::to_string(l),
           std::to_string(value.dim(0)));
    const TokenToImageInputs inputs{query.data,
                                    image.data,
                                    context.get<float>(2, "key", {{"L", l}, d}).data,
                                    key_weight.data,
                                    context.get<float>(4, "value_weight", {d, c}).data,
                                    value.data};
    kernels::token_to_image_attention({t, l, d.value, heads_, c.value, value.dim(0)}, inputs,
                                      context.output<float>(0, {t, d.value}), context.memory(),
                                      context.parallel());
  }

 private:
  int64_t heads_;
};

const Registration kTokenToImageAttention({"TokenToImageAttention",
                                           6,
                                           false,
                                           {kElementType<float>},
                                           create_kernel<TokenToImageAttention>});

}  // namespace
}  // namespace i2f
