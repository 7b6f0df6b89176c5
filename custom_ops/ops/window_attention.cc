// WindowAttention and Bf16WindowAttention: attention within the windows of an image's maps of
// tokens (OPERATORS.md).

#include "kernels/window_attention.h"

#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(WindowAttentionKernel, window_attention)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16WindowAttentionKernel, bf16_window_attention)

namespace {

template <bool kBf16>  // whether numbers may be rounded before they are multiplied
class WindowAttention final : public Kernel {
 public:
  explicit WindowAttention(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})), side_(info.attribute("window", int64_t{0})) {
    constexpr int64_t kMaxSide = WindowAttentionShape::kMaxSide;
    expect(heads_ >= 1, "attribute heads to be at least 1", std::to_string(heads_));
    expect(side_ >= 1 && side_ <= kMaxSide,
           "attribute window to be from 1 to " + std::to_string(kMaxSide), std::to_string(side_));
    const std::vector<int64_t> none, heights = info.attribute("heights", none),
                                     widths = info.attribute("widths", none),
                                     offsets = info.attribute("offsets", none);
    expect(!heights.empty() && widths.size() == heights.size() && offsets.size() == heights.size(),
           "attributes heights, widths and offsets of the same maps, at least one",
           std::to_string(heights.size()) + ", " + std::to_string(widths.size()) + " and " +
               std::to_string(offsets.size()));
    for (size_t i = 0; i < heights.size(); ++i) {
      const WindowedMap map{heights[i], widths[i], offsets[i]};
      const std::string got = std::to_string(map.height) + " x " + std::to_string(map.width) +
                              " at " + std::to_string(map.offset);
      expect(map.height >= 1 && map.height <= kMaxDim && map.width >= 1 && map.width <= kMaxDim &&
                 map.offset >= 0 && map.offset < side_,
             "maps of at least 1 x 1 tokens at an offset from 0 to window - 1", got);
      expect(map.tokens() <= kMaxDim - tokens_,
             "at most " + std::to_string(kMaxDim) + " tokens of an image", got);
      tokens_ += map.tokens();
      maps_.push_back(map);
    }
  }

  void compute(KernelContext& context) const override {
    const auto qkv = context.get<float>(0, "qkv", {"T", "3*D"});
    WindowAttentionShape shape{};
    shape.maps = maps_.data();
    shape.map_count = static_cast<int64_t>(maps_.size());
    shape.images = qkv.dim(0) / tokens_;
    shape.side = side_;
    shape.heads = heads_;
    shape.head_width = qkv.dim(1) / 3 / heads_;
    const int64_t width = shape.heads * shape.head_width;
    expect(qkv.dim(1) == 3 * width && shape.head_width % 4 == 0 && shape.head_width >= 4 &&
               shape.head_width <= kMaxHeadWidth,
           "qkv float32 [T, 3*D] with D / heads a multiple of 4 from 4 to " +
               std::to_string(kMaxHeadWidth),
           "3*D = " + std::to_string(qkv.dim(1)) + " for " + std::to_string(heads_) + " heads");
    expect(shape.images * tokens_ == qkv.dim(0),
           "T to be a multiple of the maps' " + std::to_string(tokens_) + " tokens",
           std::to_string(qkv.dim(0)));
    const auto padding = context.get<float>(1, "padding", {1, {"3*D", 3 * width}});
    auto* const out = context.output<float>(0, {qkv.dim(0), width});
    WindowAttentionKernel* const rounding = kBf16 ? kernels::bf16_window_attention() : nullptr;
    if (rounding != nullptr) {
      rounding(shape, qkv.data, padding.data, out, context.memory(), context.parallel());
    } else {
      kernels::window_attention(shape, qkv.data, padding.data, out, context.memory(),
                                context.parallel());
    }
  }

 private:
  int64_t heads_, side_;
  std::vector<WindowedMap> maps_;
  int64_t tokens_ = 0;  // of an image
};

template <bool kBf16>
OperatorSpec spec_of(const char* name) {
  return {name, 2, false, {kElementType<float>}, create_kernel<WindowAttention<kBf16>>};
}

const Registration kWindowAttention(spec_of<false>("WindowAttention"));
const Registration kBf16WindowAttention(spec_of<true>("Bf16WindowAttention"));

}  // namespace
}  // namespace i2f
