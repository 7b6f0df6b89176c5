// OperatorInfo: what this library is (OPERATORS.md).

#include "ops/operator.h"

namespace i2f {
namespace {

constexpr int64_t kDomainVersion = 2;

class OperatorInfo final : public Kernel {
 public:
  explicit OperatorInfo(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    const Choice* choices[kProducts];
    std::vector<const char*> chosen, tiers, unused;
    for (size_t product = 0; product < kProducts; ++product) {
      choices[product] = &choice(static_cast<Product>(product));
      chosen.push_back(kTiers[choices[product]->tier]);
    }
    context.output_texts(0, chosen);
    int64_t* versions = context.output<int64_t>(1, {2});
    versions[0] = kDomainVersion;
    versions[1] = ORT_API_VERSION;
    std::vector<const char*> names;
    for (const OperatorSpec& spec : Registration::all()) names.push_back(spec.name);
    context.output_texts(2, names);
    for (size_t tier = 0; tier < kTierCount; ++tier) {
      const char* wrong = obstacle(tier);
      if (wrong == nullptr) tiers.push_back(kTiers[tier]);
      if (wrong != nullptr && *wrong != '\0') {
        unused.push_back(kTiers[tier]);
        unused.push_back(wrong);
      }
    }
    context.output_texts(3, tiers);
    float* rates =
        context.output<float>(4, {int64_t{kProducts}, static_cast<int64_t>(tiers.size())});
    for (const Choice* of_product : choices) {
      for (size_t tier = 0; tier < kTierCount; ++tier) {
        if (runs_here(tier)) *rates++ = of_product->rates[tier];
      }
    }
    context.output_texts(5, unused);
  }
};

constexpr auto kText = ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING;
const Registration kOperatorInfo({"OperatorInfo",
                                  0,
                                  false,
                                  {kText, kElementType<int64_t>, kText, kText, kElementType<float>,
                                   kText},
                                  create_kernel<OperatorInfo>});

}  // namespace
}  // namespace i2f
