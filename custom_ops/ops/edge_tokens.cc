// EdgeTokens: which tokens get full attention (OPERATORS.md; paper Eq. 4).

#include "kernels/edge_tokens.h"

#include <algorithm>

#include "kernels/label_box.h"
#include "ops/labels.h"
#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(LabelBoxKernel, label_box)
I2F_KERNEL(EdgeTokensKernel, edge_tokens)

namespace {

constexpr int64_t kPatch = 16;  // pixels a token, as everywhere in the model

template <EdgeRule kRule>
class EdgeTokens final : public Kernel {
 public:
  explicit EdgeTokens(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    const LabelMap labels = label_map(context, 0, kPatch);
    const int64_t tokens = labels.height / kPatch * (labels.width / kPatch);
    auto* flags = context.scratch<uint8_t>(static_cast<size_t>(tokens));
    int64_t box[4];
    kernels::label_box(labels.data, labels.height, labels.width, kPatch, box);
    expect_label(kernels::edge_tokens(labels.data, labels.height, labels.width, kPatch, kRule, box,
                                      context.parallel(), flags));
    const int64_t count = std::count(flags, flags + tokens, 1);
    int64_t* edge = context.output<int64_t>(0, {count});
    for (int64_t token = 0; token < tokens; ++token) {
      if (flags[token] != 0) *edge++ = token;
    }
  }
};

const Registration kEdgeTokens({"EdgeTokens",
                                1,
                                false,
                                {kElementType<int64_t>},
                                create_kernel<EdgeTokens<EdgeRule::kReleased>>});
const Registration kEdgeTokensExact({"EdgeTokensExact",
                                     1,
                                     false,
                                     {kElementType<int64_t>},
                                     create_kernel<EdgeTokens<EdgeRule::kExact>>});

}  // namespace
}  // namespace i2f
