// Rows of full attention that are known for another qkv, which differs in few tokens.
//
// The softmax of a row whose own query is unchanged loses the weights of the changed tokens' old
// keys and gains those of their new ones. Relative to the known sum of all weights, w_j =
// exp(logit_j - logsum), and with old keys counted negatively:
//
//   out = (known_out + sum of +-w_j v_j) / (1 + sum of +-w_j)
//
// The old weights are subtracted with the rounding errors that known_out has of them, which tell
// where they are much of the divisor; and exponents far above 0 cost digits. Such rows, and what is
// not finite, are left to be computed anew.
#pragma once

#include "kernels/attention_tile.h"
#include "kernels/hybrid_attention.h"
#include "kernels/parallel.h"
#include "kernels/rotary.h"

namespace i2f::I2F_TIER {

constexpr int64_t kManyQueries = 256;    // from so many on, a search for changed tokens is worth it
constexpr int64_t kMaxChanged = 256;     // tokens; sums of more would have to be of blocks
constexpr int64_t kKeysPerChanged = 16;  // at least: beyond, there is little to gain
constexpr int64_t kCompareTokens = 256;  // tokens of a task that looks for changes
constexpr float kMaxLost = 0.125f;       // old weights over the divisor
constexpr float kMaxDivisor = 1024.0f;

// Some of the tokens.
struct TokenList {
  const int64_t* tokens;  // [count], ascending; nullptr: all tokens
  int64_t count;
  int64_t operator[](int64_t i) const { return tokens == nullptr ? i : tokens[i]; }
};

// One update: its arguments, and the steps that its tasks run.
struct AttentionUpdate {
  using Shape = HybridAttentionShape;

  const Shape& shape;
  const KnownAttention& known;
  RotaryTable rotary;
  const float* qkv;
  TokenList queries;
  float* out;
  uint8_t* differs = nullptr;  // [L], 1 where a token's row of qkv is not the known one
  uint8_t* again = nullptr;    // [queries], 1 where a row is left to be computed anew
  int64_t changed = 0;         // tokens whose rows differ
  // Of the changed tokens, first all old ones, then all new ones.
  float* keys = nullptr;    // [heads, 2 * changed, head_width], rotated
  float* values = nullptr;  // [heads, 2 * changed, head_width + 1], 1 behind them; old ones negated
  int64_t width = shape.width(), value_width = shape.head_width + 1;

  // Compares the rows of a task; adds to `total` what it finds, and stops when that is too much.
  void compare(int64_t task, int64_t most, int64_t* total) const {
    const size_t bytes = static_cast<size_t>(3 * width) * sizeof(float);
    const int64_t end = min(shape.tokens, (task + 1) * kCompareTokens);
    for (int64_t token = task * kCompareTokens; token < end; ++token) {
      const int64_t at = 3 * width * token;
      differs[token] = __builtin_memcmp(qkv + at, known.qkv + at, bytes) != 0;
      if (differs[token] && __atomic_add_fetch(total, int64_t{1}, __ATOMIC_RELAXED) > most) return;
    }
  }

  void gather_changed() const {
    int64_t found = 0;
    for (int64_t token = 0; token < shape.tokens; ++token) {
      if (!differs[token]) continue;
      gather(known.qkv, token, found, -1);
      gather(qkv, token, changed + found++, 1);
    }
  }
  void gather(const float* rows, int64_t token, int64_t place, float sign) const {
    const float* key = rows + 3 * width * token + width;
    for (int64_t head = 0; head < shape.heads; ++head, key += shape.head_width) {
      const int64_t row = head * 2 * changed + place;
      rotary.rotate(key, token / shape.grid_width, token % shape.grid_width,
                    keys + row * shape.head_width);
      float* value = values + row * value_width;
      for (int64_t c = 0; c < shape.head_width; ++c) value[c] = sign * key[width + c];
      value[shape.head_width] = sign;
    }
  }

