// Experts on a matrix unit, by bfloat16 numbers: 32 tokens at a time are normalised into tiles, go
// through both experts, and leave with the token added to them.
//
// The unit is so fast that memory decides: a token is read once for the gates, where it has any,
// and once for its experts, and its result is written once. So an edge token meets the shared
// expert in one go with its own, among the tokens of that one.

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

constexpr int kTile = 16;                         // rows, columns and words of a tile
constexpr int kWords = kTile * kTile;             // of a tile
constexpr int kDepth = 2 * kTile;                 // inputs of a tile
constexpr int kSquare = 2 * kTile;                // tokens that are multiplied together
constexpr int64_t kGateRows = kTileRows<2>;       // tokens whose gates are computed together
constexpr int64_t kGateTaskRows = 8 * kGateRows;  // of a task
constexpr int64_t kBatchRows = 4 * kSquare;       // tokens of a task, at most
constexpr int64_t kBlock = 1 << 20;        // floats of the tokens that are done with before others
constexpr int64_t kLargeResult = 1 << 20;  // numbers of a result that leaves the caches
static_assert(kLanes == kTile, "a vector is a row of a tile");

// Where the packed parameters lie, in words.
//   gates    as Gates has them
//   experts  1+R times: b1, b2, b3; `up`, for 16 hidden units after the other, and of those for
//   each
//            32 channels, a tile of w1 and one of w2; `down`, for 32 channels after the other, and
//            of those for each 32 hidden units, two tiles of w3
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

// Normalises 16 rows of `count` floats, of which `rows` says where they are, into tiles of bfloat16
// numbers behind each other; those from `height` on become 0.
inline __attribute__((noinline)) void normalise_to_tiles(const float* const* rows, int64_t height,
                                                         int64_t count, float epsilon,
                                                         uint32_t* to) {
  const float size = static_cast<float>(count);
  Vec sums[kTile];
  for (int m = 0; m < kTile; ++m) {
    sums[m] = Vec{};
    if (m >= height) continue;
    Vec a = load(rows[m]), b = load(rows[m] + kLanes);
    for (int64_t i = kDepth; i < count; i += kDepth) {
      a += load(rows[m] + i);
      b += load(rows[m] + i + kLanes);
    }
    sums[m] = a + b;
  }
  const Vec means = sums_of_rows(sums) / size;
  alignas(64) float mean[kTile], scale[kTile];
  store(mean, means);
  for (int m = 0; m < kTile; ++m) {
    sums[m] = Vec{};
    if (m >= height) continue;
    const Vec from = broadcast(mean[m]);
    Vec a{}, b{};
    for (int64_t i = 0; i < count; i += kDepth) {
      const Vec d = load(rows[m] + i) - from, e = load(rows[m] + i + kLanes) - from;
      a += d * d;
      b += e * e;
    }
    sums[m] = a + b;
  }
  Vec variances = sums_of_rows(sums) / size + epsilon;
  for (int m = 0; m < kTile; ++m) variances[m] = __builtin_sqrtf(variances[m]);
  store(scale, 1.0f / variances);
  for (int m = 0; m < kTile; ++m) {
    uint32_t* tile = to + m * kTile;
    if (m >= height) {
      for (int64_t i = 0; i < count; i += kDepth, tile += kWords) store(tile, VecWord{});
      continue;
    }
    const Vec from = broadcast(mean[m]), by = broadcast(scale[m]);
    for (int64_t i = 0; i < count; i += kDepth, tile += kWords) {
      store(tile, bfloat16_pairs((load(rows[m] + i) - from) * by,
                                 (load(rows[m] + i + kLanes) - from) * by));
    }
  }
}

struct Experts {
  const ExpertSizes& sizes;
  const Layout& layout;
  const uint32_t* packed;
  float epsilon;
  bool past_caches;

  int64_t scratch_words() const {
    return kSquare / 2 * sizes.channels + 2 * kSquare * sizes.hidden;
  }

  const uint32_t* expert(int64_t index) const {
    return packed + layout.gates.total + index * layout.expert;
  }

  // The gates of edge tokens [begin, end) of `edge`.
  void gate(const float* x, const int64_t* edge, int64_t begin, int64_t end, float* scratch,
            const Choices& choices) const {
    float* gates = scratch + kGateRows * sizes.channels;
    for_parts(begin, end, kGateRows, [&](int64_t first, int64_t last) {
      const float* normed[kGateRows];
      for (int64_t i = first; i < last; ++i) {
        float* to = scratch + (i - first) * sizes.channels;
        normalise(x + edge[i] * sizes.channels, sizes.channels, epsilon, to);
        normed[i - first] = to;
      }
      layout.gates.choose<kGateRows>(normed, last - first, first,
                                     reinterpret_cast<const float*>(packed), gates, choices);
    });
  }

