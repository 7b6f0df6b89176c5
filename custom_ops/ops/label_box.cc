// LabelBox: where labels say anything (OPERATORS.md).

#include "kernels/label_box.h"

#include "ops/labels.h"
#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(LabelBoxKernel, label_box)

namespace {

constexpr int64_t kPatch = 16;  // pixels a token, as everywhere in the model

class LabelBox final : public Kernel {
 public:
  explicit LabelBox(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    const LabelMap labels = label_map(context, 0, kPatch);
    int64_t pixels[4];
    kernels::label_box(labels.data, labels.height, labels.width, kPatch, pixels);
    int64_t* box = context.output<int64_t>(0, {4});
    for (int i = 0; i < 4; ++i) box[i] = pixels[i] / kPatch;
  }
};

const Registration kLabelBox(
    {"LabelBox", 1, false, {kElementType<int64_t>}, create_kernel<LabelBox>});

}  // namespace
}  // namespace i2f
