// CannyMaps: gradients of the picture and where they are largest (OPERATORS.md).

#include "kernels/canny_maps.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(CannyMapsKernel, canny_maps)

namespace {

class CannyMaps final : public Kernel {
 public:
  explicit CannyMaps(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    const auto image = context.get<float>(0, "image", {"H", "W", 3});
    const auto mean = context.get<float>(1, "mean", {3});
    const auto std = context.get<float>(2, "std", {3});
    const auto blur_row = context.get<float>(3, "blur_row", {5});
    const auto blur_column = context.get<float>(4, "blur_column", {5});
    const int64_t rows = image.dim(0), columns = image.dim(1);
    float* maps = context.output<float>(0, {5, rows, columns});
    if (rows == 0 || columns == 0) return;
    kernels::canny_maps(image.data, rows, columns, mean.data, std.data, blur_row.data,
                        blur_column.data, maps, context.memory(), context.parallel());
  }
};

const Registration kCannyMaps(
    {"CannyMaps", 5, false, {kElementType<float>}, create_kernel<CannyMaps>});

}  // namespace
}  // namespace i2f
