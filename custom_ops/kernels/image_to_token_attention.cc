// A block of image tokens goes through all steps at once. Where the few tokens are taken through
// the projection of queries (few_tokens.h), their values are taken through that of the output.

#include "kernels/image_to_token_attention.h"

#include "kernels/few_tokens.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

using namespace few_tokens;

constexpr int64_t kBlockRows = 4 * kRows;

// Where the packed weights lie: of the projection of queries, then of the output's.
struct Layout {
  explicit Layout(const ImageToTokenSizes& sizes)
      : out(layer_floats(sizes.width, sizes.inputs)),
        size(out + layer_floats(sizes.channels, sizes.width)) {}
  int64_t out, size;
};

template <int kBy = kLanes / 2>
inline float max_of_lanes(Vec v) {
  v = larger(v, shuffle<Rotate<kBy>>(v, v));
  if constexpr (kBy == 1) {
    return v[0];
  } else {
    return max_of_lanes<kBy / 2>(v);
  }
}

inline VecInt lane_numbers() {
  VecInt lanes{};
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

class Attention {
 public:
  Attention(const ImageToTokenSizes& sizes, const ImageToTokenInputs& inputs, const float* packed,
            float epsilon, float* out, const Memory& memory, const Parallel& parallel)
      : sizes_(sizes),
        inputs_(inputs),
        head_width_(sizes.width / sizes.heads),
        scores_({sizes.tokens, sizes.width, sizes.heads, sizes.inputs}, inputs.key,
                inputs.query_weight, packed, inputs.query_bias, memory, parallel),
        out_panels_(packed + Layout(sizes).out),
        epsilon_(epsilon),
        out_(out) {
    if (scores_.folded()) {
      fold_values(memory, parallel);
    } else {
      pack_values(memory);
    }
  }

  int64_t scratch_floats() const {
    return kBlockRows * (scores_.projected_stride() + 2 * scores_.stride() + sum_stride());
  }

  // Image tokens [first, first + count).
  void block(int64_t first, int64_t count, float* scratch) const {
    float* projected = scratch;
    float* scores = projected + kBlockRows * scores_.projected_stride();
    float* weights = scores + kBlockRows * scores_.stride();
    float* sums = weights + kBlockRows * scores_.stride();
    scores_.multiply(count, inputs_.query + first * sizes_.width,
                     inputs_.query_input + first * sizes_.inputs, projected, scores);
    for (int64_t row = 0; row < count; ++row) {
      softmax(scores + row * scores_.stride(), weights + row * scores_.stride());
    }
    if (scores_.folded()) {
      project(first, count, {weights, scores_.stride()}, scores_.columns(), values_, sums);
    } else {
      average(count, weights, projected);
      project(first, count, {projected, scores_.projected_stride()}, sizes_.width, out_panels_,
              sums);
    }
    for (int64_t row = 0; row < count; ++row) {
      finish(sums + row * sum_stride(), out_ + (first + row) * sizes_.channels);
    }
  }

 private:
  int64_t sum_stride() const { return row_stride(sizes_.channels); }

  void fold_values(const Memory& memory, const Parallel& parallel) {
    const int64_t panels = ceil_div(sizes_.channels, kWidth), columns = scores_.columns();
    auto* all = take<float>(memory, panels * panel_floats<2>(columns));
    parallel_for(parallel, static_cast<size_t>(panels), [&](size_t index) {
      const auto panel = static_cast<int64_t>(index);
      const float* from = out_panels_ + panel * panel_floats<2>(sizes_.width);
      float* to = all + panel * panel_floats<2>(columns);
      copy_floats(from, kWidth, to);  // the bias
      from += kWidth;
      for (int64_t h = 0; h < sizes_.heads; ++h, from += head_width_ * kWidth) {
        for (int64_t t = 0; t < sizes_.tokens; ++t) {
          to += kWidth;
          for (int64_t i = 0; i < kWidth; ++i) to[i] = 0.0f;
          const float* value = inputs_.value + t * sizes_.width + h * head_width_;
          for (int64_t k = 0; k < head_width_; ++k) {
            add_scaled(from + k * kWidth, kWidth, value[k], to);
          }
        }
      }
    });
    values_ = all;
  }

  void pack_values(const Memory& memory) {
    float* to = take<float>(memory, sizes_.heads * head_floats(head_width_, sizes_.tokens));
    values_ = to;
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      const float* head = inputs_.value + h * head_width_;
      to = pack_head(
          head_width_, sizes_.tokens,
          [&](int64_t d, int64_t t) { return t < 0 ? 0.0f : head[t * sizes_.width + d]; }, to);
    }
  }

  // Each head's scores become weights, which sum to 1; `weights` is not `scores`.
  void softmax(const float* scores, float* weights) const {
    const int64_t tokens = sizes_.tokens, whole = tokens / kLanes * kLanes;
    const VecInt inside = lanes_ < static_cast<int>(tokens - whole);
    const Vec lowest = broadcast(-__builtin_inff());
    for (int64_t h = 0; h < sizes_.heads; ++h, scores += tokens, weights += tokens) {
      Vec most = lowest;
      for (int64_t t = 0; t < whole; t += kLanes) most = larger(load(scores + t), most);
      const bool rest = whole < tokens;
      const Vec last = rest ? (inside ? load(scores + whole) : lowest) : lowest;
      const Vec top = broadcast(max_of_lanes(larger(last, most)));
      Vec sum{};
      for (int64_t t = 0; t < whole; t += kLanes) {
        const Vec power = exp(load(scores + t) - top);
        store(weights + t, power);
        sum += power;
      }
      if (rest) {
        const Vec power = inside ? exp(last - top) : Vec{};
        store(weights + whole, power);
        sum += power;
      }
      const Vec factor = broadcast(1.0f / sum_of_lanes(sum));
      for (int64_t t = 0; t < tokens; t += kLanes) store(weights + t, load(weights + t) * factor);
    }
  }

  // Values under the weights, head by head.
  void average(int64_t count, const float* weights, float* averages) const {
    const float* panels = values_;
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      multiply_head({weights + h * sizes_.tokens, scores_.stride()}, count, head_width_,
                    sizes_.tokens, panels,
                    {averages + h * head_width_, scores_.projected_stride()});
      panels += head_floats(head_width_, sizes_.tokens);
    }
  }

  // sums [count, sum_stride] = image tokens plus the output's projection.
  void project(int64_t first, int64_t count, StridedRows x, int64_t depth, const float* panels,
               float* sums) const {
    multiply_layer(x, count, sizes_.channels, depth, panels,
                   {sums, sum_stride(), inputs_.image + first * sizes_.channels, sizes_.channels,
                    sizes_.channels});
  }

  void finish(float* row, float* to) const {
    normalise(row, sizes_.channels, epsilon_, row);
    for (int64_t c = 0; c < sizes_.channels; c += kWidth) {
      const int64_t left = sizes_.channels - c;
      Vec weight[2], v[2];
      load_pair(inputs_.norm_weight + c, left, weight);
      for (int n = 0; n < 2; ++n) v[n] = load(row + c + n * kLanes) * weight[n];
      store_pair_plus(to + c, v, left, inputs_.norm_bias + c);
    }
  }

  const ImageToTokenSizes& sizes_;
  const ImageToTokenInputs& inputs_;
  int64_t head_width_;
  Scores scores_;
  const float* out_panels_;
  const float* values_ = nullptr;  // folded: panels of channels; else each head's
  float epsilon_;
  float* out_;
  VecInt lanes_ = lane_numbers();
};

}  // namespace

size_t packed_image_to_token_size(const ImageToTokenSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).size);
}

void pack_image_to_token(const ImageToTokenSizes& sizes, const ImageToTokenWeights& weights,
                         float* packed) {
  const Layout layout(sizes);
  pack_layer(weights.query_weight, nullptr, sizes.width, sizes.inputs, packed);
  pack_layer(weights.out_weight, weights.out_bias, sizes.channels, sizes.width,
             packed + layout.out);
}

void image_to_token_attention(const ImageToTokenSizes& sizes, const ImageToTokenInputs& inputs,
                              const float* packed, float epsilon, float* out, const Memory& memory,
                              const Parallel& parallel) {
  if (sizes.rows == 0) return;
  const Attention attention(sizes, inputs, packed, epsilon, out, memory, parallel);
  const int64_t blocks = ceil_div(sizes.rows, kBlockRows);
  for_blocks(blocks, attention.scratch_floats(), memory, parallel,
             [&](int64_t block, float* scratch) {
               const int64_t first = sizes.rows * block / blocks;
               attention.block(first, sizes.rows * (block + 1) / blocks - first, scratch);
             });
}

}  // namespace i2f::I2F_TIER
