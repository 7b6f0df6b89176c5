// HybridAttention and Bf16HybridAttention: full attention for edge tokens, codebook attention for
// the others. FullAttention: full attention for all tokens (OPERATORS.md).

#include "kernels/hybrid_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/token_list.h"

namespace i2f {

I2F_KERNEL(HybridAttentionKernel, hybrid_attention)
I2F_KERNEL(FullAttentionKernel, full_attention)
I2F_REDUCED_PRECISION_KERNEL(Product::kBfloat16, Bf16FullRowsKernel, bf16_full_rows)

namespace {

constexpr size_t kCodeWeight = 2, kCodeBias = 3, kCodewords = 4, kFirstKnown = 5;  // inputs

constexpr double kRounding =
    5e-7;  // of the largest codeword, that a sum of bits' vectors may be off

// What both operators' attributes and their first input say.
class Heads {
 public:
  explicit Heads(const KernelInfo& info)
      : heads_(info.attribute("heads", int64_t{1})),
        grid_width_(info.attribute("grid_width", int64_t{0})) {
    expect(heads_ >= 1, "attribute heads to be at least 1", std::to_string(heads_));
    expect(grid_width_ >= 1, "attribute grid_width to be at least 1", std::to_string(grid_width_));
  }

  // Checks qkv and sets what of the shape follows from it.
  const float* qkv(const Inputs& inputs, HybridAttentionShape& shape) const {
    const auto qkv = inputs.get<float>(0, "qkv", {"L", "3*D"});
    shape.tokens = qkv.dim(0);
    shape.heads = heads_;
    shape.head_width = qkv.dim(1) / 3 / heads_;
    shape.grid_width = grid_width_;
    expect(qkv.dim(1) == 3 * shape.width() && shape.head_width % 4 == 0 && shape.head_width >= 4 &&
               shape.head_width <= kMaxHeadWidth,
           "qkv float32 [L, 3*D] with D / heads a multiple of 4 from 4 to " +
               std::to_string(kMaxHeadWidth),
           "3*D = " + std::to_string(qkv.dim(1)) + " for " + std::to_string(heads_) + " heads");
    expect(shape.tokens % grid_width_ == 0,
           "L to be a multiple of grid_width=" + std::to_string(grid_width_),
           std::to_string(shape.tokens));
    return qkv.data;
  }

 private:
  int64_t heads_, grid_width_;
};

// `kArgmax`: a code is the highest score, not the scores' signs. `kKnown`: another attention is
// known. `kBfloat16`: full attention may round its factors.
template <bool kArgmax, bool kKnown, bool kBfloat16>
class HybridAttention final : public Kernel {
 public:
  explicit HybridAttention(const KernelInfo& info) : heads_(info) {
    if (info.known(kCodeWeight, kCodeBias + 1)) packed_ = pack(info);
    if (info.known(kCodeWeight, kCodewords + 1)) {
      summed_ = sum_of_bits(info);
      searched_ = true;
    }
  }

  void compute(KernelContext& context) const override {
    HybridAttentionShape shape{};
    const float* qkv = heads_.qkv(context, shape);
    shape.argmax = kArgmax;
    const auto edge = edge_tokens(context, 1, shape.tokens);
    shape.edges = edge.dim(0);

    const int64_t width = shape.width();
    shape.scores = context.get<float>(kCodeWeight, "code_weight", {"B", {"D", width}}).dim(0);
    context.get<float>(kCodeBias, "code_bias", {{"B", shape.scores}});
    const auto codewords = context.get<float>(kCodewords, "codewords", {"K", {"D", width}});
    shape.codes = codewords.dim(0);
    check_codes(shape);

    const Buffer<float> packed = packed_.data() != nullptr ? Buffer<float>() : pack(context);
    const float* code_weight = packed_.data() != nullptr ? packed_.data() : packed.data();
    const Buffer<float> fed = searched_ ? Buffer<float>() : sum_of_bits(context);
    kernels::hybrid_attention(
        shape, qkv, edge.data, code_weight, codewords.data, searched_ ? summed_.data() : fed.data(),
        known(context, shape), kBfloat16 ? kernels::bf16_full_rows(shape.head_width) : nullptr,
        context.output<float>(0, {shape.tokens, width}), context.memory(), context.parallel());
  }

 private:
  // The last three inputs, where the operator has them.
  static KnownAttention known(const KernelContext& context, const HybridAttentionShape& shape) {
    if (!kKnown) return {};
    const Dim tokens{"L", shape.tokens};
    const int64_t width = shape.width();
    return {
        context.get<float>(kFirstKnown, "known_qkv", {tokens, {"3*D", 3 * width}}).data,
        context.get<float>(kFirstKnown + 1, "known_out", {tokens, {"D", width}}).data,
        context.get<float>(kFirstKnown + 2, "known_logsum", {tokens, {"heads", shape.heads}}).data};
  }

  static void check_codes(const HybridAttentionShape& shape) {
    const std::string got =
        "B = " + std::to_string(shape.scores) + ", K = " + std::to_string(shape.codes);
    if (shape.argmax) {
      expect(shape.scores >= 1 && shape.codes == shape.scores, "K = B >= 1", got);
    } else {
      expect(shape.scores >= 1 && shape.scores <= 30 && shape.codes == int64_t{1} << shape.scores,
             "K = 2**B, 1 <= B <= 30", got);
    }
  }

