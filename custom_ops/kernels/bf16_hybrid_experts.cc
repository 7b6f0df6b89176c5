// Experts on a matrix unit, by bfloat16 numbers: 32 tokens at a time are normalised into tiles, go
// through both experts, and leave with the token added to them.
//
// The unit is so fast that memory decides: a token is read once for the gates, where it has any,
// and once for its experts, and its result is written once. So an edge token meets the shared
// expert in one go with its own, among the tokens of that one. Its norm is the gates', by which
// the float32 kernel chooses as well.

#include "kernels/bf16_hybrid_experts.h"

#include "kernels/bfloat16.h"
#include "kernels/blocks.h"
#include "kernels/expert_routing.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"
#include "kernels/tiles.h"

namespace i2f::I2F_TIER {
#ifdef I2F_TILES
namespace {

constexpr int kSquare = 2 * kTile;                // tokens that are multiplied together
constexpr int64_t kGateRows = kTileRows<2>;       // tokens whose gates are computed together
constexpr int64_t kGateTaskRows = 8 * kGateRows;  // of a task
constexpr int64_t kBatchRows = 4 * kSquare;       // tokens of a task, at most
constexpr int64_t kBlock = 1 << 20;        // floats of the tokens that are done with before others
constexpr int64_t kLargeResult = 1 << 20;  // numbers of a result that leaves the caches

// Where the packed parameters lie, in words.
//   gates    as Gates has them
//   experts  1+R times: b1, b2, b3; then `up`, panels of a tile of w1 and the one of w2 for the
//            same hidden units, for one step of 32 channels after the other; then `down`, panels
//            of two tiles of w3, for one step of 32 hidden units after the other
// The norms' scales and shifts are folded in: of the tokens into gates and `up`, of the hidden
// values into `down`.
struct Layout {
  explicit Layout(const ExpertSizes& sizes)
      : gates(sizes),
        up_panels(sizes.hidden / kTile),
        up_steps(sizes.channels / kDepth),
        down_panels(sizes.channels / kDepth),
        down_steps(sizes.hidden / kDepth),
        up(2 * sizes.hidden + sizes.channels),
        down(up + up_panels * up_steps * 2 * kWords),
        expert(down + down_panels * down_steps * 2 * kWords),
        total(gates.total + (1 + sizes.routed) * expert) {}

  static bool serves(const ExpertSizes& sizes) {
    return sizes.channels % kDepth == 0 && sizes.hidden % kDepth == 0;
  }

