// Each expert is two matrix products around a LayerNorm, fused a tile of tokens at a time: the tile
// reads its tokens where they lie (row pointers, no gathered copy), its hidden values stay in the
// first cache, and only results are written. Edge tokens are sorted by expert, so that a tile has
// one expert.

#include "kernels/hybrid_experts.h"

#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;        // tokens of a tile
constexpr int64_t kTaskRows = 4 * kRows;   // tokens of a task of the shared expert, at least
constexpr int64_t kMostTasks = 64;         // of the shared expert: bounds the scratch
constexpr int64_t kBatchRows = 8 * kRows;  // tokens of a task of a routed expert, at most
constexpr int64_t kBlock = 1 << 20;        // floats of the tokens that are done with before others

// Where the packed parameters lie, in floats.
//   gate     ceil((1+R) / kLanes) panels of one vector
//   bias     R
//   experts  1+R times: `up`, panels of two vectors, the one of w1 and the one of w2 for the same
//            hidden units, then `down`, panels of two vectors of w3 with the norm's scale and shift
//            folded in
struct Layout {
  explicit Layout(const ExpertSizes& sizes)
      : gate_panels(ceil_div(1 + sizes.routed, kLanes)),
        up_panels(ceil_div(sizes.hidden, kLanes)),
        down_panels(ceil_div(sizes.channels, 2 * kLanes)),
        up_panel(panel_floats<2>(sizes.channels)),
        down_panel(panel_floats<2>(sizes.hidden)),
        bias(gate_panels * panel_floats<1>(sizes.channels)),
        experts(bias + ceil_div(sizes.routed, kLanes) * kLanes),
        down(up_panels * up_panel),
        expert(down + down_panels * down_panel),
        total(experts + (1 + sizes.routed) * expert) {}

  int64_t gate_panels, up_panels, down_panels;
  int64_t up_panel, down_panel;  // floats of one
  int64_t bias, experts;         // offsets; the gate's is 0
  int64_t down, expert;          // of `down` in an expert, and an expert's size
  int64_t total;
};

// Vector `n` of the `of` vectors of a panel: columns of w [columns, depth] from `first` on, 0
// behind the last.
void pack_vector(const float* w, const float* bias, int64_t columns, int64_t depth, int64_t first,
                 int n, int of, float* panel) {
  const int64_t width = columns - first < kLanes ? columns - first : kLanes;
  float* to = panel + n * kLanes;
  for (int64_t j = 0; j < kLanes; ++j) to[j] = j < width ? bias[first + j] : 0.0f;
  for (int64_t k = 0; k < depth; ++k) {
    to += of * kLanes;
    for (int64_t j = 0; j < kLanes; ++j) to[j] = j < width ? w[(first + j) * depth + k] : 0.0f;
  }
}

// LN(h) = n * scale + shift, so w3 LN(h) + b3 = (w3 scale) n + (w3 shift + b3).
void pack_down(const float* w, const float* bias, const float* scale, const float* shift,
               const ExpertSizes& sizes, int64_t first, int n, float* panel) {
  const int64_t depth = sizes.hidden;
  for (int j = 0; j < kLanes; ++j) {
    const int64_t c = first + j;
    const bool inside = c < sizes.channels;
    double start = inside ? bias[c] : 0.0;
    for (int64_t k = 0; k < depth; ++k) {
      const float weight = inside ? w[c * depth + k] : 0.0f;
      start += inside ? static_cast<double>(weight) * shift[k] : 0.0;
      panel[((k + 1) * 2 + n) * kLanes + j] = inside ? weight * scale[k] : 0.0f;
    }
    panel[n * kLanes + j] = static_cast<float>(start);
  }
}

// An edge token on its way to its expert.
struct Routed {
  int64_t token;
  float gap;  // gate of its expert minus that of the shared one
};

// Edge tokens [begin, end) in the order of experts, all of one expert.
struct Batch {
  int64_t expert, begin, end;
};

// What the gates say of each edge token: its expert, 0..R-1, and Routed::gap.
struct Choices {
  int32_t* expert;
  float* gap;
};

// Two vectors of results, of which the first `count` elements are real.
void store_pair(float* to, const Vec* v, int64_t count) {
  for (int n = 0; n < 2; ++n, to += kLanes, count -= kLanes) {
    if (count >= kLanes) {
      store(to, v[n]);
    } else if (count > 0) {
      store_partial(to, v[n], static_cast<int>(count));
    }
  }
}

