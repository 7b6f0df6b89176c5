// LocalUpsample and Bf16LocalUpsample: one stage of local upsampling (OPERATORS.md).

#include "kernels/local_upsample.h"

#include "kernels/bf16_local_upsample.h"
#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(PackedUpsampleSizeKernel, packed_upsample_size)
I2F_KERNEL(PackUpsampleKernel, pack_upsample)
I2F_KERNEL(LocalUpsampleKernel, local_upsample)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16UpsampleSizeKernel,
                             packed_bf16_upsample_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16UpsampleKernel, pack_bf16_upsample)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16LocalUpsampleKernel, bf16_local_upsample)

namespace {

std::string text(std::initializer_list<int64_t> values) {
  std::string result = "[";
  for (int64_t value : values) {
    result += (result.size() > 1 ? ", " : "") + std::to_string(value);
  }
  return result + "]";
}

// The parameters in a kernel's own order: that of bfloat16 numbers where it is asked for and serves
// so many channels.
struct PackedStage {
  PackedStage(const Inputs& inputs, bool bfloat16) {
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
    const size_t bytes = bfloat16 ? kernels::packed_bf16_upsample_size(in, out) : 0;
    if (bytes > 0) {
      bf16 = Buffer<char>(bytes);
      kernels::pack_bf16_upsample(weights, bf16.data());
    } else {
      fp32 = Buffer<float>(kernels::packed_upsample_size(in, out));
      kernels::pack_upsample(weights, fp32.data());
    }
  }

  int64_t in, out;
  Buffer<float> fp32;
  Buffer<char> bf16;
};

template <bool kSilu, bool kBfloat16>
class LocalUpsample final : public Kernel {
 public:
  explicit LocalUpsample(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(2, 6)) packed_ = std::make_unique<PackedStage>(info, kBfloat16);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedStage(context, kBfloat16));
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
    float* y = context.output<float>(0, {2 * rows, 2 * columns, stage.out});
    if (stage.bf16.data() != nullptr) {
      kernels::bf16_local_upsample(x.data, rows, columns, stage.in, stage.out, crop,
                                   stage.bf16.data(), epsilon_, kSilu, y, context.memory(),
                                   context.parallel());
    } else {
      kernels::local_upsample(x.data, rows, columns, stage.in, stage.out, crop, stage.fp32.data(),
                              epsilon_, kSilu, y, context.memory(), context.parallel());
    }
  }

  float epsilon_;
  std::unique_ptr<PackedStage> packed_;  // when the parameters are constants
};

template <bool kSilu, bool kBfloat16>
OperatorSpec spec_of(const char* name) {
  return {name, 9, false, {kElementType<float>}, create_kernel<LocalUpsample<kSilu, kBfloat16>>};
}

const Registration kLocalUpsample(spec_of<true, false>("LocalUpsample"));
const Registration kLocalUpsampleLinear(spec_of<false, false>("LocalUpsampleLinear"));
const Registration kBf16LocalUpsample(spec_of<true, true>("Bf16LocalUpsample"));
const Registration kBf16LocalUpsampleLinear(spec_of<false, true>("Bf16LocalUpsampleLinear"));

}  // namespace
}  // namespace i2f