  Gates gates;
  int64_t up_panels, up_steps;  // panels of two tiles beside each other, and tiles below each other
  int64_t down_panels, down_steps;
  int64_t up, down, expert;  // offsets in an expert, and an expert's size
  int64_t total;
};

using Sums = uint32_t[kSquare][2 * kTile];

// sums = x w for 16 rows of x or, if kTwo, 32: tiles of x lie behind each other, those of the lower
// rows `lower` words behind; w is a panel of two tiles beside each other. Calls between(k) behind
// step k.
template <bool kTwo, class Between>
inline __attribute__((always_inline)) void multiply_tiles(Tiles& tiles, const uint32_t* x,
                                                          int64_t lower, const uint32_t* w,
                                                          int64_t steps, Sums& sums,
                                                          const Between& between) {
  tiles.zero<0>();
  tiles.zero<1>();
  if (kTwo) tiles.zero<2>(), tiles.zero<3>();
  for (int64_t k = 0; k < steps; ++k, x += kWords, w += 2 * kWords) {
    tiles.load<6>(w, kTile);
    tiles.load<4>(x, kTile);
    tiles.add_bfloat16<0, 4, 6>();
    tiles.load<7>(w + kWords, kTile);
    tiles.add_bfloat16<1, 4, 7>();
    if (kTwo) {
      tiles.load<5>(x + lower, kTile);
      tiles.add_bfloat16<2, 5, 6>();
      tiles.add_bfloat16<3, 5, 7>();
    }
    between(k);
  }
  tiles.store<0>(sums[0], 2 * kTile);
  tiles.store<1>(sums[0] + kTile, 2 * kTile);
  if (kTwo) {
    tiles.store<2>(sums[kTile], 2 * kTile);
    tiles.store<3>(sums[kTile] + kTile, 2 * kTile);
  }
}

// Lane m is the sum of the lanes of rows[m].
inline __attribute__((always_inline)) Vec sums_of_rows(Vec (&rows)[kLanes]) {
  const auto halve = [&](auto side) {
    constexpr int kSide = decltype(side)::kCount;
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      const Vec a = rows[i], b = rows[i + kSide];
      rows[i] = shuffle<UpperBlocks<kSide>>(a, b) + shuffle<LowerBlocks<kSide>>(a, b);
    }
  };
  halve(Rows<8>());
  halve(Rows<4>());
  halve(Rows<2>());
  halve(Rows<1>());
  return rows[0];
}

// How the first `height` of 16 rows of `count` floats, a multiple of 32, are normalised.
inline __attribute__((noinline)) void norms_of(const float* const* rows, int64_t height,
                                               int64_t count, float epsilon, RowNorm* to) {
  const auto size = static_cast<float>(count);
  Vec sums[kTile] = {};
  for (int64_t m = 0; m < height; ++m) {
    Vec a = load(rows[m]), b = load(rows[m] + kLanes);
    for (int64_t i = kDepth; i < count; i += kDepth) {
      a += load(rows[m] + i);
      b += load(rows[m] + i + kLanes);
    }
    sums[m] = a + b;
  }
  const Vec means = sums_of_rows(sums) / size;
  for (Vec& sum : sums) sum = Vec{};
  for (int64_t m = 0; m < height; ++m) {
    to[m].mean = means[m];
    const Vec mean = broadcast(to[m].mean);
    Vec a{}, b{};
    for (int64_t i = 0; i < count; i += kDepth) {
      const Vec d = load(rows[m] + i) - mean, e = load(rows[m] + i + kLanes) - mean;
      a += d * d;
      b += e * e;
    }
    sums[m] = a + b;
  }
  const Vec variances = sums_of_rows(sums) / size + epsilon;
  for (int64_t m = 0; m < height; ++m) to[m].scale = 1.0f / __builtin_sqrtf(variances[m]);
}

// The first `height` of 16 rows of `count` floats, normalised, in tiles of bfloat16 numbers behind
// each other, where the other rows are 0.
inline __attribute__((noinline)) void normalise_to_tiles(const float* const* rows, int64_t height,
                                                         int64_t count, const RowNorm* norms,
                                                         uint32_t* to) {
  for (int64_t m = 0; m < kTile; ++m) {
    uint32_t* tile = to + m * kTile;
    if (m >= height) {
      for (int64_t i = 0; i < count; i += kDepth, tile += kWords) store(tile, VecWord{});
      continue;
    }
    const Vec mean = broadcast(norms[m].mean), scale = broadcast(norms[m].scale);
    for (int64_t i = 0; i < count; i += kDepth, tile += kWords) {
      store(tile, bfloat16_pairs((load(rows[m] + i) - mean) * scale,
                                 (load(rows[m] + i + kLanes) - mean) * scale));
    }
  }
}

struct Experts {
  const ExpertSizes& sizes;
  const Layout& layout;
  const uint32_t* packed;
  float epsilon;
  bool past_caches;

  // Of a task: tiles of normalised tokens, of both experts' normalised hidden values, and those
  // before they are normalised.
  int64_t scratch_words() const {
    return kSquare / 2 * sizes.channels + 3 * kSquare * sizes.hidden;
  }

  const uint32_t* expert(int64_t index) const {
    return packed + layout.gates.total + index * layout.expert;
  }

  // The gates of edge tokens [begin, end) of `edge`, and their norms.
  void gate(const float* x, const int64_t* edge, int64_t begin, int64_t end, float* scratch,
            const Choices& choices, RowNorm* norms) const {
    float* gates = scratch + kGateRows * sizes.channels;
    for_parts(begin, end, kGateRows, [&](int64_t first, int64_t last) {
      const float* normed[kGateRows];
      for (int64_t i = first; i < last; ++i) {
        float* to = scratch + (i - first) * sizes.channels;
        norms[edge[i]] = normalise(x + edge[i] * sizes.channels, sizes.channels, epsilon, to);
        normed[i - first] = to;
      }
      layout.gates.choose<kGateRows>(normed, last - first, first,
                                     reinterpret_cast<const float*>(packed), gates, choices);
    });
  }

