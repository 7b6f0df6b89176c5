// EdgeTokens: which tokens get full attention (OPERATORS.md; paper Eq. 4).

#include "kernels/edge_tokens.h"

#include <algorithm>

#include "ops/labels.h"
#include "ops/operator.h"

namespace i2f {
namespace {

class EdgeTokens final : public Kernel {
 public:
  explicit EdgeTokens(const KernelInfo& info)
      : rule_(info.attribute("rule", {"released", "exact"}, 0) == 0 ? EdgeRule::kReleased
                                                                    : EdgeRule::kExact),
        patch_(info.attribute("patch", int64_t{16})) {
    expect(patch_ >= 1 && patch_ <= kMaxEdgePatch,
           "attribute patch of 1 to " + std::to_string(kMaxEdgePatch), std::to_string(patch_));
  }

  void compute(KernelContext& context) const override {
    const LabelMap labels = label_map(context, 0, patch_);
    const int64_t grid = labels.side / patch_;
    auto* flags = context.scratch<uint8_t>(checked_product(grid, grid));
    int64_t box[4];
    kernels().label_box(labels.data, labels.side, patch_, box);
    expect_label(kernels().edge_tokens(labels.data, labels.side, patch_, rule_, box,
                                       context.parallel(), flags));
    const int64_t count = std::count(flags, flags + grid * grid, 1);
    int64_t* edge = context.output<int64_t>(0, {count});
    for (int64_t token = 0; token < grid * grid; ++token) {
      if (flags[token] != 0) *edge++ = token;
    }
  }

 private:
  EdgeRule rule_;
  int64_t patch_;
};

}  // namespace

OperatorSpec EdgeTokens_spec() {
  return {"EdgeTokens", 1, false, {kElementType<int64_t>}, create_kernel<EdgeTokens>};
}

}  // namespace i2f
