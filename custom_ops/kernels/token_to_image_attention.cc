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

constexpr int64_t kMostParts = 16;
constexpr float kLowest = -__FLT_MAX__;  // instead of a largest score, before any is known

float dot(const float* a, const float* b, int64_t count) {
  const int64_t whole = count / kLanes * kLanes;
  float sum =
      sum_of_lanes(sum_of_terms(whole, [=](int64_t i) { return load(a + i) * load(b + i); }));
  for (int64_t i = whole; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

template <int kBy = kLanes / 2>
inline float max_of_lanes(Vec v) {
  v = larger(v, shuffle<Rotate<kBy>>(v, v));
  if constexpr (kBy == 1) {
    return v[0];
  } else {
    return max_of_lanes<kBy / 2>(v);
  }
}

// What a part of the image gives: of each pair of a head and a token the largest score, the sum of
// exponentials and that of image tokens or values under them, the latter in panels of kWidth
// numbers.
struct Part {
  float *top, *weight, *sums;
};

class Attention {
 public:
  Attention(const TokenToImageSizes& sizes, const TokenToImageInputs& inputs, const Memory& memory,
            const Parallel& parallel)
      : sizes_(sizes),
        inputs_(inputs),
        head_width_(sizes.width / sizes.heads),
        scores_({sizes.tokens, sizes.width, sizes.heads, sizes.channels}, inputs.query,
                inputs.key_weight, nullptr, sizes.values == 1, memory, parallel),
        summed_(scores_.folded() ? sizes.channels : head_width_),
        panels_(ceil_div(summed_, kWidth)),
        groups_(scores_.folded() ? 1 : sizes.heads),
        padded_(round_up(scores_.pairs(), kLanes)) {}

  int64_t scratch_floats() const {
    return (sizes_.channels + sizes_.width) * kWidth + scores_.scratch_floats() + padded_ +
           (scores_.pairs() + groups_ * panels_ * kWidth) * kSpan;
  }
  int64_t part_floats() const { return 2 * padded_ + scores_.pairs() * sum_floats(); }
  int64_t sum_floats() const { return panels_ * kWidth; }  // of a pair
  Part part(float* floats) const { return {floats, floats + padded_, floats + 2 * padded_}; }

  void start(Part part) const {
    for (int64_t i = 0; i < padded_; ++i) part.top[i] = kLowest;
    for (int64_t i = 0; i < padded_; ++i) part.weight[i] = 0.0f;
    for (int64_t i = 0; i < scores_.pairs() * sum_floats(); ++i) part.sums[i] = 0.0f;
  }

  // Image tokens [first, first + count) join a part; count is at most kSpan.
  void add(int64_t first, int64_t count, float* scratch, Part part) const {
    float* image = scratch;
    float* values = image + sizes_.channels * kWidth;
    float* projected = values + sizes_.width * kWidth;
    float* factors = projected + scores_.scratch_floats();
    float* weights = factors + padded_;
    float* panels = weights + scores_.pairs() * kSpan;
    for (int64_t at = 0; at < count; at += kWidth) {
      const int64_t here = min(kWidth, count - at);
      gather(rows(first + at), here, sizes_.channels, image);
      scores_.multiply(here, inputs_.key + (first + at) * sizes_.width, image, projected,
                       weights + at, kSpan);
      if (scores_.folded()) continue;
      if (sizes_.values == 1) {
        fill(inputs_.value, sizes_.width, values);
      } else {
        gather({inputs_.value + (first + at) * sizes_.width, sizes_.width}, here, sizes_.width,
               values);
      }
      add_product({inputs_.value_weight, sizes_.channels}, sizes_.width, sizes_.channels, image,
                  values);
      for (int64_t h = 0; h < sizes_.heads; ++h) {
        for (int64_t p = 0; p < panels_; ++p) {
          const int64_t d = p * kWidth;
          scatter(values + (h * head_width_ + d) * kWidth, here, min(kWidth, head_width_ - d),
                  panels + ((h * panels_ + p) * kSpan + at) * kWidth, kWidth);
        }
      }
    }
    if (scores_.folded()) {
      for (int64_t i = 0; i < count; ++i) copy_to_panels(rows(first)[i], panels + i * kWidth);
    }
    exponentials(count, weights, factors, part);
    const int64_t pairs = scores_.pairs() / groups_;
    for (int64_t g = 0; g < groups_; ++g) {
      for (int64_t p = 0; p < panels_; ++p) {
        float* sums = part.sums + (g * panels_ + p) * pairs * kWidth;
        scale(factors + g * pairs, pairs, sums);
        add_product({weights + g * pairs * kSpan, kSpan}, pairs, count,
                    panels + (g * panels_ + p) * kSpan * kWidth, sums);
      }
    }
  }

  // The result of head `h` from all parts; `row` is room for sum_floats().
  void finish(int64_t h, const Part* parts, int64_t count, float* row, float* out) const {
    const int64_t pairs = scores_.pairs() / groups_;
    for (int64_t t = 0; t < sizes_.tokens; ++t) {
      const int64_t pair = h * sizes_.tokens + t, group = pair / pairs;
      float top = kLowest, weight = 0.0f;
      for (int64_t p = 0; p < count; ++p) {
        top = parts[p].top[pair] > top ? parts[p].top[pair] : top;
      }
      for (int64_t i = 0; i < sum_floats(); ++i) row[i] = 0.0f;
      for (int64_t p = 0; p < count; ++p) {
        const float factor = exp(broadcast(parts[p].top[pair] - top))[0];
        weight += factor * parts[p].weight[pair];
        for (int64_t i = 0; i < panels_; ++i) {
          const int64_t at = (group * panels_ + i) * pairs + pair % pairs;
          add_scaled(parts[p].sums + at * kWidth, kWidth, factor, row + i * kWidth);
        }
      }
      for (int64_t k = 0; k < head_width_; ++k) {
        const int64_t d = h * head_width_ + k;
        const float* value_weight = inputs_.value_weight + d * sizes_.channels;
        out[t * sizes_.width + d] =
            scores_.folded() ? dot(row, value_weight, sizes_.channels) / weight + inputs_.value[d]
                             : row[k] / weight;
      }
    }
  }

 private:
  StridedRows rows(int64_t first) const {
    return {inputs_.image + first * sizes_.channels, sizes_.channels};
  }

  // One row of each panel, kSpan rows apart.
  void copy_to_panels(const float* row, float* to) const {
    for (int64_t c = 0; c < summed_; c += kWidth, to += kSpan * kWidth) {
      Vec v[2];
      load_pair(row + c, summed_ - c, v);
      for (int n = 0; n < 2; ++n) store(to + n * kLanes, v[n]);
    }
  }

  // Scores of a block become exponentials below the part's largest scores, which rise; `factors` is
  // what earlier sums have to be multiplied by.
  void exponentials(int64_t count, float* scores, float* factors, Part part) const {
    const int64_t whole = round_up(count, kWidth);
    for (int64_t c = 0; c < scores_.pairs(); ++c) {
      float* row = scores + c * kSpan;
      for (int64_t i = count; i < whole; ++i) row[i] = kLowest;
      Vec most = load(row);
      for (int64_t i = kLanes; i < whole; i += kLanes) most = larger(load(row + i), most);
      const float top = max_of_lanes(most);
      factors[c] = top > part.top[c] ? top : part.top[c];
    }
    for (int64_t c = 0; c < padded_; c += kLanes) {
      const Vec top = load(factors + c);
      store(factors + c, exp(load(part.top + c) - top));
      store(part.top + c, top);
    }
    for (int64_t c = 0; c < scores_.pairs(); ++c) {
      float* row = scores + c * kSpan;
      const Vec top = broadcast(part.top[c]);
      Vec sums[2] = {};
      for (int64_t i = 0; i < whole; i += kWidth) {
        for (int n = 0; n < 2; ++n) {
          const Vec power = exp(load(row + i + n * kLanes) - top);
          store(row + i + n * kLanes, power);
          sums[n] += power;
        }
      }
      part.weight[c] = part.weight[c] * factors[c] + sum_of_lanes(sums[0] + sums[1]);
    }
  }

  static void scale(const float* factors, int64_t pairs, float* sums) {
    for (int64_t c = 0; c < pairs; ++c, sums += kWidth) {
      if (factors[c] == 1.0f) continue;
      for (int n = 0; n < 2; ++n) store(sums + n * kLanes, load(sums + n * kLanes) * factors[c]);
    }
  }

  const TokenToImageSizes& sizes_;
  const TokenToImageInputs& inputs_;
  int64_t head_width_;
  Scores scores_;
  int64_t summed_;  // numbers of a row that are summed: channels, or those of a head's values
  int64_t panels_;  // of these
  int64_t groups_;  // of pairs that sum the same rows
  int64_t padded_;  // pairs, whole vectors
};

}  // namespace

void token_to_image_attention(const TokenToImageSizes& sizes, const TokenToImageInputs& inputs,
                              float* out, const Memory& memory, const Parallel& parallel) {
  const Attention attention(sizes, inputs, memory, parallel);
  const int64_t count = min(kMostParts, ceil_div(sizes.rows, kSpan));
  auto* floats = take<float>(memory, count * attention.part_floats());
  auto* parts = take<Part>(memory, count);
  for (int64_t p = 0; p < count; ++p) {
    parts[p] = attention.part(floats + p * attention.part_floats());
  }
  for_blocks(count, attention.scratch_floats(), memory, parallel, [&](int64_t p, float* scratch) {
    attention.start(parts[p]);
    const int64_t end = sizes.rows * (p + 1) / count;
    for (int64_t first = sizes.rows * p / count; first < end; first += kSpan) {
      attention.add(first, min(kSpan, end - first), scratch, parts[p]);
    }
  });
  float* rows = take<float>(memory, sizes.heads * attention.sum_floats());
  parallel_for(parallel, static_cast<size_t>(sizes.heads), [&](size_t index) {
    const auto h = static_cast<int64_t>(index);
    attention.finish(h, parts, count, rows + h * attention.sum_floats(), out);
  });
}

}  // namespace i2f::I2F_TIER
