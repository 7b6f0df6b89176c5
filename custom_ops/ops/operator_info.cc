// OperatorInfo: what this library is (OPERATORS.md).

#include "ops/operator.h"

namespace i2f {
namespace {

constexpr int64_t kDomainVersion = 2;

class OperatorInfo final : public Kernel {
 public:
  explicit OperatorInfo(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    context.output_text(0, kTiers[chosen_tier()]);
    int64_t* versions = context.output<int64_t>(1, {2});
    versions[0] = kDomainVersion;
    versions[1] = ORT_API_VERSION;
    std::vector<const char*> names;
    for (const OperatorSpec& spec : Registration::all()) names.push_back(spec.name);
    context.output_texts(2, names);
  }
};

constexpr auto kText = ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING;
const Registration kOperatorInfo(
    {"OperatorInfo", 0, false, {kText, kElementType<int64_t>, kText}, create_kernel<OperatorInfo>});

}  // namespace
}  // namespace i2f
