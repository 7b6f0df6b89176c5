// Attention between many image tokens and a few others, whichever side asks: the scores.
//
// With W the projection of an image token x and k the vector of another token's head,
// (W x) . k = x . (W^T k): where few tokens have few heads, their vectors are taken through W
// instead of all image tokens. That is I products for each of T tokens and H heads in place of D I
// for an image token of I inputs: less up to H T = D.
#pragma once

#include "kernels/blocks.h"
#include "kernels/gemm.h"

namespace i2f::I2F_TIER::few_tokens {

constexpr int kRows = kTileRows<2>;     // of a tile
constexpr int64_t kWidth = 2 * kLanes;  // of a panel

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

// Floats from one row of a kernel's own to the next: whole panels may be written, and no power of
// two, which would put all rows into the same few places of the first cache.
inline int64_t row_stride(int64_t count) { return round_up(count, kWidth) + kLanes; }

// ---- Panels of a linear layer's weights [columns, depth].

inline int64_t layer_floats(int64_t columns, int64_t depth) {
  return ceil_div(columns, kWidth) * panel_floats<2>(depth);
}
// Without a bias where that is null.
inline void pack_layer(const float* weight, const float* bias, int64_t columns, int64_t depth,
                       float* packed) {
  for (int64_t first = 0; first < columns; first += kWidth, packed += panel_floats<2>(depth)) {
    for (int n = 0; n < 2; ++n) {
      pack_columns(weight, bias, nullptr, columns, depth, min(first + n * kLanes, columns), n, 2,
                   packed);
    }
  }
}

// Where sums of products go, whole vectors in rows `stride` apart, and what they are added to:
// `before`, of which a row has `columns`, or nothing.
struct Results {
  float* out;
  int64_t stride;
  const float* before = nullptr;
  int64_t before_stride = 0, columns = 0;
  Results at(int64_t c) const {
    return {out + c, stride, before == nullptr ? before : before + c, before_stride, columns - c};
  }
};

// Results of `count` rows of x times a panel of N vectors.
template <int N>
inline __attribute__((noinline)) void multiply_panel(StridedRows x, int64_t count, int64_t depth,
                                                     const float* panel, const Results& results) {
  for_parts(0, count, kRows, [&](int64_t begin, int64_t end) {
    with_rows<kRows>(end - begin, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* rows[M];
      for (int m = 0; m < M; ++m) rows[m] = x[begin + m];
      Vec products[M][N], sums[M][N];
      multiply<M, N>(rows, panel, depth, products);
      copy<M, N>(products, sums);
      for (int m = 0; m < M; ++m) {
        Vec before[2] = {};
        if (results.before != nullptr) {
          load_pair(results.before + (begin + m) * results.before_stride, results.columns, before);
        }
        float* to = results.out + (begin + m) * results.stride;
        for (int n = 0; n < N; ++n) store(to + n * kLanes, before[n] + sums[m][n]);
      }
    });
  });
}

inline void multiply_layer(StridedRows x, int64_t count, int64_t columns, int64_t depth,
                           const float* packed, const Results& results) {
  for (int64_t c = 0; c < columns; c += kWidth, packed += panel_floats<2>(depth)) {
    multiply_panel<2>(x, count, depth, packed, results.at(c));
  }
}

// ---- Panels of what one head has: of two vectors, and of one where a single one is left.

inline int64_t head_floats(int64_t columns, int64_t depth) {
  return ceil_div(columns, kLanes) * panel_floats<1>(depth);
}
// Takes element(column, k), that of k = -1 being what sums start from. Returns what lies behind.
template <class Element>
inline float* pack_head(int64_t columns, int64_t depth, const Element& element, float* to) {
  for (int64_t first = 0; first < columns; first += kWidth) {
    const int64_t lanes = columns - first > kLanes ? kWidth : kLanes;
    for (int64_t k = -1; k < depth; ++k) {
      for (int64_t c = first; c < first + lanes; ++c) *to++ = c < columns ? element(c, k) : 0.0f;
    }
  }
  return to;
}
inline void multiply_head(StridedRows x, int64_t count, int64_t columns, int64_t depth,
                          const float* panels, const Results& results) {
  for (int64_t c = 0; c < columns; c += kWidth, panels += panel_floats<2>(depth)) {
    if (columns - c > kLanes) {
      multiply_panel<2>(x, count, depth, panels, results.at(c));
    } else {
      multiply_panel<1>(x, count, depth, panels, results.at(c));
    }
  }
}