// to = (to + odds v) / (1 + odds), as store_pair(). One function for tiles of every height: the
// compiler may fuse a product and a sum here or not, but always alike.
__attribute__((noinline)) void mix_pair(float* to, const Vec* v, int64_t count, float odds,
                                        float scale) {
  Vec mixed[2];
  for (int n = 0; n < 2; ++n) {
    const int64_t left = count - n * kLanes;
    if (left <= 0) break;
    const float* from = to + n * kLanes;
    const Vec old = left >= kLanes ? load(from) : load_partial(from, static_cast<int>(left));
    mixed[n] = (old + odds * v[n]) * scale;
  }
  store_pair(to, mixed, count);
}

// Rows to be fetched: those of the next tile.
struct Ahead {
  const float* rows[kRows];
  int64_t count = 0;

  void add(const float* row) { rows[count++] = row; }
  // Part `part` of `parts`. The hardware does not foresee so many short rows.
  void fetch(int64_t part, int64_t parts, int64_t channels) const {
    for (int64_t r = count * part / parts; r < count * (part + 1) / parts; ++r) {
      for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(rows[r] + c);
    }
  }
};

struct Experts {
  const ExpertSizes& sizes;
  const Layout& layout;
  const float* packed;
  float epsilon;

  // h [up_panels * kLanes], of which `hidden` count -> (h - mean) / sqrt(variance + epsilon)
  __attribute__((noinline)) void normalise(float* h) const {
    const int64_t last = (layout.up_panels - 1) * kLanes;
    VecInt lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const VecInt counts = lane < static_cast<int32_t>(sizes.hidden - last);
    Vec sum = counts ? load(h + last) : Vec{};
    for (int64_t i = 0; i < last; i += kLanes) sum += load(h + i);
    const float size = static_cast<float>(sizes.hidden);
    const Vec mean = broadcast(sum_of_lanes(sum) / size);
    const Vec from_mean = load(h + last) - mean;
    Vec squares = counts ? from_mean * from_mean : Vec{};
    for (int64_t i = 0; i < last; i += kLanes) {
      const Vec d = load(h + i) - mean;
      squares += d * d;
    }
    const float variance = sum_of_lanes(squares) / size;
    const Vec scale = broadcast(1.0f / __builtin_sqrtf(variance + epsilon));
    for (int64_t i = 0; i <= last; i += kLanes) store(h + i, (load(h + i) - mean) * scale);
  }

  // Expert `index` on M tokens; write(m, c, v, count) takes `count` channels of token m from c on.
  template <int M, class Write>
  void tile(int64_t index, const float* const* rows, const Ahead& ahead, float* hidden,
            const Write& write) const {
    const float* up = packed + layout.experts + index * layout.expert;
    const int64_t stride = layout.up_panels * kLanes;
    Vec sums[M][2], results[M][2];  // one in registers, one in memory: the epilogues are loops
    for (int64_t p = 0; p < layout.up_panels; ++p) {
      ahead.fetch(p, layout.up_panels, sizes.channels);
      multiply<M, 2>(rows, up + p * layout.up_panel, sizes.channels, sums);
      copy<M, 2>(sums, results);
#pragma GCC unroll 1
      for (int m = 0; m < M; ++m) {
        store(hidden + m * stride + p * kLanes, silu(results[m][0]) * results[m][1]);
      }
    }
    const float* normed[M];
    for (int m = 0; m < M; ++m) {
      normed[m] = hidden + m * stride;
      normalise(hidden + m * stride);
    }
    for (int64_t p = 0; p < layout.down_panels; ++p) {
      multiply<M, 2>(normed, up + layout.down + p * layout.down_panel, sizes.hidden, sums);
      copy<M, 2>(sums, results);
      const int64_t c = p * 2 * kLanes;
      for (int m = 0; m < M; ++m) write(m, c, results[m], sizes.channels - c);
    }
  }

