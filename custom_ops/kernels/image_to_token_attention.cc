// A block of image tokens goes through all steps at once. Where the few tokens are taken through
// the projection of queries (few_tokens.h), their values are taken through that of the output.

#include "kernels/image_to_token_attention.h"

#include "kernels/few_tokens.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

using namespace few_tokens;

class Attention {
 public:
  Attention(const ImageToTokenSizes& sizes, const ImageToTokenInputs& inputs, float epsilon,
            float* out, const Memory& memory, const Parallel& parallel)
      : sizes_(sizes),
        inputs_(inputs),
        head_width_(sizes.width / sizes.heads),
        scores_({sizes.tokens, sizes.width, sizes.heads, sizes.inputs}, inputs.key,
                inputs.query_weight, inputs.query_bias, true, memory, parallel),
        epsilon_(epsilon),
        out_(out) {
    if (scores_.folded()) {
      fold_values(memory, parallel);
    } else {
      transpose_values(memory);
    }
  }

  int64_t scratch_floats() const {
    return (sizes_.inputs + scores_.pairs() + sizes_.channels) * kWidth + scores_.scratch_floats();
  }

  // Image tokens [first, first + count).
  void block(int64_t first, int64_t count, float* scratch) const {
    float* input = scratch;
    float* projected = input + sizes_.inputs * kWidth;
    float* scores = projected + scores_.scratch_floats();
    float* sums = scores + scores_.pairs() * kWidth;
    gather({inputs_.query_input + first * sizes_.inputs, sizes_.inputs}, count, sizes_.inputs,
           input);
    scores_.multiply(count, inputs_.query + first * sizes_.width, input, projected, scores);
    for (int64_t h = 0; h < sizes_.heads; ++h) softmax(scores + h * sizes_.tokens * kWidth);

    gather({inputs_.image + first * sizes_.channels, sizes_.channels}, count, sizes_.channels,
           sums);
    for (int64_t i = 0; i < sizes_.channels * kWidth; i += kLanes) {
      store(sums + i, load(sums + i) + inputs_.out_bias[i / kWidth]);
    }
    if (scores_.folded()) {
      add_product({values_, scores_.pairs()}, sizes_.channels, scores_.pairs(), scores, sums);
    } else {
      average(scores, projected);
      add_product({inputs_.out_weight, sizes_.width}, sizes_.channels, sizes_.width, projected,
                  sums);
    }
    layer_norm(sums, sizes_.channels, epsilon_, inputs_.norm_weight, inputs_.norm_bias,
               [](Vec v) { return v; });
    scatter(sums, count, sizes_.channels, out_ + first * sizes_.channels, sizes_.channels);
  }

 private:
  // values [C, pairs]: each head's tokens through its part of the output's projection.
  void fold_values(const Memory& memory, const Parallel& parallel) {
    auto* all = take<float>(memory, sizes_.channels * scores_.pairs());
    values_ = all;
    parallel_for(parallel, static_cast<size_t>(sizes_.channels), [&](size_t index) {
      const auto c = static_cast<int64_t>(index);
      const float* weight = inputs_.out_weight + c * sizes_.width;
      float* to = all + c * scores_.pairs();
      for (int64_t h = 0; h < sizes_.heads; ++h) {
        for (int64_t t = 0; t < sizes_.tokens; ++t) {
          const float* value = inputs_.value + t * sizes_.width + h * head_width_;
          float sum = 0.0f;
          for (int64_t k = 0; k < head_width_; ++k) sum += weight[h * head_width_ + k] * value[k];
          *to++ = sum;
        }
      }
    });
  }

  // values [D, T].
  void transpose_values(const Memory& memory) {
    auto* to = take<float>(memory, sizes_.width * sizes_.tokens);
    values_ = to;
    for (int64_t d = 0; d < sizes_.width; ++d) {
      for (int64_t t = 0; t < sizes_.tokens; ++t) *to++ = inputs_.value[t * sizes_.width + d];
    }
  }

  // A head's scores [T, kWidth] become weights, which sum to 1.
  void softmax(float* scores) const {
    for (int n = 0; n < 2; ++n, scores += kLanes) {
      Vec most = load(scores);
      for (int64_t t = 1; t < sizes_.tokens; ++t) most = larger(load(scores + t * kWidth), most);
      Vec sum{};
      for (int64_t t = 0; t < sizes_.tokens; ++t) {
        const Vec power = exp(load(scores + t * kWidth) - most);
        store(scores + t * kWidth, power);
        sum += power;
      }
      const Vec factor = 1.0f / sum;
      for (int64_t t = 0; t < sizes_.tokens; ++t) {
        store(scores + t * kWidth, load(scores + t * kWidth) * factor);
      }
    }
  }

  // averages [D, kWidth] of values under the weights, head by head.
  void average(const float* weights, float* averages) const {
    fill(nullptr, sizes_.width, averages);
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      add_product({values_ + h * head_width_ * sizes_.tokens, sizes_.tokens}, head_width_,
                  sizes_.tokens, weights + h * sizes_.tokens * kWidth,
                  averages + h * head_width_ * kWidth);
    }
  }

  const ImageToTokenSizes& sizes_;
  const ImageToTokenInputs& inputs_;
  int64_t head_width_;
  Scores scores_;
  const float* values_ = nullptr;
  float epsilon_;
  float* out_;
};

}  // namespace

void image_to_token_attention(const ImageToTokenSizes& sizes, const ImageToTokenInputs& inputs,
                              float epsilon, float* out, const Memory& memory,
                              const Parallel& parallel) {
  const Attention attention(sizes, inputs, epsilon, out, memory, parallel);
  for_token_blocks(sizes.rows, attention.scratch_floats(), memory, parallel,
                   [&](int64_t first, int64_t count, float* scratch) {
                     attention.block(first, count, scratch);
                   });
}

}  // namespace i2f::I2F_TIER