  // The tokens of `sorted`, at most 32: the shared expert and, if there is one, expert `index`.
  // While the unit multiplies, the sums before are finished; `ahead` tokens behind these are
  // fetched. `norms` has those of edge tokens.
  template <bool kTwo, bool kRouted>
  void square(Tiles& tiles, const float* x, int64_t index, const Routed* sorted, int64_t count,
              int64_t ahead, const RowNorm* norms, uint32_t* scratch, float* out) const {
    constexpr int kHeight = kTwo ? kSquare : kTile, kExperts = kRouted ? 2 : 1;
    const float* rows[kSquare];
    float* to[kSquare];
    alignas(64) float gap[kSquare] = {}, odds[kSquare], scale[kSquare];
    for (int64_t m = 0; m < count; ++m) {
      rows[m] = x + sorted[m].token * sizes.channels;
      to[m] = out + sorted[m].token * sizes.channels;
      gap[m] = sorted[m].gap;
    }
    if (kRouted) {
      // The softmax (a, b) of the two gates is (1, odds) / (1 + odds).
      for (int m = 0; m < kSquare; m += kLanes) {
        store(odds + m, exp(load(gap + m)));
        store(scale + m, sigmoid(-load(gap + m)));
      }
    }
    RowNorm of_rows[kTile];
    for (int64_t m = 0; m < count; m += kTile) {
      const int64_t height = min(kTile, count - m);
      if (kRouted) {
        for (int64_t i = 0; i < height; ++i) of_rows[i] = norms[sorted[m + i].token];
      } else {
        norms_of(rows + m, height, sizes.channels, epsilon, of_rows);
      }
      normalise_to_tiles(rows + m, height, sizes.channels, of_rows,
                         scratch + m / kTile * layout.up_steps * kWords);
    }

    const uint32_t* of[] = {expert(0), expert(1 + index)};
    uint32_t* tiles_of[2];  // normalised hidden values
    float* hidden_of[2];
    for (int e = 0; e < 2; ++e) {
      tiles_of[e] = scratch + kSquare / 2 * (sizes.channels + e * sizes.hidden);
      hidden_of[e] = reinterpret_cast<float*>(scratch + kSquare / 2 * sizes.channels +
                                              kSquare * (1 + e) * sizes.hidden);
    }
    alignas(64) Sums sums[2], more[2];
    const auto finish_up = [&](int64_t q, int64_t first, int64_t last) {
      const int64_t e = q / layout.up_panels, n = q % layout.up_panels * kTile;
      const Vec b1 = (Vec)load(of[e] + n), b2 = (Vec)load(of[e] + sizes.hidden + n);
      float* hidden = hidden_of[e] + n;
      for (int64_t m = first; m < last; ++m) {
        const Vec gate = (Vec)load(sums[q % 2][m]) + b1;
        const Vec value = (Vec)load(sums[q % 2][m] + kTile) + b2;
        store(hidden + m * sizes.hidden, silu(gate) * value);
      }
    };
    const int64_t panels = kExperts * layout.up_panels, parts = panels * layout.up_steps;
    for (int64_t q = 0; q < panels; ++q) {
      const int64_t panel = layout.up_steps * 2 * kWords;
      const uint32_t* w = of[q / layout.up_panels] + layout.up + q % layout.up_panels * panel;
      multiply_tiles<kTwo>(
          tiles, scratch, layout.up_steps * kWords, w, layout.up_steps, sums[q % 2],
          [&](int64_t k) {
            const int64_t part = q * layout.up_steps + k;
            for (int64_t i = ahead * part / parts; i < ahead * (part + 1) / parts; ++i) {
              const float* row = x + sorted[count + i].token * sizes.channels;
              for (int64_t c = 0; c < sizes.channels; c += 16) {
                __builtin_prefetch(row + c, 0, 2);
              }
            }
            if (q > 0) {
              finish_up(q - 1, kHeight * k / layout.up_steps, kHeight * (k + 1) / layout.up_steps);
            }
          });
    }
    finish_up(panels - 1, 0, kHeight);
    for (int e = 0; e < kExperts; ++e) {
      for (int m = 0; m < kHeight; m += kTile) {
        const float* hidden[kTile];
        for (int i = 0; i < kTile; ++i) hidden[i] = hidden_of[e] + (m + i) * sizes.hidden;
        norms_of(hidden, kTile, sizes.hidden, epsilon, of_rows);
        normalise_to_tiles(hidden, kTile, sizes.hidden, of_rows,
                           tiles_of[e] + m / kTile * layout.down_steps * kWords);
      }
    }

    const auto finish_down = [&](int64_t p, int64_t first, int64_t last) {
      const int64_t c = p * kDepth;
      const uint32_t* biases = of[0] + 2 * sizes.hidden + c;
      const uint32_t* others = of[1] + 2 * sizes.hidden + c;
      const Vec b[2] = {(Vec)load(biases), (Vec)load(biases + kLanes)};
      const Vec r[2] = {(Vec)load(others), (Vec)load(others + kLanes)};
      for (int64_t m = first; m < min(count, last); ++m) {
        for (int n = 0; n < 2; ++n) {
          Vec v = (Vec)load(sums[p % 2][m] + n * kLanes) + b[n];
          if (kRouted) {
            v = (v + odds[m] * ((Vec)load(more[p % 2][m] + n * kLanes) + r[n])) * scale[m];
          }
          v += load(rows[m] + c + n * kLanes);
          float* at = to[m] + c + n * kLanes;
          past_caches ? stream(at, v) : store(at, v);
        }
      }
    };
    const int64_t lower = layout.down_steps * kWords;
    for (int64_t p = 0; p < layout.down_panels; ++p) {
      const int64_t steps = kExperts * layout.down_steps;
      const auto finish_part = [&](int64_t part) {
        if (p > 0) finish_down(p - 1, kHeight * part / steps, kHeight * (part + 1) / steps);
      };
      const int64_t at = layout.down + 2 * p * lower;
      multiply_tiles<kTwo>(tiles, tiles_of[0], lower, of[0] + at, layout.down_steps, sums[p % 2],
                           finish_part);
      if (kRouted) {
        multiply_tiles<kTwo>(tiles, tiles_of[1], lower, of[1] + at, layout.down_steps, more[p % 2],
                             [&](int64_t k) { finish_part(layout.down_steps + k); });
      }
    }
    finish_down(layout.down_panels - 1, 0, kHeight);
  }

