// EdgeStem, EdgeBlock, EdgeDownsample and EdgeProjection, and the latter three in bfloat16: the
// network on the Canny maps (OPERATORS.md).

#include "kernels/bf16_edge_block.h"
#include "kernels/bf16_edge_downsample.h"
#include "kernels/bf16_edge_projection.h"
#include "kernels/edge_block.h"
#include "kernels/edge_downsample.h"
#include "kernels/edge_projection.h"
#include "kernels/edge_stem.h"
#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(EdgeStemKernel, edge_stem)
I2F_KERNEL(PackedEdgeBlockSizeKernel, packed_edge_block_size)
I2F_KERNEL(PackEdgeBlockKernel, pack_edge_block)
I2F_KERNEL(EdgeBlockKernel, edge_block)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16EdgeBlockSizeKernel,
                             packed_bf16_edge_block_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16EdgeBlockKernel, pack_bf16_edge_block)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16EdgeBlockKernel, bf16_edge_block)
I2F_KERNEL(PackedEdgeDownsampleSizeKernel, packed_edge_downsample_size)
I2F_KERNEL(PackEdgeDownsampleKernel, pack_edge_downsample)
I2F_KERNEL(EdgeDownsampleKernel, edge_downsample)
I2F_KERNEL(PackedEdgeProjectionSizeKernel, packed_edge_projection_size)
I2F_KERNEL(PackEdgeProjectionKernel, pack_edge_projection)
I2F_KERNEL(EdgeProjectionKernel, edge_projection)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16EdgeDownsampleSizeKernel,
                             packed_bf16_edge_downsample_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16EdgeDownsampleKernel,
                             pack_bf16_edge_downsample)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16EdgeDownsampleKernel, bf16_edge_downsample)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackedBf16EdgeProjectionSizeKernel,
                             packed_bf16_edge_projection_size)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, PackBf16EdgeProjectionKernel,
                             pack_bf16_edge_projection)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16EdgeProjectionKernel, bf16_edge_projection)

namespace {

void expect_channels(const char* name, const Tensor<float>& weight) {
  const auto text = [](const std::string& out, const std::string& in) {
    return "[" + out + ", " + in + ", 3, 3]";
  };
  expect(weight.dim(0) >= 1 && weight.dim(1) >= 1,
         std::string(name) + " " + text("Co", "Ci") + " with Co >= 1 and Ci >= 1",
         text(std::to_string(weight.dim(0)), std::to_string(weight.dim(1))));
}

class EdgeStem final : public Kernel {
 public:
  explicit EdgeStem(const KernelInfo&) {}

  void compute(KernelContext& context) const override {
    const auto maps = context.get<float>(0, "maps", {"Ci", "H", "W"});
    const auto weight = context.get<float>(1, "weight", {"Co", {"Ci", maps.dim(0)}, 3, 3});
    expect_channels("weight", weight);
    const auto bias = context.get<float>(2, "bias", {{"Co", weight.dim(0)}});
    const int64_t rows = maps.dim(1), columns = maps.dim(2), channels = weight.dim(0);
    float* y = context.output<float>(0, {rows, columns, channels});
    if (rows == 0 || columns == 0) return;
    kernels::edge_stem(maps.data, maps.dim(0), rows, columns, weight.data, bias.data, channels, y,
                       context.memory(), context.parallel());
  }
};

// The parameters of a residual block in a kernel's own order: that of bfloat16 numbers where it is
// asked for and serves so many channels.
struct PackedBlock {
  PackedBlock(const Inputs& inputs, bool bfloat16) {
    const auto weight = inputs.get<float>(3, "conv1_weight", {"C", "C", 3, 3});
    channels = weight.dim(0);
    expect_channels("conv1_weight", weight);
    const Dim c("C", channels);
    const auto half = [&](size_t first, const char* norm_weight, const char* norm_bias,
                          const char* conv_weight, const char* conv_bias) {
      return EdgeBlockHalf{inputs.get<float>(first, norm_weight, {c}).data,
                           inputs.get<float>(first + 1, norm_bias, {c}).data,
                           inputs.get<float>(first + 2, conv_weight, {c, c, 3, 3}).data,
                           inputs.get<float>(first + 3, conv_bias, {c}).data};
    };
    const EdgeBlockHalf first = half(1, "norm1_weight", "norm1_bias", "conv1_weight", "conv1_bias");
    const EdgeBlockHalf second =
        half(5, "norm2_weight", "norm2_bias", "conv2_weight", "conv2_bias");
    const size_t bytes = bfloat16 ? kernels::packed_bf16_edge_block_size(channels) : 0;
    if (bytes > 0) {
      bf16 = Buffer<char>(bytes);
      kernels::pack_bf16_edge_block(first, second, channels, bf16.data());
    } else {
      fp32 = Buffer<float>(kernels::packed_edge_block_size(channels));
      kernels::pack_edge_block(first, second, channels, fp32.data());
    }
  }