  // Hidden values, normalised, in tiles: of x, tiles of normalised tokens.
  template <bool kTwo>
  void up(Tiles& tiles, const uint32_t* weights, const uint32_t* x, float* hidden,
          uint32_t* to) const {
    const uint32_t* w = weights + layout.up;
    const int64_t lower = layout.up_steps * kWords;
    constexpr int kHeight = kTwo ? kSquare : kTile;
    for (int64_t p = 0; p < layout.up_panels; ++p, w += layout.up_steps * 2 * kWords) {
      alignas(64) Sums sums;
      multiply_tiles<kTwo>(tiles, x, lower, w, layout.up_steps, sums, [](int64_t) {});
      const Vec b1 = (Vec)load(weights + p * kTile);
      const Vec b2 = (Vec)load(weights + sizes.hidden + p * kTile);
#pragma GCC unroll 4
      for (int m = 0; m < kHeight; ++m) {
        const Vec gate = (Vec)load(sums[m]) + b1, value = (Vec)load(sums[m] + kTile) + b2;
        store(hidden + m * sizes.hidden + p * kTile, silu(gate) * value);
      }
    }
    const float* rows[kHeight];
    for (int m = 0; m < kHeight; ++m) rows[m] = hidden + m * sizes.hidden;
    normalise_to_tiles(rows, kTile, sizes.hidden, epsilon, to);
    if (kTwo) {
      normalise_to_tiles(rows + kTile, kTile, sizes.hidden, epsilon,
                         to + layout.down_steps * kWords);
    }
  }

  // The tokens of `sorted`, at most 32: the shared expert and, if there is one, expert `index`.
  template <bool kTwo, bool kRouted>
  void square(Tiles& tiles, const float* x, int64_t index, const Routed* sorted, int64_t count,
              uint32_t* scratch, float* out) const {
    uint32_t* normed = scratch;
    auto* hidden = reinterpret_cast<float*>(scratch + kSquare / 2 * sizes.channels);
    uint32_t* of_shared = scratch + kSquare / 2 * sizes.channels + kSquare * sizes.hidden;
    uint32_t* of_routed = of_shared + kSquare / 2 * sizes.hidden;
    const uint32_t* shared = expert(0);
    const uint32_t* routed = expert(1 + index);
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
    normalise_to_tiles(rows, min(count, kTile), sizes.channels, epsilon, normed);
    if (kTwo) {
      normalise_to_tiles(rows + kTile, count - kTile, sizes.channels, epsilon,
                         normed + layout.up_steps * kWords);
    }
    up<kTwo>(tiles, shared, normed, hidden, of_shared);
    if (kRouted) up<kTwo>(tiles, routed, normed, hidden, of_routed);
    const int64_t lower = layout.down_steps * kWords, panel = layout.down_steps * 2 * kWords;
    for (int64_t p = 0; p < layout.down_panels; ++p) {
      alignas(64) Sums sums, more;
      multiply_tiles<kTwo>(tiles, of_shared, lower, shared + layout.down + p * panel,
                           layout.down_steps, sums, [](int64_t) {});
      if (kRouted) {
        multiply_tiles<kTwo>(tiles, of_routed, lower, routed + layout.down + p * panel,
                             layout.down_steps, more, [](int64_t) {});
      }
      const int64_t c = p * kDepth;
      const auto biases = [=](const uint32_t* of, int n) {
        return (Vec)load(of + 2 * sizes.hidden + c + n * kLanes);
      };
      const Vec b[2] = {biases(shared, 0), biases(shared, 1)};
      const Vec r[2] = {biases(routed, 0), biases(routed, 1)};
      for (int64_t m = 0; m < count; ++m) {
        for (int n = 0; n < 2; ++n) {
          Vec v = (Vec)load(sums[m] + n * kLanes) + b[n];
          if (kRouted) {
            v = (v + odds[m] * ((Vec)load(more[m] + n * kLanes) + r[n])) * scale[m];
          }
          v += load(rows[m] + c + n * kLanes);
          float* at = to[m] + c + n * kLanes;
          past_caches ? stream(at, v) : store(at, v);
        }
      }
    }
  }

  template <bool kRouted>
  void run(Tiles& tiles, const float* x, const Batch& batch, const Routed* sorted,
           uint32_t* scratch, float* out) const {
    for (int64_t i = batch.begin; i < batch.end; i += kSquare) {
      const int64_t count = min(kSquare, batch.end - i);
      if (count > kTile) {
        square<true, kRouted>(tiles, x, batch.expert, sorted + i, count, scratch, out);
      } else {
        square<false, kRouted>(tiles, x, batch.expert, sorted + i, count, scratch, out);
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
                              scratch, choices);
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
        experts.run<true>(tiles, x, batches[i], sorted, words, out);
      } else {
        experts.run<false>(tiles, x, batches[i], sorted, words, out);
      }
    });
  });
#endif
}

}  // namespace i2f::I2F_TIER
