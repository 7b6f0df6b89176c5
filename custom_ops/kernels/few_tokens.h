// Attention between many image tokens and a few others, whichever side asks: the scores.
//
// With W the projection of an image token x and k the vector of another token's head,
// (W x) . k = x . (W^T k): where few tokens have few heads, their vectors are taken through W
// instead of all image tokens. That is I products for each of T tokens and H heads in place of D I
// for an image token of I inputs: less up to H T = D.
#pragma once

#include "kernels/memory.h"
#include "kernels/parallel.h"
#include "kernels/token_lanes.h"

namespace i2f::I2F_TIER::few_tokens {

using namespace token_lanes;

struct Sizes {
  int64_t tokens;  // T
  int64_t width;   // D over all heads
  int64_t heads;   // H
  int64_t inputs;  // I of the projection
};

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }  // b where a is NaN

// to[i] += factor * from[i]
inline void add_scaled(const float* from, int64_t count, float factor, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(to + i) + factor * load(from + i));
  for (; i < count; ++i) to[i] += factor * from[i];
}

namespace {  // a task of parallel_for is the linker's to merge, unless it is a file's own

class Scores {
 public:
  // The few tokens' vectors [T, D], which are scaled by (D / H)^-0.5; of the projection its weight
  // [D, I] and its bias [D], or nullptr for none. `may_fold`: whether the vectors may be taken
  // through the projection.
  Scores(const Sizes& sizes, const float* vectors, const float* weight, const float* bias,
         bool may_fold, const Memory& memory, const Parallel& parallel)
      : sizes_(sizes),
        head_width_(sizes.width / sizes.heads),
        folded_(may_fold && pairs() < sizes.width),
        weight_(weight) {
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_width_));
    auto* scaled = take<float>(memory, sizes.tokens * sizes.width);
    auto* start = take<float>(memory, pairs());
    vectors_ = scaled;
    start_ = start;
    for (int64_t i = 0; i < sizes.tokens * sizes.width; ++i) scaled[i] = vectors[i] * scale;
    for (int64_t c = 0; c < pairs(); ++c) {
      const int64_t h = c / sizes.tokens * head_width_;
      const float* vector = scaled + c % sizes.tokens * sizes.width + h;
      start[c] = 0.0f;
      for (int64_t k = 0; bias != nullptr && k < head_width_; ++k) {
        start[c] += bias[h + k] * vector[k];
      }
    }
    if (folded()) fold(memory, parallel);
  }

  bool folded() const { return folded_; }
  // Of a head and a token, one head's behind the other's.
  int64_t pairs() const { return sizes_.heads * sizes_.tokens; }
  int64_t scratch_floats() const { return sizes_.width * kWidth; }

  // scores [pairs, kWidth], rows `stride` apart, of the `count` image tokens of a block whose
  // projections are known [count, D] plus those of input [I, kWidth]; `projected` is room for
  // scratch_floats().
  void multiply(int64_t count, const float* known, const float* input, float* projected,
                float* scores, int64_t stride = kWidth) const {
    gather({known, sizes_.width}, count, sizes_.width, projected);
    if (!folded()) {
      add_product({weight_, sizes_.inputs}, sizes_.width, sizes_.inputs, input, projected);
    }
    fill(start_, pairs(), scores, stride);
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      add_product({vectors_ + h * head_width_, sizes_.width}, sizes_.tokens, head_width_,
                  projected + h * head_width_ * kWidth, scores + h * sizes_.tokens * stride,
                  stride);
    }
    if (folded())
      add_product({weight_, sizes_.inputs}, pairs(), sizes_.inputs, input, scores, stride);
  }

 private:
  // Of a pair its head's first number, and its token's vector.
  int64_t first_of(int64_t pair) const { return pair / sizes_.tokens * head_width_; }
  const float* vector_of(int64_t pair) const {
    return vectors_ + pair % sizes_.tokens * sizes_.width;
  }

  void fold(const Memory& memory, const Parallel& parallel) {
    auto* rows = take<float>(memory, pairs() * sizes_.inputs);
    parallel_for(parallel, static_cast<size_t>(pairs()), [&](size_t index) {
      const auto p = static_cast<int64_t>(index);
      float* row = rows + p * sizes_.inputs;
      for (int64_t i = 0; i < sizes_.inputs; ++i) row[i] = 0.0f;
      for (int64_t d = first_of(p); d < first_of(p) + head_width_; ++d) {
        add_scaled(weight_ + d * sizes_.inputs, sizes_.inputs, vector_of(p)[d], row);
      }
    });
    weight_ = rows;
  }

  Sizes sizes_;
  int64_t head_width_;
  bool folded_;
  const float* weight_;   // of the projection; folded: of all pairs
  const float* vectors_;  // [T, D]
  const float* start_;    // what a pair's scores start from
};

}  // namespace
}  // namespace i2f::I2F_TIER::few_tokens
