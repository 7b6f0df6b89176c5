// LowRankLinear and LowRankAdd: layers of tokens that are known but for a part of low rank
// (OPERATORS.md).

#include "kernels/low_rank.h"

#include "ops/linear_kernels.h"
#include "ops/operator.h"
#include "ops/token_list.h"

namespace i2f {

I2F_KERNEL(PackedLowRankSizeKernel, packed_low_rank_size)
I2F_KERNEL(PackLowRankKernel, pack_low_rank)
I2F_KERNEL(LowRankLinearKernel, low_rank_linear)
I2F_KERNEL(LowRankAddKernel, low_rank_add)

namespace {

// Inputs 0 to 2 of both operators: `floats` of each row of known, from `column` on, are what is
// known of a token.
LowRankTokens tokens_of(const KernelContext& context, int64_t column, int64_t floats,
                        int64_t rank) {
  const auto known = context.get<float>(0, "known", {"L", "W"});
  const int64_t tokens = known.dim(0), stride = known.dim(1);
  expect(floats <= stride && column <= stride - floats,
         "known float32 [L, W] with W >= " + std::to_string(floats) + " from column " +
             std::to_string(column) + " on",
         "W = " + std::to_string(stride));
  const auto state = context.get<float>(1, "state", {{"L", tokens}, {"r", rank}});
  const auto inside = token_list(context, 2, "inside", "B", tokens);
  return {tokens, known.data + column, stride, state.data, inside.data, inside.dim(0)};
}

int64_t column_of(const KernelInfo& info) {
  const int64_t column = info.attribute("column", int64_t{0});
  expect(column >= 0 && column <= kMaxDim, "attribute column to be at least 0",
         std::to_string(column));
  return column;
}

template <bool kGated>
class LowRankLinear final : public Kernel {
 public:
  explicit LowRankLinear(const KernelInfo& info)
      : column_(column_of(info)),
        channels_(info.attribute("channels", int64_t{0})),
        epsilon_(info.attribute("epsilon", 1e-5f)) {
    expect(channels_ >= 1, "attribute channels to be at least 1", std::to_string(channels_));
    if (info.known(kWeight, kInputs)) kept_ = pack(info);
  }

  void compute(KernelContext& context) const override {
    const Packed fed = kept_.data.data() != nullptr ? Packed{} : pack(context);
    const Packed& packed = kept_.data.data() != nullptr ? kept_ : fed;
    const LowRankSizes& sizes = packed.sizes;
    const LowRankTokens x = tokens_of(context, column_, sizes.outputs + sizes.rank + 1, sizes.rank);
    const int64_t outputs = kGated ? sizes.outputs / 2 : sizes.outputs;
    kernels::low_rank_linear(x, sizes, packed.data.data(), channels_, epsilon_,
                             context.output<float>(0, {x.tokens, outputs}), context.memory(),
                             context.parallel());
  }

 private:
  static constexpr size_t kWeight = 3, kInputs = 6;

  struct Packed {
    LowRankSizes sizes;
    Buffer<float> data;
  };
  static Packed pack(const Inputs& inputs) {
    const auto weight = inputs.get<float>(kWeight, "weight", {"N", "r"});
    const int64_t outputs = weight.dim(0), rank = weight.dim(1);
    expect(outputs >= 1 && rank >= 1 && (!kGated || outputs % 2 == 0),
           std::string("weight [N, r] with r >= 1 and N >= 1") + (kGated ? ", N even" : ""),
           "[" + std::to_string(outputs) + ", " + std::to_string(rank) + "]");
    const auto root = inputs.get<float>(kWeight + 1, "root", {"m", {"r", rank}});
    expect(root.dim(0) <= rank, "root [m, r] with m <= r", "m = " + std::to_string(root.dim(0)));
    const auto bias = inputs.get<float>(kWeight + 2, "bias", {{"N", outputs}});
    const LowRankSizes sizes{outputs, rank, root.dim(0), kGated};
    Packed packed{sizes, Buffer<float>(kernels::packed_low_rank_size(sizes))};
    kernels::pack_low_rank(sizes, {weight.data, root.data, bias.data}, packed.data.data());
    return packed;
  }

  int64_t column_, channels_;
  float epsilon_;
  Packed kept_{};
};

class LowRankAdd final : public Kernel {
 public:
  explicit LowRankAdd(const KernelInfo& info) : column_(column_of(info)) {
    if (info.known(kWeight, kInputs)) kept_ = pack(info);
  }

  void compute(KernelContext& context) const override {
    const Packed fed = kept_.data.data() != nullptr ? Packed{} : pack(context);
    const Packed& packed = kept_.data.data() != nullptr ? kept_ : fed;
    const int64_t outputs = packed.sizes.outputs, rank = packed.sizes.inputs;
    const LowRankTokens x = tokens_of(context, column_, outputs, rank);
    const auto rows = context.get<float>(3, "rows", {{"B", x.inside_count}, {"N", outputs}});
    const auto wanted = token_list(context, 4, "wanted", "n", x.tokens);
    kernels::low_rank_add(x, rows.data, wanted.data, wanted.dim(0), outputs, rank,
                          packed.data.data(), context.output<float>(0, {wanted.dim(0), outputs}),
                          context.parallel());
  }

 private:
  static constexpr size_t kWeight = 5, kInputs = 7;

  struct Packed {
    LinearSizes sizes;
    Buffer<float> data;
  };
  static Packed pack(const Inputs& inputs) {
    const auto weight = inputs.get<float>(kWeight, "weight", {"N", "r"});
    const LinearSizes sizes{weight.dim(1), weight.dim(0)};
    expect(sizes.outputs >= 1 && sizes.inputs >= 1, "weight [N, r] with N >= 1 and r >= 1",
           "[" + std::to_string(sizes.outputs) + ", " + std::to_string(sizes.inputs) + "]");
    const auto bias = inputs.get<float>(kWeight + 1, "bias", {{"N", sizes.outputs}});
    Packed packed{sizes, Buffer<float>(kernels::packed_linear_size(sizes))};
    kernels::pack_linear(sizes, {weight.data, bias.data, nullptr, nullptr}, packed.data.data(),
                         one_thread());
    return packed;
  }

  int64_t column_;
  Packed kept_{};
};

template <bool kGated>
OperatorSpec spec_of(const char* name) {
  return {name, 6, false, {kElementType<float>}, create_kernel<LowRankLinear<kGated>>};
}

const Registration kLowRankLinear(spec_of<false>("LowRankLinear"));
const Registration kLowRankLinearGated(spec_of<true>("LowRankLinearGated"));
const Registration kLowRankAdd(
    {"LowRankAdd", 7, false, {kElementType<float>}, create_kernel<LowRankAdd>});

}  // namespace
}  // namespace i2f