  int64_t channels;
  Buffer<float> fp32;
  Buffer<char> bf16;
};

template <bool kBfloat16>
class EdgeBlock final : public Kernel {
 public:
  explicit EdgeBlock(const KernelInfo& info) : epsilon_(info.attribute("epsilon", 1e-5f)) {
    if (info.known(1, 9)) packed_ = std::make_unique<PackedBlock>(info, kBfloat16);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedBlock(context, kBfloat16));
  }

 private:
  void run(KernelContext& context, const PackedBlock& block) const {
    const auto x = context.get<float>(0, "x", {"H", "W", {"C", block.channels}});
    const int64_t rows = x.dim(0), columns = x.dim(1);
    float* y = context.output<float>(0, {rows, columns, block.channels});
    if (rows == 0 || columns == 0) return;
    if (block.bf16.data() != nullptr) {
      kernels::bf16_edge_block(x.data, rows, columns, block.channels, block.bf16.data(), epsilon_,
                               y, context.memory(), context.parallel());
    } else {
      kernels::edge_block(x.data, rows, columns, block.channels, block.fp32.data(), epsilon_, y,
                          context.memory(), context.parallel());
    }
  }

  float epsilon_;
  std::unique_ptr<PackedBlock> packed_;  // when the parameters are constants
};

// The parameters of a convolution of stride 2 in a kernel's own order: that of bfloat16 numbers as
// in PackedBlock.
struct PackedDownsample {
  PackedDownsample(const Inputs& inputs, bool bfloat16) {
    const auto weight = inputs.get<float>(1, "weight", {"Co", "Ci", 3, 3});
    expect_channels("weight", weight);
    out = weight.dim(0);
    in = weight.dim(1);
    const auto bias = inputs.get<float>(2, "bias", {{"Co", out}});
    const size_t bytes = bfloat16 ? kernels::packed_bf16_edge_downsample_size(in, out) : 0;
    if (bytes > 0) {
      bf16 = Buffer<char>(bytes);
      kernels::pack_bf16_edge_downsample(weight.data, bias.data, in, out, bf16.data());
    } else {
      fp32 = Buffer<float>(kernels::packed_edge_downsample_size(in, out));
      kernels::pack_edge_downsample(weight.data, bias.data, in, out, fp32.data());
    }
  }

  int64_t in, out;
  Buffer<float> fp32;
  Buffer<char> bf16;
};

template <bool kBfloat16>
class EdgeDownsample final : public Kernel {
 public:
  explicit EdgeDownsample(const KernelInfo& info) {
    if (info.known(1, 3)) packed_ = std::make_unique<PackedDownsample>(info, kBfloat16);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedDownsample(context, kBfloat16));
  }

 private:
  static void run(KernelContext& context, const PackedDownsample& conv) {
    const auto x = context.get<float>(0, "x", {"H", "W", {"Ci", conv.in}});
    const int64_t rows = x.dim(0), columns = x.dim(1);
    float* y = context.output<float>(0, {(rows + 1) / 2, (columns + 1) / 2, conv.out});
    if (rows == 0 || columns == 0) return;
    if (conv.bf16.data() != nullptr) {
      kernels::bf16_edge_downsample(x.data, rows, columns, conv.in, conv.out, conv.bf16.data(), y,
                                    context.memory(), context.parallel());
    } else {
      kernels::edge_downsample(x.data, rows, columns, conv.in, conv.out, conv.fp32.data(), y,
                               context.memory(), context.parallel());
    }
  }

  std::unique_ptr<PackedDownsample> packed_;  // when the parameters are constants
};

