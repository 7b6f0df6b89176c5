// LocalUpsample: one stage of local upsampling (OPERATORS.md).

#include "kernels/local_upsample.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(PackedUpsampleSizeKernel, packed_upsample_size)
I2F_KERNEL(PackUpsampleKernel, pack_upsample)
I2F_KERNEL(LocalUpsampleKernel, local_upsample)

namespace {

std::string text(std::initializer_list<int64_t> values) {
  std::string result = "[";
  for (int64_t value : values) {
    result += (result.size() > 1 ? ", " : "") + std::to_string(value);
  }
  return result + "]";
}

// The parameters in a kernel's own order.
struct PackedStage {
  explicit PackedStage(const Inputs& inputs) {
    const auto conv = inputs.get<float>(4, "conv_weight", {"Co", "Ci", 3, 3});
    out = conv.dim(0);
    in = conv.dim(1);
    expect(in >= 1 && out >= 1, "conv_weight [Co, Ci, 3, 3] with Co >= 1 and Ci >= 1",
           text({out, in, 3, 3}));
    const Dim ci("Ci", in);
    UpsampleWeights weights{};
    weights.in_channels = in;
    weights.out_channels = out;
    weights.norm_weight = inputs.get<float>(2, "norm_weight", {ci}).data;
    weights.norm_bias = inputs.get<float>(3, "norm_bias", {ci}).data;
    weights.conv_weight = conv.data;
    weights.conv_bias = inputs.get<float>(5, "conv_bias", {{"Co", out}}).data;
    data = Buffer<float>(kernels::packed_upsample_size(in, out));
    kernels::pack_upsample(weights, data.data());
  }

  int64_t in, out;
  Buffer<float> data;
};

template <bool kSilu>
class LocalUpsample final : public Kernel {
 public:
  explicit LocalUpsample(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(2, 6)) packed_ = std::make_unique<PackedStage>(info);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedStage(context));
  }

 private:
  void run(KernelContext& context, const PackedStage& stage) const {
    const auto x = context.get<float>(0, "x", {"Hc", "Wc", {"Ci", stage.in}});
    const auto box = context.get<int64_t>(1, "box", {4});
    const Dim channels("Co", stage.out);
    const auto edge = context.get<float>(6, "edge_map", {"H", "W", channels});
    const int64_t side = edge.dim(0);
    expect(edge.dim(1) == side, "edge_map [H, W, Co] with H = W",
           text({side, edge.dim(1), stage.out}));
    const Dim w("W", side);
    const auto border = context.get<float>(7, "edge_border", {4, "h", w, channels});
    const int64_t grid = border.dim(1);
    const auto corner =
        context.get<float>(8, "edge_corner", {4, {"h", grid}, {"w", grid}, channels});
    expect(grid >= 1 && side >= 1 && side % (2 * grid) == 0,
           "edge_map [H, W, Co] and edge_border [4, h, W, Co] with H a multiple of 2*h",
           "H=" + std::to_string(side) + ", h=" + std::to_string(grid));

    const int64_t left = box.data[0], top = box.data[1], right = box.data[2], bottom = box.data[3];
    expect(0 <= left && left < right && right <= grid && 0 <= top && top < bottom && bottom <= grid,
           "box left, top, right, bottom with 0 <= left < right <= w=" + std::to_string(grid) +
               " and 0 <= top < bottom <= h=" + std::to_string(grid),
           text({left, top, right, bottom}));
    const int64_t u = side / grid / 2;  // pixels a token
    const int64_t rows = u * (bottom - top), columns = u * (right - left);
    expect(x.dim(0) == rows && x.dim(1) == columns,
           "x " + text({rows, columns, stage.in}) + " for the box " +
               text({left, top, right, bottom}) + " at " + std::to_string(u) + " pixels a token",
           text({x.dim(0), x.dim(1), stage.in}));

    // Where the crop begins, in pixels of the result.
    const int64_t first_row = 2 * u * top, first_column = 2 * u * left;
    const auto border_at = [&](int64_t which, int64_t token, int64_t pixel) {
      return border.data + ((which * grid + token) * side + pixel) * stage.out;
    };
    const auto corner_at = [&](int64_t which, int64_t row, int64_t column) {
      return corner.data + ((which * grid + row) * grid + column) * stage.out;
    };
    const EdgeFeatures crop{edge.data + (first_row * side + first_column) * stage.out,
                            side * stage.out,
                            border_at(0, top, first_column),
                            border_at(1, bottom - 1, first_column),
                            border_at(2, left, first_row),
                            border_at(3, right - 1, first_row),
                            {corner_at(0, top, left), corner_at(1, top, right - 1),
                             corner_at(2, bottom - 1, left), corner_at(3, bottom - 1, right - 1)}};
    kernels::local_upsample(x.data, rows, columns, stage.in, stage.out, crop, stage.data.data(),
                            epsilon_, kSilu,
                            context.output<float>(0, {2 * rows, 2 * columns, stage.out}),
                            context.memory(), context.parallel());
  }

  float epsilon_;
  std::unique_ptr<PackedStage> packed_;  // when the parameters are constants
};

const Registration kLocalUpsample(
    {"LocalUpsample", 9, false, {kElementType<float>}, create_kernel<LocalUpsample<true>>});
const Registration kLocalUpsampleLinear(
    {"LocalUpsampleLinear", 9, false, {kElementType<float>}, create_kernel<LocalUpsample<false>>});

}  // namespace
}  // namespace i2f
