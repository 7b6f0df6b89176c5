// OperatorInfo: what this library is. `tier, versions = OperatorInfo()`: the kernels' tier, a
// string, and int64 [2], the version of the domain and of the onnxruntime interface it was built
// for.

#include "ops/operator.h"

namespace i2f {
namespace {

constexpr int64_t kDomainVersion = 2;

class OperatorInfo final : public Kernel {
 public:
  explicit OperatorInfo(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    context.output_text(0, kernels().tier);
    int64_t* versions = context.output<int64_t>(1, {2});
    versions[0] = kDomainVersion;
    versions[1] = ORT_API_VERSION;
  }
};

}  // namespace

OperatorSpec OperatorInfo_spec() {
  return {"OperatorInfo",
          0,
          false,
          {ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, kElementType<int64_t>},
          create_kernel<OperatorInfo>};
}

}  // namespace i2f
