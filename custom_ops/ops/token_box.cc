// TokenBox: where the object is (OPERATORS.md).

#include "kernels/token_box.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(TokenBoxKernel, token_box)

namespace {

class TokenBox final : public Kernel {
 public:
  explicit TokenBox(const KernelInfo& info) : threshold_(info.attribute("threshold", -2.0f)) {}

  void compute(KernelContext& context) const override {
    const auto low_res = context.get<float>(0, "low_res", {"h", "w"});
    kernels::token_box(low_res.data, low_res.dim(0), low_res.dim(1), threshold_,
                       context.output<int64_t>(0, {4}));
  }

 private:
  float threshold_;
};

const Registration kTokenBox(
    {"TokenBox", 1, false, {kElementType<int64_t>}, create_kernel<TokenBox>});

}  // namespace
}  // namespace i2f
