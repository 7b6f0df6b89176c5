// Each expert is two matrix products around a LayerNorm, fused a tile of tokens at a time: the tile
// normalises its tokens where they lie (no map of normalised tokens, no gathered copy), its values
// stay in the first cache, and only results are written, the tokens added to them. Edge tokens are
// sorted by expert, so that a tile has one expert.

#include "kernels/hybrid_experts.h"

#include "kernels/expert_routing.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;        // tokens of a tile
constexpr int64_t kTaskRows = 4 * kRows;   // tokens of a task of the shared expert, at least
constexpr int64_t kMaxTasks = 64;          // of the shared expert: bounds the scratch
constexpr int64_t kBatchRows = 8 * kRows;  // tokens of a task of a routed expert, at most
constexpr int64_t kBlock = 1 << 20;        // floats of the tokens that are done with before others

// Where the packed parameters lie, in floats.
//   gates    as Gates has them
//   experts  1+R times: `up`, panels of two vectors, the one of w1 and the one of w2 for the same
//            hidden units, then `down`, panels of two vectors of w3
// The norms' scales and shifts are folded in: of the tokens into gates and `up`, of the hidden
// values into `down`.
struct Layout {
  explicit Layout(const ExpertSizes& sizes)
      : gates(sizes),
        up_panels(ceil_div(sizes.hidden, kLanes)),
        down_panels(ceil_div(sizes.channels, 2 * kLanes)),
        row_floats(down_panels * 2 * kLanes),
        up_panel(panel_floats<2>(sizes.channels)),
        down_panel(panel_floats<2>(sizes.hidden)),
        down(up_panels * up_panel),
        expert(down + down_panels * down_panel),
        total(gates.total + (1 + sizes.routed) * expert) {}

  Gates gates;
  int64_t up_panels, down_panels;
  int64_t row_floats;            // of a token, in whole panels
  int64_t up_panel, down_panel;  // floats of one
  int64_t down, expert;          // offset of `down` in an expert, and an expert's size
  int64_t total;
};

// to = plus + (to + odds v) / (1 + odds), as store_pair(). One function for tiles of every height:
// the compiler may fuse a product and a sum here or not, but always alike.
__attribute__((noinline)) void mix_pair(float* to, const Vec* v, int64_t count, float odds,
                                        float scale, const float* plus) {
  Vec mixed[2];
  for (int n = 0; n < 2; ++n) {
    const int64_t left = count - n * kLanes;
    if (left <= 0) break;
    const auto from = [=](const float* p) {
      return left >= kLanes ? load(p) : load_partial(p, static_cast<int>(left));
    };
    mixed[n] = (from(to + n * kLanes) + odds * v[n]) * scale + from(plus + n * kLanes);
  }
  store_pair(to, mixed, count);
}

// Rows to be fetched: those of the next tile.
struct Ahead {
  const float* rows[2 * kRows];
  int64_t count = 0;

  void add(const float* row) { rows[count++] = row; }
  // Part `part` of `parts`. The hardware does not foresee so many short rows.
  void fetch(int64_t part, int64_t parts, int64_t channels) const {
    for (int64_t r = count * part / parts; r < count * (part + 1) / parts; ++r) {
      for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(rows[r] + c);
    }
  }
};

// Edge tokens [next, end) of a block.
struct Edges {
  const int64_t* tokens;
  int64_t next, end;
};

// What a task works in.
struct Scratch {
  float* normed;       // [kRows, row_floats], tokens of a tile
  float* hidden;       // hidden values or gates of a tile
  const float* zeros;  // [row_floats], of all tasks
};

struct Experts {
  const ExpertSizes& sizes;
  const Layout& layout;
  const float* packed;
  float epsilon;

  // Expert `index` on M tokens; write(m, c, v, count) takes `count` channels of token m from c on.
  template <int M, class Write>
  void tile(int64_t index, const float* const* rows, const Ahead& ahead, float* hidden,
            const Write& write) const {
    const float* up = packed + layout.gates.total + index * layout.expert;
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
      normalise(normed[m], sizes.hidden, epsilon, hidden + m * stride);
    }
    for (int64_t p = 0; p < layout.down_panels; ++p) {
      multiply<M, 2>(normed, up + layout.down + p * layout.down_panel, sizes.hidden, sums);
      copy<M, 2>(sums, results);
      const int64_t c = p * 2 * kLanes;
      for (int m = 0; m < M; ++m) write(m, c, results[m], sizes.channels - c);
    }
  }

  // The tokens whose rows these are, normalised, in `normed` [M, row_floats].
  template <int M>
  void normalise_rows(const float* const (&rows)[M], float* normed,
                      const float* (&result)[M]) const {
    for (int m = 0; m < M; ++m) {
      result[m] = normed + m * layout.row_floats;
      normalise(rows[m], sizes.channels, epsilon, normed + m * layout.row_floats);
    }
  }

  // The shared expert on tokens [begin, end), and the gates of the edge tokens among them, from
  // `edge` on. To tokens without a routed expert the tokens are added.
  void shared(const float* x, int64_t begin, int64_t end, Edges edge, const Scratch& scratch,
              const Choices& choices, float* out) const {
    for_parts(begin, end, kRows, [&](int64_t first, int64_t last) {
      Ahead ahead;
      for (int64_t i = last; i < min(end, last + kRows); ++i) ahead.add(x + i * sizes.channels);
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float *rows[M], *normed[M], *plus[M], *gated[kRows];
        for (int m = 0; m < M; ++m) rows[m] = x + (first + m) * sizes.channels;
        normalise_rows<M>(rows, scratch.normed, normed);
        int64_t edges = 0;
        for (int m = 0; m < M; ++m) {
          const bool is_edge =
              edge.next + edges < edge.end && edge.tokens[edge.next + edges] == first + m;
          plus[m] = is_edge ? scratch.zeros : rows[m];
          if (is_edge) gated[edges++] = normed[m];
        }
        if (edges > 0) {
          layout.gates.choose<kRows>(gated, edges, edge.next, packed, scratch.hidden, choices);
        }
        edge.next += edges;
        tile<M>(0, normed, ahead, scratch.hidden,
                [&](int m, int64_t c, const Vec* v, int64_t count) {
                  store_pair_plus(out + (first + m) * sizes.channels + c, v, count, plus[m] + c);
                });
      });
    });
  }

  // Mixes a batch's expert into what the shared one wrote, and adds the tokens.
  void routed(const float* x, const Batch& batch, const Routed* sorted, const Scratch& scratch,
              float* out) const {
    for_parts(batch.begin, batch.end, kRows, [&](int64_t first, int64_t last) {
      Ahead ahead;
      for (int64_t i = last; i < min(batch.end, last + kRows); ++i) {
        ahead.add(x + sorted[i].token * sizes.channels);
        ahead.add(out + sorted[i].token * sizes.channels);
      }
      with_rows<kRows>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        constexpr int kPadded = (M + kLanes - 1) / kLanes * kLanes;
        const float *rows[M], *normed[M];
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
        normalise_rows<M>(rows, scratch.normed, normed);
        tile<M>(1 + batch.expert, normed, ahead, scratch.hidden,
                [&](int m, int64_t c, const Vec* v, int64_t count) {
                  mix_pair(to[m] + c, v, count, odds[m], scale[m], rows[m] + c);
                });
      });
    });
  }
};

}  // namespace