  // The code weight and bias as HybridAttentionKernel takes them.
  static Buffer<float> pack(const Inputs& inputs) {
    const auto weight = inputs.get<float>(kCodeWeight, "code_weight", {"B", "D"});
    const auto bias = inputs.get<float>(kCodeBias, "code_bias", {{"B", weight.dim(0)}});
    HybridAttentionShape shape{};
    shape.scores = weight.dim(0);
    const int64_t width = weight.dim(1), columns = shape.score_columns();
    Buffer<float> packed(
        checked_product(static_cast<size_t>(width) + 1, static_cast<size_t>(columns)));
    for (int64_t b = 0; b < columns; ++b) {
      const bool known = b < shape.scores;
      for (int64_t d = 0; d < width; ++d) {
        packed.data()[d * columns + b] = known ? weight.data[b * width + d] : 0.0f;
      }
      packed.data()[width * columns + b] =
          known ? bias.data[b] : -std::numeric_limits<float>::infinity();
    }
    return packed;
  }

  // HybridAttentionKernel's `summed`, empty where codewords are no such sums. What a bit adds is
  // the mean difference of the codewords with it from those without it, which rounds the least.
  static Buffer<float> sum_of_bits(const Inputs& inputs) {
    const auto words = inputs.get<float>(kCodewords, "codewords", {"K", "D"});
    const int64_t codes = words.dim(0), width = words.dim(1);
    int64_t bits = 0;
    while (int64_t{1} << bits < codes) ++bits;
    if (kArgmax || bits < 1 || bits > HybridAttentionShape::kMaxSummed ||
        codes != int64_t{1} << bits) {
      return {};
    }
    Buffer<float> summed(checked_product(static_cast<size_t>(bits), static_cast<size_t>(width)));
    for (int64_t d = 0; d < width; ++d) {
      double largest = 0, mean = 0;
      double differences[HybridAttentionShape::kMaxSummed] = {};
      for (int64_t code = 0; code < codes; ++code) {
        const double word = words.data[code * width + d];
        largest = std::max(largest, std::abs(word));
        mean += word / static_cast<double>(codes);
        for (int64_t bit = 0; bit < bits; ++bit) {
          differences[bit] += (code >> bit & 1) != 0 ? word : -word;
        }
      }
      for (int64_t bit = 0; bit < bits; ++bit) {
        differences[bit] /= static_cast<double>(codes) / 2;
        summed.data()[bit * width + d] = static_cast<float>(differences[bit]);
      }
      for (int64_t code = 0; code < codes; ++code) {
        double sum = mean;
        for (int64_t bit = 0; bit < bits; ++bit) {
          sum += (code >> bit & 1) != 0 ? differences[bit] / 2 : -differences[bit] / 2;
        }
        // Not so for a NaN or Inf, either.
        if (!(std::abs(sum - words.data[code * width + d]) <= kRounding * largest)) return {};
      }
    }
    return summed;
  }

  Heads heads_;
  Buffer<float> packed_;   // when the code weight and bias are constant
  Buffer<float> summed_;   // when the codewords are, too, and are sums
  bool searched_ = false;  // whether they are constant
};

class FullAttention final : public Kernel {
 public:
  explicit FullAttention(const KernelInfo& info) : heads_(info) {}

  void compute(KernelContext& context) const override {
    HybridAttentionShape shape{};
    const float* qkv = heads_.qkv(context, shape);
    kernels::full_attention(shape, qkv, context.output<float>(0, {shape.tokens, shape.width()}),
                            context.output<float>(1, {shape.tokens, shape.heads}), context.memory(),
                            context.parallel());
  }

 private:
  Heads heads_;
};

template <bool kArgmax, bool kKnown, bool kBfloat16 = false>
OperatorSpec spec_of(const char* name) {
  return {name,
          kKnown ? size_t{8} : size_t{5},
          false,
          {kElementType<float>},
          create_kernel<HybridAttention<kArgmax, kKnown, kBfloat16>>};
}

const Registration kHybridAttention(spec_of<false, false>("HybridAttention"));
const Registration kHybridAttentionVq(spec_of<true, false>("HybridAttentionVq"));
const Registration kHybridAttentionKnown(spec_of<false, true>("HybridAttentionKnown"));
const Registration kHybridAttentionVqKnown(spec_of<true, true>("HybridAttentionVqKnown"));
const Registration kBf16HybridAttention(spec_of<false, false, true>("Bf16HybridAttention"));
const Registration kBf16HybridAttentionVq(spec_of<true, false, true>("Bf16HybridAttentionVq"));
const Registration kBf16HybridAttentionKnown(
    spec_of<false, true, true>("Bf16HybridAttentionKnown"));
const Registration kBf16HybridAttentionVqKnown(
    spec_of<true, true, true>("Bf16HybridAttentionVqKnown"));
const Registration kFullAttention({"FullAttention",
                                   1,
                                   false,
                                   {kElementType<float>, kElementType<float>},
                                   create_kernel<FullAttention>});

}  // namespace
}  // namespace i2f
