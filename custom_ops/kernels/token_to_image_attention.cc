// The image is read once, block by block: scores of a block, their exponentials, and what the
// block's image tokens add to weighted sums. Each part of the image has sums of its own, which
// refer to the largest scores of that part, and are put together in the end. Where the few tokens
// are taken through the projection of keys (few_tokens.h), the sums are of image tokens as they
// are, and that of values is applied to them.

#include "kernels/token_to_image_attention.h"

#include "kernels/few_tokens.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

using namespace few_tokens;

constexpr int64_t kBlockRows = 64;
constexpr int64_t kMostParts = 16;
constexpr float kLowest = -__FLT_MAX__;  // instead of a largest score, before any is known

// Where the packed weights lie: of keys, then of values.
struct Layout {
  explicit Layout(const TokenToImageSizes& sizes)
      : value(layer_floats(sizes.width, sizes.channels)), size(2 * value) {}
  int64_t value, size;
};

float dot(const float* a, const float* b, int64_t count) {
  const int64_t whole = count / kLanes * kLanes;
  float sum =
      sum_of_lanes(sum_of_terms(whole, [=](int64_t i) { return load(a + i) * load(b + i); }));
  for (int64_t i = whole; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// What a part of the image gives: of each column, a head's token, the largest score, the sum of
// exponentials and that of image tokens or values under them, [columns, stride].
struct Part {
  float *top, *weight, *sums;
};

class Attention {
 public:
  Attention(const TokenToImageSizes& sizes, const TokenToImageInputs& inputs,
            const TokenToImageWeights& weights, const float* packed, const Memory& memory,
            const Parallel& parallel)
      : sizes_(sizes),
        inputs_(inputs),
        weights_(weights),
        head_width_(sizes.width / sizes.heads),
        scores_({sizes.tokens, sizes.width, sizes.heads, sizes.channels}, inputs.query,
                weights.key_weight, packed, nullptr, memory, parallel),
        value_panels_(packed + Layout(sizes).value),
        summed_(scores_.folded() ? sizes.channels : head_width_),
        sum_stride_(round_up(summed_, kWidth)),
        padded_(round_up(scores_.columns(), kLanes)) {}

  int64_t scratch_floats() const {
    return padded_ + kBlockRows * (scores_.projected_stride() + scores_.stride() + kWidth);
  }

  int64_t part_floats() const { return 2 * padded_ + scores_.columns() * sum_stride_; }
  Part part(float* floats) const { return {floats, floats + padded_, floats + 2 * padded_}; }

  void start(Part part) const {
    for (int64_t i = 0; i < padded_; ++i) part.top[i] = kLowest;
    for (int64_t i = 0; i < padded_; ++i) part.weight[i] = 0.0f;
    for (int64_t i = 0; i < scores_.columns() * sum_stride_; ++i) part.sums[i] = 0.0f;
  }

  // Image tokens [first, first + count) join a part.
  void add(int64_t first, int64_t count, float* scratch, Part part) const {
    float* factors = scratch;
    float* projected = factors + padded_;
    float* weights = projected + kBlockRows * scores_.projected_stride();
    float* panel = weights + kBlockRows * scores_.stride();
    const float* image = inputs_.image + first * sizes_.channels;
    scores_.multiply(count, inputs_.key + first * sizes_.width, image, projected, weights);
    exponentials(count, weights, factors, part);
    for (int64_t c = 0; c < scores_.columns(); ++c) {
      if (factors[c] == 1.0f) continue;
      float* row = part.sums + c * sum_stride_;
      for (int64_t i = 0; i < sum_stride_; i += kLanes) store(row + i, load(row + i) * factors[c]);
    }
    if (scores_.folded()) {
      add_weighted(count, weights, scores_.columns(), {image, sizes_.channels}, panel, part.sums);
      return;
    }
    multiply_layer({image, sizes_.channels}, count, sizes_.width, sizes_.channels, value_panels_,
                   {projected, scores_.projected_stride()});
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      add_weighted(count, weights + h * sizes_.tokens, sizes_.tokens,
                   {projected + h * head_width_, scores_.projected_stride()}, panel,
                   part.sums + h * sizes_.tokens * sum_stride_);
    }
  }

  // The result of head `h` from all parts; `row` is room for sum_stride floats.
  void finish(int64_t h, const Part* parts, int64_t count, float* row, float* out) const {
    for (int64_t t = 0; t < sizes_.tokens; ++t) {
      const int64_t column = h * sizes_.tokens + t;
      float top = kLowest, weight = 0.0f;
      for (int64_t p = 0; p < count; ++p) {
        top = parts[p].top[column] > top ? parts[p].top[column] : top;
      }
      for (int64_t i = 0; i < sum_stride_; ++i) row[i] = 0.0f;
      for (int64_t p = 0; p < count; ++p) {
        const float factor = exp(broadcast(parts[p].top[column] - top))[0];
        weight += factor * parts[p].weight[column];
        add_scaled(parts[p].sums + column * sum_stride_, sum_stride_, factor, row);
      }
      for (int64_t k = 0; k < head_width_; ++k) {
        const int64_t d = h * head_width_ + k;
        const float sum = scores_.folded() ? dot(row, weights_.value_weight + d * sizes_.channels,
                                                 sizes_.channels)
                                           : row[k];
        out[t * sizes_.width + d] = sum / weight + inputs_.value_bias[d];
      }
    }
  }

  int64_t sum_stride() const { return sum_stride_; }

 private:
  // Scores of a block become exponentials below the part's largest scores, which rise; `factors` is
  // what earlier sums have to be multiplied by.
  void exponentials(int64_t count, float* scores, float* factors, Part part) const {
    const int64_t stride = scores_.stride();
    for (int64_t c = 0; c < scores_.columns(); c += kLanes, scores += kLanes) {
      const Vec before = load(part.top + c);
      Vec top = before;
      for (int64_t row = 0; row < count; ++row) top = larger(load(scores + row * stride), top);
      Vec sum{};
      for (int64_t row = 0; row < count; ++row) {
        const Vec power = exp(load(scores + row * stride) - top);
        store(scores + row * stride, power);
        sum += power;
      }
      const Vec factor = exp(before - top);
      store(factors + c, factor);
      store(part.top + c, top);
      store(part.weight + c, load(part.weight + c) * factor + sum);
    }
  }

  // sums [columns, sum_stride] += the products of columns of weights and `summed_` numbers of rows.
  void add_weighted(int64_t count, const float* weights, int64_t columns, StridedRows rows,
                    float* panel, float* sums) const {
    for (int64_t i = 0; i < summed_; i += kWidth) {
      for (int64_t row = 0; row < count; ++row) {
        Vec pair[2];
        load_pair(rows[row] + i, summed_ - i, pair);
        for (int n = 0; n < 2; ++n) store(panel + row * kWidth + n * kLanes, pair[n]);
      }
      if (summed_ - i > kLanes) {
        add_panel<2>(count, weights, columns, panel, sums + i);
      } else {
        add_panel<1>(count, weights, columns, panel, sums + i);
      }
    }
  }

  template <int N>
  void add_panel(int64_t count, const float* weights, int64_t columns, const float* panel,
                 float* sums) const {
    for_parts(0, columns, kRows, [&](int64_t begin, int64_t end) {
      with_rows<kRows>(end - begin, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        Vec products[M][N] = {};
        const float* factors = weights + begin;
        const float* at = panel;
        for (int64_t row = 0; row < count; ++row, factors += scores_.stride(), at += kWidth) {
          Vec numbers[N];
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) numbers[n] = load(at + n * kLanes);
#pragma GCC unroll 32
          for (int m = 0; m < M; ++m) {
            const Vec factor = broadcast(factors[m]);
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) products[m][n] += factor * numbers[n];
          }
        }
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
          float* to = sums + (begin + m) * sum_stride_;
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) {
            store(to + n * kLanes, load(to + n * kLanes) + products[m][n]);
          }
        }
      });
    });
  }

  const TokenToImageSizes& sizes_;
  const TokenToImageInputs& inputs_;
  const TokenToImageWeights& weights_;
  int64_t head_width_;
  Scores scores_;
  const float* value_panels_;
  int64_t summed_;      // numbers of a row that are summed: channels, or those of a head's values
  int64_t sum_stride_;  // floats of such a sum
  int64_t padded_;      // columns, whole vectors
};

}  // namespace