  // The shared expert on tokens [begin, end).
  void shared(const float* x, int64_t begin, int64_t end, float* hidden, float* out) const {
    for_parts(begin, end, kRows, [&](int64_t first, int64_t last) {
      Ahead ahead;
      for (int64_t i = last; i < at_most(end, last + kRows); ++i) ahead.add(x + i * sizes.channels);
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float* rows[M];
        for (int m = 0; m < M; ++m) rows[m] = x + (first + m) * sizes.channels;
        tile<M>(0, rows, ahead, hidden, [&](int m, int64_t c, const Vec* v, int64_t count) {
          store_pair(out + (first + m) * sizes.channels + c, v, count);
        });
      });
    });
  }

  // Gates of edge tokens [begin, end): which expert, and by how much it is ahead of the shared one.
  void gate(const float* x, const int64_t* edge, int64_t begin, int64_t end, float* gates,
            const Choices& choices) const {
    const int64_t stride = layout.gate_panels * kLanes;
    for_parts(begin, end, kRows, [&](int64_t first, int64_t last) {
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float* rows[M];
        for (int m = 0; m < M; ++m) rows[m] = x + edge[first + m] * sizes.channels;
        for (int64_t p = 0; p < layout.gate_panels; ++p) {
          Vec sums[M][1];
          multiply<M, 1>(rows, packed + p * panel_floats<1>(sizes.channels), sizes.channels, sums);
          for (int m = 0; m < M; ++m) store(gates + m * stride + p * kLanes, sigmoid(sums[m][0]));
        }
      });
      for (int64_t i = first; i < last; ++i) choose(gates + (i - first) * stride, i, choices);
    });
  }

  void choose(const float* gates, int64_t i, const Choices& choices) const {
    const float* bias = packed + layout.bias;
    int64_t best = 0;
    float highest = -__builtin_inff();
    for (int64_t r = 0; r < sizes.routed; ++r) {
      const float score = gates[1 + r] + bias[r];
      best = score > highest ? r : best;  // a NaN is not
      highest = score > highest ? score : highest;
    }
    choices.expert[i] = static_cast<int32_t>(best);
    choices.gap[i] = gates[1 + best] - gates[0];
  }

  // Mixes a batch's expert into what the shared one wrote.
  void routed(const float* x, const Batch& batch, const Routed* sorted, float* hidden,
              float* out) const {
    for_parts(batch.begin, batch.end, kRows, [&](int64_t first, int64_t last) {
      Ahead ahead;
      for (int64_t i = last; i < at_most(batch.end, last + kRows); ++i) {
        ahead.add(x + sorted[i].token * sizes.channels);
      }
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        constexpr int kPadded = (M + kLanes - 1) / kLanes * kLanes;
        const float* rows[M];
        float* to[M];
        float gap[kPadded] = {}, odds[kPadded], scale[kPadded];
        for (int m = 0; m < M; ++m) {
          rows[m] = x + sorted[first + m].token * sizes.channels;
          to[m] = out + sorted[first + m].token * sizes.channels;
          gap[m] = sorted[first + m].gap;
        }
        // The softmax (a, b) of the two gates is (1, odds) / (1 + odds).
        for (int m = 0; m < M; m += kLanes) {
          store(odds + m, exp(load(gap + m)));
          store(scale + m, sigmoid(-load(gap + m)));
        }
        tile<M>(1 + batch.expert, rows, ahead, hidden,
                [&](int m, int64_t c, const Vec* v, int64_t count) {
                  mix_pair(to[m] + c, v, count, odds[m], scale[m]);
                });
      });
    });
  }
};

// First index of `edge` whose token is `token` or later.
int64_t first_from(const int64_t* edge, int64_t edges, int64_t token) {
  int64_t low = 0, high = edges;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    edge[middle] < token ? low = middle + 1 : high = middle;
  }
  return low;
}

// Counting sort of edge tokens by expert, stable; returns the number of batches. `next` has R + 1
// elements to work with.
int64_t sort_by_expert(const int64_t* edge, int64_t edges, int64_t routed, const Choices& choices,
                       int64_t* next, Routed* sorted, Batch* batches) {
  for (int64_t r = 0; r <= routed; ++r) next[r] = 0;
  for (int64_t i = 0; i < edges; ++i) ++next[choices.expert[i] + 1];
  int64_t count = 0;
  for (int64_t r = 0; r < routed; ++r) {
    for_parts(next[r], next[r] + next[r + 1], kBatchRows,
              [&](int64_t begin, int64_t end) { batches[count++] = {r, begin, end}; });
    next[r + 1] += next[r];
  }
  for (int64_t i = 0; i < edges; ++i) {
    sorted[next[choices.expert[i]]++] = {edge[i], choices.gap[i]};
  }
  return count;
}

}  // namespace