size_t packed_experts_size(const ExpertSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).total);
}

void pack_experts(const ExpertSizes& sizes, const ExpertWeights& weights, float* packed) {
  const Layout layout(sizes);
  const int64_t channels = sizes.channels, hidden = sizes.hidden;
  const Fold input{weights.input_norm_weight, weights.input_norm_bias};
  layout.gates.pack(weights, packed);
  for (int64_t index = 0; index <= sizes.routed; ++index) {
    const int64_t norm = index == 0 ? 0 : hidden;
    const Fold normed{weights.norm_weight + norm, weights.norm_bias + norm};
    float* up = packed + layout.gates.total + index * layout.expert;
    for (int64_t p = 0; p < layout.up_panels; ++p) {
      pack_columns(weights.w1 + index * hidden * channels, weights.b1 + index * hidden, &input,
                   hidden, channels, p * kLanes, 0, 2, up + p * layout.up_panel);
      pack_columns(weights.w2 + index * hidden * channels, weights.b2 + index * hidden, &input,
                   hidden, channels, p * kLanes, 1, 2, up + p * layout.up_panel);
    }
    for (int64_t i = 0; i < 2 * layout.down_panels; ++i) {
      pack_columns(weights.w3 + index * channels * hidden, weights.b3 + index * channels, &normed,
                   channels, hidden, i * kLanes, static_cast<int>(i % 2), 2,
                   up + layout.down + i / 2 * layout.down_panel);
    }
  }
}

void hybrid_experts(const float* x, int64_t tokens, const int64_t* edge, int64_t edges,
                    const ExpertSizes& sizes, const float* packed, float epsilon, float* out,
                    const Memory& memory, const Parallel& parallel) {
  if (tokens == 0) return;
  const Layout layout(sizes);
  const Experts experts{sizes, layout, packed, epsilon};
  const int64_t wide = max(layout.up_panels, layout.gates.panels);
  const int64_t tile = kRows * (layout.row_floats + wide * kLanes);

  // Tokens are mixed while the last cache still holds them and their shared results.
  const int64_t block = min(tokens, max(kTaskRows, kBlock / sizes.channels));
  const int64_t max_tasks = min(kMaxTasks, ceil_div(block, kTaskRows));
  const int64_t max_edges = min(block, edges);
  const int64_t most_batches = max_batches(max_edges, sizes.routed, kBatchRows);
  float* tiles = take<float>(memory, max(max_tasks, most_batches) * tile);
  float* zeros = take<float>(memory, layout.row_floats);
  for (int64_t c = 0; c < layout.row_floats; ++c) zeros[c] = 0;
  const auto scratch = [=](int64_t task) {
    float* own = tiles + task * tile;
    return Scratch{own, own + tile - kRows * wide * kLanes, zeros};
  };
  const Choices choices{take<int32_t>(memory, max_edges), take<float>(memory, max_edges)};
  Routed* sorted = take<Routed>(memory, max_edges);
  Batch* batches = take<Batch>(memory, most_batches);
  int64_t* next = take<int64_t>(memory, sizes.routed + 1);

  for_parts(0, tokens, block, [&](int64_t begin, int64_t end) {
    const int64_t first_edge = first_from(edge, edges, begin);
    const int64_t* own = edge + first_edge;
    const int64_t count = first_from(edge, edges, end) - first_edge;

    const int64_t tasks = min(kMaxTasks, ceil_div(end - begin, kTaskRows));
    parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t first = begin + (end - begin) * i / tasks;
      const int64_t last = begin + (end - begin) * (i + 1) / tasks;
      const int64_t from = first_from(own, count, first), to = first_from(own, count, last);
      experts.shared(x, first, last, {own, from, to}, scratch(i), choices, out);
    });
    if (count == 0) return;

    const int64_t used =
        sort_by_expert(own, count, sizes.routed, kBatchRows, choices, next, sorted, batches);
    parallel_for(parallel, static_cast<size_t>(used), [&](size_t task) {
      experts.routed(x, batches[task], sorted, scratch(static_cast<int64_t>(task)), out);
    });
  });
}

}  // namespace i2f::I2F_TIER