  template <bool kRouted>
  void run(Tiles& tiles, const float* x, const Batch& batch, const Routed* sorted,
           const RowNorm* norms, uint32_t* scratch, float* out) const {
    for (int64_t i = batch.begin; i < batch.end; i += kSquare) {
      const int64_t count = min(kSquare, batch.end - i);
      const int64_t ahead = min(kSquare, batch.end - i - count);
      if (count > kTile) {
        square<true, kRouted>(tiles, x, batch.expert, sorted + i, count, ahead, norms, scratch,
                              out);
      } else {
        square<false, kRouted>(tiles, x, batch.expert, sorted + i, count, ahead, norms, scratch,
                               out);
      }
    }
    if (past_caches) end_of_stream();
  }
};

uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
uint32_t bfloat16_of(float x) { return to_bfloat16(broadcast(x))[0] >> 16; }

// A tile of columns [first, first + 16) of w [., depth] and inputs [k, k + 32), times their scales.
void pack_tile(const float* w, int64_t depth, const float* scale, int64_t first, int64_t k,
               uint32_t* to) {
  for (int64_t i = 0; i < kWords; ++i) {
    const int64_t input = k + i / kTile * 2;
    const float* at = w + (first + i % kTile) * depth + input;
    to[i] = bfloat16_of(at[0] * scale[input]) | bfloat16_of(at[1] * scale[input + 1]) << 16;
  }
}

// What sums of w [columns, depth] start from: biases, and w times the inputs' shifts.
void pack_biases(const float* w, const float* bias, const float* shift, int64_t columns,
                 int64_t depth, uint32_t* to) {
  for (int64_t n = 0; n < columns; ++n) {
    double sum = bias[n];
    for (int64_t k = 0; k < depth; ++k) sum += static_cast<double>(w[n * depth + k]) * shift[k];
    to[n] = bits_of(static_cast<float>(sum));
  }
}

}  // namespace
#endif

size_t packed_bf16_experts_size([[maybe_unused]] const ExpertSizes& sizes) {
#ifdef I2F_TILES
  if (Layout::serves(sizes)) return static_cast<size_t>(Layout(sizes).total) * sizeof(uint32_t);
#endif
  return 0;
}