size_t packed_token_to_image_size(const TokenToImageSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).size);
}

void pack_token_to_image(const TokenToImageSizes& sizes, const TokenToImageWeights& weights,
                         float* packed) {
  const Layout layout(sizes);
  pack_layer(weights.key_weight, nullptr, sizes.width, sizes.channels, packed);
  pack_layer(weights.value_weight, nullptr, sizes.width, sizes.channels, packed + layout.value);
}

void token_to_image_attention(const TokenToImageSizes& sizes, const TokenToImageInputs& inputs,
                              const TokenToImageWeights& weights, const float* packed, float* out,
                              const Memory& memory, const Parallel& parallel) {
  const Attention attention(sizes, inputs, weights, packed, memory, parallel);
  const int64_t count = min(kMostParts, ceil_div(sizes.rows, kBlockRows));
  auto* floats = take<float>(memory, count * attention.part_floats());
  auto* parts = take<Part>(memory, count);
  for (int64_t p = 0; p < count; ++p) {
    parts[p] = attention.part(floats + p * attention.part_floats());
  }
  for_blocks(count, attention.scratch_floats(), memory, parallel, [&](int64_t p, float* scratch) {
    attention.start(parts[p]);
    for_parts(sizes.rows * p / count, sizes.rows * (p + 1) / count, kBlockRows,
              [&](int64_t first, int64_t last) {
                attention.add(first, last - first, scratch, parts[p]);
              });
  });
  float* rows = take<float>(memory, sizes.heads * attention.sum_stride());
  parallel_for(parallel, static_cast<size_t>(sizes.heads), [&](size_t index) {
    const auto h = static_cast<int64_t>(index);
    attention.finish(h, parts, count, rows + h * attention.sum_stride(), out);
  });
}

}  // namespace i2f::I2F_TIER