// ---- Scores.

namespace {  // a task of parallel_for is the linker's to merge, unless it is a file's own

class Scores {
 public:
  // The few tokens' vectors [T, D], which are scaled by (D / H)^-0.5; of the projection its weight
  // [D, I], the same packed with zeros as bias, and its bias [D] or nullptr for none.
  Scores(const Sizes& sizes, const float* vectors, const float* weight, const float* packed,
         const float* bias, const Memory& memory, const Parallel& parallel)
      : sizes_(sizes),
        head_width_(sizes.width / sizes.heads),
        columns_(sizes.heads * sizes.tokens),
        panels_(packed) {
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_width_));
    auto* scaled = take<float>(memory, sizes.tokens * sizes.width);
    for (int64_t i = 0; i < sizes.tokens * sizes.width; ++i) scaled[i] = vectors[i] * scale;
    float* own = take<float>(memory, sizes.heads * head_floats(sizes.tokens, head_width_));
    heads_ = own;
    for (int64_t h = 0; h < sizes.heads; ++h) {
      const float* head = scaled + h * head_width_;
      const auto of_bias = [&](int64_t t) {
        float sum = 0.0f;
        for (int64_t k = 0; bias != nullptr && k < head_width_; ++k) {
          sum += bias[h * head_width_ + k] * head[t * sizes.width + k];
        }
        return sum;
      };
      const auto element = [&](int64_t t, int64_t k) {
        return k < 0 ? of_bias(t) : head[t * sizes.width + k];
      };
      own = pack_head(sizes.tokens, head_width_, element, own);
    }
    if (folded()) fold(weight, scaled, memory, parallel);
  }

  bool folded() const { return columns_ < sizes_.width; }
  // A row has the scores of one head behind those of the other, and further numbers behind them.
  int64_t columns() const { return columns_; }
  int64_t stride() const { return row_stride(columns_ + kLanes); }
  int64_t projected_stride() const { return row_stride(sizes_.width); }

  // scores [count, stride] of image tokens whose projections are known [count, D] plus those of
  // input [count, I]; `projected` is room for [count, projected_stride].
  void multiply(int64_t count, const float* known, const float* input, float* projected,
                float* scores) const {
    const StridedRows x{input, sizes_.inputs};
    if (folded()) {
      multiply_heads({known, sizes_.width}, count, scores);
      multiply_layer(x, count, columns_, sizes_.inputs, panels_,
                     {scores, stride(), scores, stride(), stride()});
    } else {
      multiply_layer(x, count, sizes_.width, sizes_.inputs, panels_,
                     {projected, projected_stride(), known, sizes_.width, sizes_.width});
      multiply_heads({projected, projected_stride()}, count, scores);
    }
  }

 private:
  // What a head's last vector holds behind its own tokens, the next head's scores replace.
  void multiply_heads(StridedRows x, int64_t count, float* scores) const {
    const float* panels = heads_;
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      multiply_head({x.data + h * head_width_, x.stride}, count, sizes_.tokens, head_width_, panels,
                    {scores + h * sizes_.tokens, stride()});
      panels += head_floats(sizes_.tokens, head_width_);
    }
  }

  void fold(const float* weight, const float* scaled, const Memory& memory,
            const Parallel& parallel) {
    auto* rows = take<float>(memory, columns_ * sizes_.inputs);
    parallel_for(parallel, static_cast<size_t>(sizes_.heads), [&](size_t index) {
      const auto h = static_cast<int64_t>(index);
      for (int64_t t = 0; t < sizes_.tokens; ++t) {
        float* row = rows + (h * sizes_.tokens + t) * sizes_.inputs;
        for (int64_t i = 0; i < sizes_.inputs; ++i) row[i] = 0.0f;
        for (int64_t d = h * head_width_; d < (h + 1) * head_width_; ++d) {
          add_scaled(weight + d * sizes_.inputs, sizes_.inputs, scaled[t * sizes_.width + d], row);
        }
      }
    });
    float* panels = take<float>(memory, layer_floats(columns_, sizes_.inputs));
    pack_layer(rows, nullptr, columns_, sizes_.inputs, panels);
    panels_ = panels;
  }

  Sizes sizes_;
  int64_t head_width_, columns_;
  const float* panels_;           // of the projection; folded: of all columns
  const float* heads_ = nullptr;  // each head's tokens
};

}  // namespace
}  // namespace i2f::I2F_TIER::few_tokens
