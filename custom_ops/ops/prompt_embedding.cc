// PromptEmbedding: labels to tokens, only around the object (OPERATORS.md).

#include "kernels/prompt_embedding.h"

#include <optional>

#include "kernels/label_box.h"
#include "ops/labels.h"
#include "ops/operator.h"

namespace i2f {

I2F_KERNEL(LabelBoxKernel, label_box)
I2F_KERNEL(PromptEmbeddingKernel, prompt_embedding)
I2F_KERNEL(PromptPackedSizeKernel, prompt_packed_size)
I2F_KERNEL(PromptPackKernel, prompt_pack)

namespace {

class PromptEmbedding final : public Kernel {
 public:
  explicit PromptEmbedding(const KernelInfo& info)
      : dense_(info.attribute("dense", int64_t{0})), inputs_(info.input_count()) {
    expect(dense_ == 0 || dense_ == 1, "attribute dense to be 0 or 1", std::to_string(dense_));
    const size_t weights = inputs_ - kFirstWeight;
    expect(inputs_ > kFirstWeight && weights % 2 == 0 && weights / 2 <= kMaxPromptLevels,
           "1 to " + std::to_string(kMaxPromptLevels) + " pairs of weight and bias",
           std::to_string(inputs_) + " inputs");
    patch_ = int64_t{1} << levels();
    if (info.known(kTable, inputs_)) constant_ = pack(info);
  }

  void compute(KernelContext& context) const override {
    const LabelMap labels = label_map(context, 0, patch_);
    const int64_t rows = labels.height / patch_, columns = labels.width / patch_;
    expect(labels.height <= kMaxPromptSide && labels.width <= kMaxPromptSide,
           "labels of at most " + std::to_string(kMaxPromptSide) + " rows and columns",
           std::to_string(labels.height) + " and " + std::to_string(labels.width));
    const Packed fed = constant_ ? Packed{} : pack(context);
    const Packed& packed = constant_ ? *constant_ : fed;
    const int64_t channels = packed.shape.channels[packed.shape.levels];
    const auto embedding =
        context.get<float>(1, "embedding", {{"h", rows}, {"w", columns}, {"C", channels}});
    int64_t box[4] = {0, 0, labels.width, labels.height};
    if (dense_ == 0) {
      kernels::label_box(labels.data, labels.height, labels.width, patch_, box);
    }
    expect_label(kernels::prompt_embedding(labels.data, labels.height, labels.width, box,
                                           embedding.data, packed.shape, packed.weights.data(),
                                           context.parallel(), context.memory(),
                                           context.output<float>(0, {rows * columns, channels})));
  }

 private:
  static constexpr size_t kTable = 2, kFirstWeight = 3;  // inputs

  struct Packed {
    PromptShape shape;
    Buffer<float> weights;
  };

  int levels() const { return static_cast<int>((inputs_ - kFirstWeight) / 2); }

  Packed pack(const Inputs& inputs) const {
    const auto table = inputs.get<float>(kTable, "label_table", {5, {"T"}});
    PromptWeights weights{};
    PromptShape& shape = weights.shape;
    shape.levels = levels();
    shape.channels[0] = table.dim(1);
    weights.table = table.data;
    for (int i = 0; i < shape.levels; ++i) {
      const size_t index = kFirstWeight + 2 * static_cast<size_t>(i);
      const std::string weight = "w" + std::to_string(i), bias = "b" + std::to_string(i);
      const auto w =
          inputs.get<float>(index, weight.c_str(), {{"C_out"}, {"C_in", shape.channels[i]}, 3, 3});
      shape.channels[i + 1] = w.dim(0);
      weights.weight[i] = w.data;
      weights.bias[i] = inputs.get<float>(index + 1, bias.c_str(), {{"C_out", w.dim(0)}}).data;
      expect(shape.channels[i] > 0 && w.dim(0) > 0, "one channel at least", "none");
    }
    Packed packed{shape, Buffer<float>(static_cast<size_t>(kernels::prompt_packed_size(shape)))};
    kernels::prompt_pack(weights, packed.weights.data());
    return packed;
  }

  int64_t dense_;
  int64_t patch_ = 1;  // pixels a token: each convolution halves the map
  size_t inputs_;
  std::optional<Packed> constant_;  // packed once, when the weights are constant
};

const Registration kPromptEmbedding(
    {"PromptEmbedding", 3, true, {kElementType<float>}, create_kernel<PromptEmbedding>});

}  // namespace
}  // namespace i2f