// The parameters of both convolutions, composed to one in a kernel's own order: that of bfloat16
// numbers as in PackedBlock.
struct PackedProjection {
  PackedProjection(const Inputs& inputs, bool bfloat16) {
    const auto conv = inputs.get<float>(3, "conv_weight", {"Co", "Ci", 3, 3});
    expect_channels("conv_weight", conv);
    const Dim middle("Ci", conv.dim(1));
    const auto lateral = inputs.get<float>(1, "lateral_weight", {middle, "C"});
    in = lateral.dim(1);
    out = conv.dim(0);
    expect(in >= 1, "lateral_weight [Ci, C] with C >= 1",
           "[" + std::to_string(conv.dim(1)) + ", " + std::to_string(in) + "]");
    const EdgeProjectionWeights weights{in,
                                        conv.dim(1),
                                        out,
                                        lateral.data,
                                        inputs.get<float>(2, "lateral_bias", {middle}).data,
                                        conv.data};
    const size_t bytes = bfloat16 ? kernels::packed_bf16_edge_projection_size(in, out) : 0;
    if (bytes > 0) {
      bf16 = Buffer<char>(bytes);
      kernels::pack_bf16_edge_projection(weights, bf16.data());
    } else {
      fp32 = Buffer<float>(kernels::packed_edge_projection_size(in, out));
      kernels::pack_edge_projection(weights, fp32.data());
    }
  }

  int64_t in, out;
  Buffer<float> fp32;
  Buffer<char> bf16;
};

template <bool kBfloat16>
class EdgeProjection final : public Kernel {
 public:
  explicit EdgeProjection(const KernelInfo& info) : pixels_(info.attribute("pixels", int64_t{2})) {
    expect(pixels_ >= 1, "attribute pixels >= 1", std::to_string(pixels_));
    if (info.known(1, 4)) packed_ = std::make_unique<PackedProjection>(info, kBfloat16);
  }

  void compute(KernelContext& context) const override {
    if (packed_ != nullptr) return run(context, *packed_);
    run(context, PackedProjection(context, kBfloat16));
  }

 private:
  void run(KernelContext& context, const PackedProjection& projection) const {
    const auto x = context.get<float>(0, "x", {"H", "W", {"C", projection.in}});
    const int64_t side = x.dim(0), grid = side / pixels_, out = projection.out;
    expect(x.dim(1) == side && side % pixels_ == 0,
           "x [H, W, C] with H = W a multiple of pixels=" + std::to_string(pixels_),
           "H=" + std::to_string(side) + ", W=" + std::to_string(x.dim(1)));
    const EdgeTerms terms{context.output<float>(0, {side, side, out}),
                          context.output<float>(1, {4, grid, side, out}),
                          context.output<float>(2, {4, grid, grid, out})};
    if (side == 0) return;
    if (projection.bf16.data() != nullptr) {
      kernels::bf16_edge_projection(x.data, side, grid, projection.in, out, projection.bf16.data(),
                                    terms, context.memory(), context.parallel());
    } else {
      kernels::edge_projection(x.data, side, grid, projection.in, out, projection.fp32.data(),
                               terms, context.memory(), context.parallel());
    }
  }

  int64_t pixels_;
  std::unique_ptr<PackedProjection> packed_;  // when the parameters are constants
};

const Registration kEdgeStem(
    {"EdgeStem", 3, false, {kElementType<float>}, create_kernel<EdgeStem>});
const Registration kEdgeBlock(
    {"EdgeBlock", 9, false, {kElementType<float>}, create_kernel<EdgeBlock<false>>});
const Registration kBf16EdgeBlock(
    {"Bf16EdgeBlock", 9, false, {kElementType<float>}, create_kernel<EdgeBlock<true>>});
const Registration kEdgeDownsample(
    {"EdgeDownsample", 3, false, {kElementType<float>}, create_kernel<EdgeDownsample<false>>});
const Registration kBf16EdgeDownsample(
    {"Bf16EdgeDownsample", 3, false, {kElementType<float>}, create_kernel<EdgeDownsample<true>>});

template <bool kBfloat16>
OperatorSpec projection(const char* name) {
  return {name,
          4,
          false,
          {kElementType<float>, kElementType<float>, kElementType<float>},
          create_kernel<EdgeProjection<kBfloat16>>};
}

const Registration kEdgeProjection(projection<false>("EdgeProjection"));
const Registration kBf16EdgeProjection(projection<true>("Bf16EdgeProjection"));

}  // namespace
}  // namespace i2f