size_t packed_experts_size(const ExpertSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).total);
}

void pack_experts(const ExpertSizes& sizes, const ExpertWeights& weights, float* packed) {
  const Layout layout(sizes);
  const int64_t channels = sizes.channels, hidden = sizes.hidden;
  for (int64_t p = 0; p < layout.gate_panels; ++p) {
    pack_vector(weights.gate_weight, weights.gate_bias, 1 + sizes.routed, channels, p * kLanes, 0,
                1, packed + p * panel_floats<1>(channels));
  }
  for (int64_t r = 0; r < sizes.routed; ++r) packed[layout.bias + r] = weights.expert_bias[r];
  for (int64_t index = 0; index <= sizes.routed; ++index) {
    const int64_t norm = index == 0 ? 0 : hidden;
    float* up = packed + layout.experts + index * layout.expert;
    for (int64_t p = 0; p < layout.up_panels; ++p) {
      pack_vector(weights.w1 + index * hidden * channels, weights.b1 + index * hidden, hidden,
                  channels, p * kLanes, 0, 2, up + p * layout.up_panel);
      pack_vector(weights.w2 + index * hidden * channels, weights.b2 + index * hidden, hidden,
                  channels, p * kLanes, 1, 2, up + p * layout.up_panel);
    }
    for (int64_t i = 0; i < 2 * layout.down_panels; ++i) {
      pack_down(weights.w3 + index * channels * hidden, weights.b3 + index * channels,
                weights.norm_weight + norm, weights.norm_bias + norm, sizes, i * kLanes,
                static_cast<int>(i % 2), up + layout.down + i / 2 * layout.down_panel);
    }
  }
}

void hybrid_experts(const float* x, int64_t tokens, const int64_t* edge, int64_t edges,
                    const ExpertSizes& sizes, const float* packed, float epsilon, float* out,
                    const Memory& memory, const Parallel& parallel) {
  if (tokens == 0) return;
  const Layout layout(sizes);
  const Experts experts{sizes, layout, packed, epsilon};
  const int64_t wide =
      layout.up_panels > layout.gate_panels ? layout.up_panels : layout.gate_panels;
  const int64_t tile = kRows * wide * kLanes;  // a tile's hidden values or gates

  // Tokens are mixed while the last cache still holds them and their shared results.
  const int64_t block = at_most(tokens, at_least(kTaskRows, kBlock / sizes.channels));
  const int64_t most_tasks = at_most(kMostTasks, ceil_div(block, kTaskRows));
  const int64_t most_edges = at_most(block, edges);
  const int64_t most_batches = at_most(most_edges, sizes.routed) + most_edges / kBatchRows;
  float* tiles = take<float>(memory, at_least(most_tasks, most_batches) * tile);
  const Choices choices{take<int32_t>(memory, most_edges), take<float>(memory, most_edges)};
  Routed* sorted = take<Routed>(memory, most_edges);
  Batch* batches = take<Batch>(memory, most_batches);
  int64_t* next = take<int64_t>(memory, sizes.routed + 1);

  for_parts(0, tokens, block, [&](int64_t begin, int64_t end) {
    const int64_t first_edge = first_from(edge, edges, begin);
    const int64_t* own = edge + first_edge;
    const int64_t count = first_from(edge, edges, end) - first_edge;

    const int64_t tasks = at_most(kMostTasks, ceil_div(end - begin, kTaskRows));
    parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t first = begin + (end - begin) * i / tasks;
      const int64_t last = begin + (end - begin) * (i + 1) / tasks;
      experts.shared(x, first, last, tiles + i * tile, out);
      experts.gate(x, own, first_from(own, count, first), first_from(own, count, last),
                   tiles + i * tile, choices);
    });
    if (count == 0) return;

    const int64_t used = sort_by_expert(own, count, sizes.routed, choices, next, sorted, batches);
    parallel_for(parallel, static_cast<size_t>(used), [&](size_t task) {
      experts.routed(x, batches[task], sorted, tiles + static_cast<int64_t>(task) * tile, out);
    });
  });
}

}  // namespace i2f::I2F_TIER