void pack_bf16_experts([[maybe_unused]] const ExpertSizes& sizes,
                       [[maybe_unused]] const ExpertWeights& weights,
                       [[maybe_unused]] void* packed) {
#ifdef I2F_TILES
  const Layout layout(sizes);
  const int64_t channels = sizes.channels, hidden = sizes.hidden;
  layout.gates.pack(weights, static_cast<float*>(packed));
  uint32_t* to = static_cast<uint32_t*>(packed) + layout.gates.total;
  for (int64_t index = 0; index <= sizes.routed; ++index, to += layout.expert) {
    const float* w1 = weights.w1 + index * hidden * channels;
    const float* w2 = weights.w2 + index * hidden * channels;
    const float* w3 = weights.w3 + index * channels * hidden;
    const int64_t norm = index == 0 ? 0 : hidden;
    const float *scale = weights.input_norm_weight, *shift = weights.input_norm_bias;
    pack_biases(w1, weights.b1 + index * hidden, shift, hidden, channels, to);
    pack_biases(w2, weights.b2 + index * hidden, shift, hidden, channels, to + hidden);
    uint32_t* tile = to + layout.up;
    for (int64_t n = 0; n < hidden; n += kTile) {
      for (int64_t k = 0; k < channels; k += kDepth, tile += 2 * kWords) {
        pack_tile(w1, channels, scale, n, k, tile);
        pack_tile(w2, channels, scale, n, k, tile + kWords);
      }
    }
    scale = weights.norm_weight + norm, shift = weights.norm_bias + norm;
    pack_biases(w3, weights.b3 + index * channels, shift, channels, hidden, to + 2 * hidden);
    for (int64_t n = 0; n < channels; n += 2 * kTile) {
      for (int64_t k = 0; k < hidden; k += kDepth, tile += 2 * kWords) {
        pack_tile(w3, hidden, scale, n, k, tile);
        pack_tile(w3, hidden, scale, n + kTile, k, tile + kWords);
      }
    }
  }
#endif
}

void bf16_hybrid_experts([[maybe_unused]] const float* x, [[maybe_unused]] int64_t tokens,
                         [[maybe_unused]] const int64_t* edge, [[maybe_unused]] int64_t edges,
                         [[maybe_unused]] const ExpertSizes& sizes,
                         [[maybe_unused]] const void* packed, [[maybe_unused]] float epsilon,
                         [[maybe_unused]] float* out, [[maybe_unused]] const Memory& memory,
                         [[maybe_unused]] const Parallel& parallel) {
#ifdef I2F_TILES
  if (tokens == 0) return;
  const Layout layout(sizes);
  const bool past_caches = tokens * sizes.channels >= kLargeResult &&
                           reinterpret_cast<uintptr_t>(out) % sizeof(Vec) == 0;
  const Experts experts{sizes, layout, static_cast<const uint32_t*>(packed), epsilon, past_caches};

  const int64_t block = min(tokens, max(kBatchRows, kBlock / sizes.channels));
  const int64_t max_edges = min(block, edges);
  const Choices choices{take<int32_t>(memory, max_edges), take<float>(memory, max_edges)};
  RowNorm* norms = take<RowNorm>(memory, block);
  Routed* sorted = take<Routed>(memory, block);
  Batch* batches = take<Batch>(
      memory, max_batches(max_edges, sizes.routed, kBatchRows) + ceil_div(block, kBatchRows));
  int64_t* next = take<int64_t>(memory, sizes.routed + 1);

  for_parts(0, tokens, block, [&](int64_t begin, int64_t end) {
    const int64_t first_edge = first_from(edge, edges, begin);
    const int64_t* own = edge + first_edge;
    const int64_t count = first_from(edge, edges, end) - first_edge;
    const int64_t gate_floats = kGateRows * (sizes.channels + layout.gates.panels * kLanes);
    for_blocks(ceil_div(count, kGateTaskRows), gate_floats, memory, parallel,
               [&](int64_t i, float* scratch) {
                 experts.gate(x, own, i * kGateTaskRows, min(count, (i + 1) * kGateTaskRows),
                              scratch, choices, norms - begin);
               });

    // Edge tokens by expert, and then the others.
    const int64_t routed =
        sort_by_expert(own, count, sizes.routed, kBatchRows, choices, next, sorted, batches);
    int64_t used = routed, filled = count;
    for (int64_t token = begin, e = 0; token < end; ++token) {
      if (e < count && own[e] == token) {
        ++e;
      } else {
        sorted[filled++] = {token, 0};
      }
    }
    for_parts(count, filled, kBatchRows,
              [&](int64_t first, int64_t last) { batches[used++] = {-1, first, last}; });
    for_blocks(used, experts.scratch_words(), memory, parallel, [&](int64_t i, float* scratch) {
      Tiles tiles;
      auto* words = reinterpret_cast<uint32_t*>(scratch);
      if (i < routed) {
        experts.run<true>(tiles, x, batches[i], sorted, norms - begin, words, out);
      } else {
        experts.run<false>(tiles, x, batches[i], sorted, norms - begin, words, out);
      }
    });
  });
#endif
}

}  // namespace i2f::I2F_TIER
