// How edge tokens come to their experts: by the same bits for all kernels of experts, so that all
// of them choose alike.
#pragma once

#include "kernels/gemm.h"
#include "kernels/hybrid_experts.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {

// An edge token on its way to its expert.
struct Routed {
  int64_t token;
  float gap;  // gate of its expert minus that of the shared one
};

// Edge tokens [begin, end) in the order of experts, all of one expert, 0..R-1.
struct Batch {
  int64_t expert, begin, end;
};

// What the gates say of each edge token: its expert, 0..R-1, and Routed::gap.
struct Choices {
  int32_t* expert;
  float* gap;
};

// Gates and what decides between them, in floats: panels of one vector, and behind them the
// experts' R biases. The scale and shift of the tokens' norm are folded in.
struct Gates {
  explicit Gates(const ExpertSizes& of)
      : sizes(of),
        panels(ceil_div(1 + sizes.routed, kLanes)),
        bias(panels * panel_floats<1>(sizes.channels)),
        total(bias + ceil_div(sizes.routed, kLanes) * kLanes) {}

  void pack(const ExpertWeights& weights, float* packed) const {
    const Fold input{weights.input_norm_weight, weights.input_norm_bias};
    for (int64_t p = 0; p < panels; ++p) {
      pack_columns(weights.gate_weight, weights.gate_bias, &input, 1 + sizes.routed, sizes.channels,
                   p * kLanes, 0, 1, packed + p * panel_floats<1>(sizes.channels));
    }
    for (int64_t r = 0; r < sizes.routed; ++r) packed[bias + r] = weights.expert_bias[r];
  }

  // Of `count` edge tokens from the `first` on, 1 <= count <= kMost, normalised without scale and
  // shift: which expert, and by how much it is ahead of the shared one. `gates` is memory for
  // kMost * panels vectors.
  template <int kMost>
  __attribute__((noinline)) void choose(const float* const* normed, int64_t count, int64_t first,
                                        const float* packed, float* gates,
                                        const Choices& choices) const {
    const int64_t stride = panels * kLanes;
    with_rows<kMost>(count, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      for (int64_t p = 0; p < panels; ++p) {
        Vec sums[M][1];
        multiply<M, 1>(normed, packed + p * panel_floats<1>(sizes.channels), sizes.channels, sums);
        for (int m = 0; m < M; ++m) store(gates + m * stride + p * kLanes, sigmoid(sums[m][0]));
      }
    });
    for (int64_t i = 0; i < count; ++i) {
      choose_one(gates + i * stride, packed + bias, first + i, choices);
    }
  }

  void choose_one(const float* gates, const float* biases, int64_t i,
                  const Choices& choices) const {
    int64_t best = 0;
    float highest = -__builtin_inff();
    for (int64_t r = 0; r < sizes.routed; ++r) {
      const float score = gates[1 + r] + biases[r];
      best = score > highest ? r : best;  // a NaN is not
      highest = score > highest ? score : highest;
    }
    choices.expert[i] = static_cast<int32_t>(best);
    choices.gap[i] = gates[1 + best] - gates[0];
  }

  const ExpertSizes& sizes;
  int64_t panels;
  int64_t bias;  // offset
  int64_t total;
};

// First index of `edge` whose token is `token` or later.
inline int64_t first_from(const int64_t* edge, int64_t edges, int64_t token) {
  int64_t low = 0, high = edges;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    edge[middle] < token ? low = middle + 1 : high = middle;
  }
  return low;
}

// How many batches of at most `most` tokens there may be.
inline int64_t max_batches(int64_t edges, int64_t routed, int64_t most) {
  return min(edges, routed) + edges / most;
}

// Counting sort of edge tokens by expert, stable; returns the number of batches, each of at most
// `most` tokens. `next` has R + 1 elements to work with.
inline int64_t sort_by_expert(const int64_t* edge, int64_t edges, int64_t routed, int64_t most,
                              const Choices& choices, int64_t* next, Routed* sorted,
                              Batch* batches) {
  for (int64_t r = 0; r <= routed; ++r) next[r] = 0;
  for (int64_t i = 0; i < edges; ++i) ++next[choices.expert[i] + 1];
  int64_t count = 0;
  for (int64_t r = 0; r < routed; ++r) {
    for_parts(next[r], next[r] + next[r + 1], most,
              [&](int64_t begin, int64_t end) { batches[count++] = {r, begin, end}; });
    next[r + 1] += next[r];
  }
  for (int64_t i = 0; i < edges; ++i) {
    sorted[next[choices.expert[i]]++] = {edge[i], choices.gap[i]};
  }
  return count;
}

}  // namespace i2f::I2F_TIER