  void update_tile(int64_t index) const {
    const int64_t first = index * kTileQueries;
    TileMemory memory;
    memory.count = static_cast<int>(min(kTileQueries, queries.count - first));
    for (int i = 0; i < kTileQueries; ++i) {
      memory.tokens[i] = queries[first + min(i, memory.count - 1)];
    }
    for (int i = 0; i < memory.count; ++i) again[first + i] = differs[memory.tokens[i]];
    with_vectors(memory.count, [&](auto vectors) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        update_head<decltype(vectors)::kCount>(head, memory, again + first);
      }
    });
  }

  template <int V>
  void update_head(int64_t head, TileMemory& memory, uint8_t* is_left) const {
    const int64_t depth = shape.head_width, at = head * depth;
    QueryTile<V> tile = make_tile<V>(memory, depth, value_width);
    const float* rows[tile.kStride];
    alignas(64) float logsums[tile.kStride];
    for (int i = 0; i < tile.kStride; ++i) {  // rotated where the block would be
      const int64_t token = memory.tokens[i];
      float* row = tile.block + i * depth;
      rotary.rotate(qkv + 3 * width * token + at, token / shape.grid_width,
                    token % shape.grid_width, row);
      rows[i] = row;
      logsums[i] = known.logsum[token * shape.heads + head];
    }
    gather_columns<V>(rows, depth, 1 / __builtin_sqrt(static_cast<double>(depth)), memory.floats);
    for (int i = 0; i < tile.kStride; ++i) rows[i] = known.out + memory.tokens[i] * width + at;
    gather_columns<V>(rows, depth, 1, tile.sums);
    float* divisors = tile.sums + depth * tile.kStride;
    Vec logsum[V];
    for (int j = 0; j < V; ++j) {
      logsum[j] = load(logsums + j * kLanes);
      store(divisors + j * kLanes, broadcast(1.0f));
    }

    const StridedRows key{keys + head * 2 * changed * depth, depth};
    const StridedRows value{values + head * 2 * changed * value_width, value_width};
    add_keys(tile, key, value, 0, changed, logsum);
    Vec lost[V];
    for (int j = 0; j < V; ++j) lost[j] = broadcast(1.0f) - load(divisors + j * kLanes);
    add_keys(tile, key, value, changed, 2 * changed, logsum);

    Vec factor[V];
    VecInt good[V];
    for (int j = 0; j < V; ++j) {
      const Vec divisor = load(divisors + j * kLanes);
      factor[j] = broadcast(1.0f) / divisor;
      good[j] = (lost[j] <= divisor * kMaxLost) & (divisor <= broadcast(kMaxDivisor));
      for (int64_t c = 0; c < depth; ++c) {
        const Vec x = load(tile.sums + c * tile.kStride + j * kLanes) * factor[j];
        good[j] &= x - x == Vec{};  // finite
      }
    }
    float* results[tile.kStride];
    for (int i = 0; i < memory.count; ++i) {
      results[i] = out + memory.tokens[i] * width + at;
      if (!good[i / kLanes][i % kLanes]) is_left[i] = 1;
    }
    scatter_rows<V>(tile.sums, depth, factor, results, memory.count);
  }

  // Adds keys [first, end) and their values.
  template <int V>
  static void add_keys(QueryTile<V>& tile, StridedRows keys, StridedRows values, int64_t first,
                       int64_t end, const Vec (&logsum)[V]) {
    int64_t k = first;
    for (; k + kTileKeys <= end; k += kTileKeys) {
      add_some<kTileKeys>(tile, {keys[k], keys.stride}, {values[k], values.stride}, logsum);
    }
    for (; k < end; ++k) {
      add_some<1>(tile, {keys[k], keys.stride}, {values[k], values.stride}, logsum);
    }
  }
  template <int K, int V>
  static void add_some(QueryTile<V>& tile, StridedRows keys, StridedRows values,
                       const Vec (&logsum)[V]) {
    Vec p[K][V];
    multiply_rows(tile.queries, tile.kStride, keys, tile.depth, p);
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < V; ++j) p[k][j] = exp(p[k][j] - logsum[j]);
    }
    add_weighted(p, values, tile.width, tile.sums);
  }
};

// Writes the rows of `out` that follow from known ones, if few tokens differ and `queries` are
// many. Returns those of `queries` that are left, whose rows of `out` may hold anything.
static inline TokenList update_attention(const HybridAttentionShape& shape,
                                         const KnownAttention& known, RotaryTable rotary,
                                         const float* qkv, TokenList queries, float* out,
                                         const Memory& memory, const Parallel& parallel) {
  const int64_t most = min(kMaxChanged, shape.tokens / kKeysPerChanged);
  if (known.qkv == nullptr || queries.count < kManyQueries) return queries;
  AttentionUpdate update{shape, known, rotary, qkv, queries, out};
  update.differs = take<uint8_t>(memory, shape.tokens);
  parallel_for(
      parallel, static_cast<size_t>(ceil_div(shape.tokens, kCompareTokens)),
      [&](size_t task) { update.compare(static_cast<int64_t>(task), most, &update.changed); });
  if (update.changed > most) return queries;

  update.again = take<uint8_t>(memory, queries.count);
  update.keys = take<float>(memory, 2 * update.changed * update.width);
  update.values = take<float>(memory, 2 * update.changed * shape.heads * update.value_width);
  update.gather_changed();
  parallel_for(parallel, static_cast<size_t>(ceil_div(queries.count, kTileQueries)),
               [&](size_t task) { update.update_tile(static_cast<int64_t>(task)); });
  int64_t* left = take<int64_t>(memory, queries.count);
  int64_t count = 0;
  for (int64_t i = 0; i < queries.count; ++i) {
    if (update.again[i]) left[count++] = queries[i];
  }
  return {left, count};
}

}  // namespace i2f::I2F_TIER
