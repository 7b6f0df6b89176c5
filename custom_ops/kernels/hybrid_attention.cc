// HybridAttention and FullAttention: rotary embedding, codes and code sums, then tiles of queries
// over keys or codes.

#include "kernels/hybrid_attention.h"

#include "kernels/attention_tile.h"
#include "kernels/attention_update.h"
#include "kernels/gemm.h"
#include "kernels/rotary.h"

namespace i2f::I2F_TIER {
namespace {

using Shape = HybridAttentionShape;

static_assert(Shape::kCodePadding % kLanes == 0, "a packed code weight fits every tier");

constexpr int64_t kRotateTokens = 256;  // tokens of a task that rotates keys
constexpr int64_t kCountKeys = 512;     // keys of a task that sums values by code, at least
constexpr int64_t kGatherCodes = 16;    // codes of a task that adds those sums up
constexpr int64_t kEnoughTasks = 64;    // query tiles below which their keys are split
constexpr float kMaxSpread = 100.0f;    // between logits, in powers of 2: no weight is denormal

// How the work is cut, which the shape alone decides, and the arrays that it goes through.
struct Plan {
  Plan(const Shape& s, int64_t full, const Memory& memory)
      : others(s.tokens - s.edges),
        edge_tiles(ceil_div(full, kTileQueries)),
        other_tiles(ceil_div(others, kTileQueries)),
        // A code's sums are as long as its chunk's values: no chunk shorter than the table.
        chunk_keys(max(kCountKeys, s.codes)),
        chunks(others > 0 ? ceil_div(s.tokens, chunk_keys) : 0),
        value_width(s.head_width + 1),
        partial_floats((s.head_width + 2) * kTileQueries) {
    const int64_t tiles = max(1, edge_tiles * s.heads);
    const int64_t evenly = ceil_div(s.tokens, ceil_div(kEnoughTasks, tiles));
    split_keys = ceil_div(evenly, kBlockKeys) * kBlockKeys;
    splits = ceil_div(s.tokens, split_keys);
    if (edge_tiles > 0) {
      keys = take<float>(memory, s.tokens * s.width());
      values = take<float>(memory, s.tokens * s.width());
      if (splits > 1) partials = take<float>(memory, tiles * splits * partial_floats);
    }
    if (chunks > 0) {
      sums = take<float>(memory, chunks * s.codes * s.width());
      counts = take<int32_t>(memory, chunks * s.codes);
      occurring = take<int32_t>(memory, s.codes);
      words = take<float>(memory, s.codes * s.width());
      word_values = take<float>(memory, s.codes * s.heads * value_width);
    }
  }

  int64_t others;                   // tokens that are not edge tokens
  int64_t edge_tiles, other_tiles;  // of queries, in one head; the former attend in full
  int64_t chunk_keys, chunks;       // of the keys whose values are summed by code
  int64_t value_width;              // of a code's summed values and their number, in one head
  int64_t partial_floats;           // of one split: sums, bounds, weights
  int64_t split_keys, splits;       // of the keys of one edge tile

  float* keys = nullptr;         // [heads, L, head_width], rotated
  float* values = nullptr;       // [heads, L, head_width]
  float* partials = nullptr;     // [heads, edge_tiles, splits, partial_floats]
  float* sums = nullptr;         // [chunks, K, D], of values by code
  int32_t* counts = nullptr;     // [chunks, K], of keys by code; the first chunk's become all keys'
  int32_t* occurring = nullptr;  // [found], codes
  float* words = nullptr;        // [found, D], their codewords
  float* word_values = nullptr;  // [found, heads, value_width], their summed values and counts
};

// One call: its arguments, and the steps that its tasks run.
struct HybridAttention {
  const Shape& shape;
  const Plan& plan;
  RotaryTable rotary;
  const float* qkv;
  const int64_t* edge_tokens;
  TokenList full;  // tokens that attend in full: the edge tokens, or those that are left of them
  const float* code_weight;
  const float* codewords;
  const float* summed;
  float* out;
  float* logsum = nullptr;  // [L, heads], if asked for
  double scale = kLog2E / __builtin_sqrt(static_cast<double>(shape.head_width));
  int64_t width = shape.width();
  StridedRows queries = {qkv, 3 * width}, keys = {qkv + width, 3 * width};
  StridedRows values = {qkv + 2 * width, 3 * width};

  // ---- Rotary embedding.

  void rotate(const float* x, int64_t token, float* y) const {
    rotary.rotate(x, token / shape.grid_width, token % shape.grid_width, y);
  }

  // Where a token is in the rotated keys and in the copied values [heads, L, head_width]. Tiles of
  // queries stream through both: rows that lie apart, as in qkv, come slower than they are used.
  int64_t row(int64_t head, int64_t token) const {
    return (head * shape.tokens + token) * shape.head_width;
  }

  void rotate_keys(int64_t task) const {
    const int64_t end = min(shape.tokens, (task + 1) * kRotateTokens);
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t at = head * shape.head_width;
      for (int64_t token = task * kRotateTokens; token < end; ++token) {
        rotate(keys[token] + at, token, plan.keys + row(head, token));
        copy_floats(values[token] + at, shape.head_width, plan.values + row(head, token));
      }
    }
  }

  // ---- Codes of keys, and the sums of values by code.

  void count_chunk(int64_t chunk) const {
    float* sums = plan.sums + chunk * shape.codes * width;
    int32_t* counts = plan.counts + chunk * shape.codes;
    __builtin_memset(sums, 0, static_cast<size_t>(shape.codes * width) * sizeof(float));
    __builtin_memset(counts, 0, static_cast<size_t>(shape.codes) * sizeof(int32_t));
    int32_t places[2 * Shape::kCodePadding] = {};
    for (int64_t i = 0; i < shape.scores && !shape.argmax; ++i) {
      places[i] = int32_t{1} << (shape.scores - 1 - i);
    }
    const int64_t end = min(shape.tokens, (chunk + 1) * plan.chunk_keys);
    int64_t token = chunk * plan.chunk_keys;
    for (; token + kTileKeys <= end; token += kTileKeys) {
      add_keys<kTileKeys>(token, places, sums, counts);
    }
    for (; token < end; ++token) add_keys<1>(token, places, sums, counts);
  }

  template <int K>
  void add_keys(int64_t token, const int32_t* places, float* sums, int32_t* counts) const {
    int32_t codes[K];
    if (shape.argmax) {
      find_largest({keys[token], keys.stride}, codes);
    } else {
      find_signs({keys[token], keys.stride}, places, codes);
    }
    for (int k = 0; k < K; ++k) {
      const float* value = values[token + k];
      float* sum = sums + codes[k] * width;
      int64_t c = 0;
      for (; c + kLanes <= width; c += kLanes) store(sum + c, load(sum + c) + load(value + c));
      for (; c < width; ++c) sum[c] += value[c];
      ++counts[codes[k]];
    }
  }

  // Scores [first, first + kLanes) of K keys.
  template <int K>
  inline __attribute__((always_inline)) void scores(StridedRows rows, int64_t first,
                                                    Vec (&result)[K][1]) const {
    const int64_t columns = shape.score_columns();
    multiply_rows(code_weight + first, columns, rows, width, result);
    const Vec bias = load(code_weight + width * columns + first);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) result[k][0] += bias;
  }

  // The bits score >= 0, the first the highest; `places` holds what each is worth, the padding 0.
  template <int K>
  void find_signs(StridedRows rows, const int32_t* places, int32_t (&codes)[K]) const {
    VecInt bits[K] = {};
    for (int64_t first = 0; first < shape.scores; first += kLanes) {
      Vec score[K][1];
      scores(rows, first, score);
      const VecInt place = (VecInt)load(reinterpret_cast<const float*>(places) + first);
      for (int k = 0; k < K; ++k) bits[k] |= (score[k][0] >= Vec{}) & place;
    }
    for (int k = 0; k < K; ++k) codes[k] = join<kLanes / 2>(bits[k]);
  }
  template <int kFlip>
  static int32_t join(VecInt bits) {
    bits |= flip_lanes<kFlip>(bits);
    if constexpr (kFlip > 1) {
      return join<kFlip / 2>(bits);
    } else {
      return bits[0];
    }
  }

  // The first largest score; NaN is never larger.
  template <int K>
  void find_largest(StridedRows rows, int32_t (&codes)[K]) const {
    Vec largest[K];
    VecInt index[K] = {};
    for (int k = 0; k < K; ++k) largest[k] = broadcast(-kInfinity);
    for (int64_t first = 0; first < shape.scores; first += kLanes) {
      Vec score[K][1];
      scores(rows, first, score);
      const VecInt group = VecInt{} + static_cast<int32_t>(first);
      for (int k = 0; k < K; ++k) {
        const VecInt larger = score[k][0] > largest[k];
        largest[k] = larger ? score[k][0] : largest[k];
        index[k] = larger ? group : index[k];
      }
    }
    VecInt lane{};
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int k = 0; k < K; ++k) {
      const Vec best = spread_largest<kLanes / 2>(largest[k]);
      // Where nothing was above -Inf, every lane has index 0 and code 0 is the least.
      codes[k] = least_of<kLanes / 2>(largest[k] == best ? index[k] + lane : VecInt{} + INT32_MAX);
    }
  }
  template <int kFlip>
  static Vec spread_largest(Vec v) {
    const Vec other = flip_lanes<kFlip>(v);
    v = v > other ? v : other;
    if constexpr (kFlip > 1) v = spread_largest<kFlip / 2>(v);
    return v;
  }
  template <int kFlip>
  static int32_t least_of(VecInt v) {
    const VecInt other = flip_lanes<kFlip>(v);
    v = v < other ? v : other;
    if constexpr (kFlip > 1) {
      return least_of<kFlip / 2>(v);
    } else {
      return v[0];
    }
  }

  // Lists the codes that occur; returns how many.
  int64_t list_codes() const {
    for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) {
      const int32_t* more = plan.counts + chunk * shape.codes;
      for (int64_t code = 0; code < shape.codes; ++code) plan.counts[code] += more[code];
    }
    int64_t found = 0;
    for (int64_t code = 0; code < shape.codes; ++code) {
      if (plan.counts[code] > 0) plan.occurring[found++] = static_cast<int32_t>(code);
    }
    return found;
  }

  // Codewords and values of the codes that occur, without gaps. A code's value in a head is the sum
  // of its keys' values and then their number: numerator and denominator of the attention at once.
  void gather_codes(int64_t task, int64_t found) const {
    const int64_t end = min(found, (task + 1) * kGatherCodes);
    for (int64_t i = task * kGatherCodes; i < end; ++i) {
      const int64_t code = plan.occurring[i];
      copy_floats(codewords + code * width, width, plan.words + i * width);
      for (int64_t head = 0; head < shape.heads; ++head) {
        float* value = plan.word_values + (i * shape.heads + head) * plan.value_width;
        for (int64_t c = 0; c < plan.value_width; ++c) value[c] = 0;
        for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
          const float* sum =
              plan.sums + (chunk * shape.codes + code) * width + head * shape.head_width;
          for (int64_t c = 0; c < shape.head_width; ++c) value[c] += sum[c];
        }
        value[shape.head_width] = static_cast<float>(plan.counts[code]);
      }
    }
  }

  // ---- Tiles of queries.

  // Divides and writes the output rows. `denominator` is what the sums are divided by.
  template <int V>
  void finish(const QueryTile<V>& tile, const Vec (&denominator)[V], int64_t head,
              const TileMemory& memory) const {
    float* rows[kTileQueries] = {};  // GCC 14 does not see that those of the tile are set
    for (int i = 0; i < memory.count; ++i) {
      rows[i] = out + memory.tokens[i] * width + head * shape.head_width;
    }
    divide(tile, denominator, shape.head_width, rows, memory.count);
  }

  // The same of a tile that attends in full.
  template <int V>
  void finish_edge(const QueryTile<V>& tile, int64_t head, const TileMemory& memory) const {
    finish(tile, tile.sums_weight, head, memory);
    for (int i = 0; logsum != nullptr && i < memory.count; ++i) {
      const float top = tile.sums_top[i / kLanes][i % kLanes];
      const double bits = __builtin_log2(tile.sums_weight[i / kLanes][i % kLanes]) + top;
      logsum[memory.tokens[i] * shape.heads + head] =
          top > kLowest ? static_cast<float>(bits / kLog2E) : __builtin_nanf("");
    }
  }

  void gather_tile(int64_t index, TileMemory& memory) const {
    const int64_t first = index * kTileQueries;
    memory.count = static_cast<int>(min(kTileQueries, full.count - first));
    for (int i = 0; i < kTileQueries; ++i) {
      memory.tokens[i] = full[first + min(i, memory.count - 1)];
    }
  }

  // The tokens between the edge tokens: edge_tokens[j] - j of them lie before edge token j.
  void other_tokens(int64_t index, TileMemory& memory) const {
    const int64_t first = index * kTileQueries;
    memory.count = static_cast<int>(min(kTileQueries, plan.others - first));
    int64_t low = 0, high = shape.edges;  // the first j with edge_tokens[j] - j > first
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (edge_tokens[middle] - middle > first) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    int64_t token = first + low;
    for (int i = 0; i < kTileQueries; ++i) {
      memory.tokens[i] = token;
      if (i + 1 >= memory.count) continue;
      ++token;
      for (; low < shape.edges && edge_tokens[low] == token; ++low) ++token;
    }
  }

  void edge_task(int64_t task) const {
    const int64_t split = task % plan.splits, tile_index = task / plan.splits;
    const int64_t head = tile_index / plan.edge_tiles, at = head * shape.head_width;
    const int64_t first = split * plan.split_keys;
    const int64_t n = min(plan.split_keys, shape.tokens - first);
    TileMemory memory;
    gather_tile(tile_index % plan.edge_tiles, memory);
    with_vectors(memory.count, [&](auto vectors) {
      constexpr int V = decltype(vectors)::kCount;
      QueryTile<V> tile = make_tile<V>(memory, shape.head_width, shape.head_width);
      const float* rows[tile.kStride];
      for (int i = 0; i < tile.kStride; ++i) {  // rotated where the block will be
        float* row = tile.block + i * shape.head_width;
        rotate(queries[memory.tokens[i]] + at, memory.tokens[i], row);
        rows[i] = row;
      }
      gather_columns<V>(rows, shape.head_width, scale, memory.floats);
      float* partial = nullptr;
      if (plan.splits > 1) tile.sums = partial = plan.partials + task * plan.partial_floats;
      attend(tile, {plan.keys + row(head, first), shape.head_width},
             {plan.values + row(head, first), shape.head_width}, n);
      if (plan.splits == 1) return finish_edge(tile, head, memory);
      for (int j = 0; j < V; ++j) {
        float* bounds = partial + shape.head_width * tile.kStride + j * kLanes;
        store(bounds, tile.sums_top[j]);
        store(bounds + tile.kStride, tile.sums_weight[j]);
      }
    });
  }

  // Joins the splits of an edge tile, in order.
  void join_task(int64_t task) const {
    const int64_t head = task / plan.edge_tiles;
    TileMemory memory;
    gather_tile(task % plan.edge_tiles, memory);
    with_vectors(memory.count, [&](auto vectors) {
      constexpr int V = decltype(vectors)::kCount;
      QueryTile<V> tile = make_tile<V>(memory, shape.head_width, shape.head_width);
      const int64_t floats = shape.head_width * tile.kStride;
      const float* first = plan.partials + task * plan.splits * plan.partial_floats;
      for (int64_t i = 0; i < floats; i += kLanes) store(tile.sums + i, Vec{});
      for (int j = 0; j < V; ++j) {
        Vec top = broadcast(kLowest);
        for (int64_t split = 0; split < plan.splits; ++split) {
          const Vec other = load(first + split * plan.partial_floats + floats + j * kLanes);
          top = other > top ? other : top;
        }
        tile.sums_top[j] = top;
        for (int64_t split = 0; split < plan.splits; ++split) {
          const float* partial = first + split * plan.partial_floats + j * kLanes;
          const Vec factor = exp2_nonpositive(load(partial + floats) - top);
          tile.sums_weight[j] += load(partial + floats + tile.kStride) * factor;
          for (int64_t c = 0; c < floats; c += tile.kStride) {
            float* sum = tile.sums + c + j * kLanes;
            store(sum, load(sum) + load(partial + c) * factor);
          }
        }
      }
      finish_edge(tile, head, memory);
    });
  }

  StridedRows code_values(int64_t head) const {
    return {plan.word_values + head * plan.value_width, shape.heads * plan.value_width};
  }

  template <int V>
  void attend_to_codes(QueryTile<V>& tile, int64_t head, int64_t found) const {
    attend(tile, {plan.words + head * shape.head_width, width}, code_values(head), found);
  }

  // The same where codewords are sums of their bits' vectors: a code's weight is the product of
  // what its bits give, so that few exponentials make all of them. What codeword 0 gives is the
  // same for all codes, and left out.
  template <int V>
  void attend_by_bits(QueryTile<V>& tile, int64_t head, int64_t found) const {
    constexpr int64_t kStride = QueryTile<V>::kStride;
    Vec logits[Shape::kMaxSummed][V], spread[V] = {};
    const StridedRows bits{summed + head * shape.head_width, width};
    int64_t bit = 0;
    for (; bit + 4 <= shape.scores; bit += 4) {
      Vec four[4][V];
      multiply_rows(tile.queries, kStride, {bits[bit], bits.stride}, tile.depth, four);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < V; ++j) logits[bit + i][j] = four[i][j];
      }
    }
    for (; bit < shape.scores; ++bit) {
      Vec one[1][V];
      multiply_rows(tile.queries, kStride, {bits[bit], bits.stride}, tile.depth, one);
      for (int j = 0; j < V; ++j) logits[bit][j] = one[0][j];
    }
    // Products of the lower half of the bits, and of the upper half. Of a bit's two factors the
    // larger one is 1.
    constexpr int64_t kMaxTable = int64_t{1} << (Shape::kMaxSummed + 1) / 2;
    alignas(64) float tables[2][kMaxTable * kStride];
    const int64_t lower = shape.scores / 2;
    for (int half = 0; half < 2; ++half) {
      const int64_t first = half == 0 ? 0 : lower, end = half == 0 ? lower : shape.scores;
      for (int j = 0; j < V; ++j) {
        float* column = tables[half] + j * kLanes;
        store(column, broadcast(1.0f));
        int64_t size = 1;
        for (bit = first; bit < end; ++bit, size *= 2) {
          const Vec logit = logits[bit][j], away = logit < Vec{} ? logit : -logit;
          spread[j] -= away;
          const Vec small = exp2_nonpositive(away), one = broadcast(1.0f);
          const Vec set = logit < Vec{} ? small : one, unset = logit < Vec{} ? one : small;
          for (int64_t i = 0; i < size; ++i) {
            const Vec v = load(column + i * kStride);
            store(column + (size + i) * kStride, v * set);
            store(column + i * kStride, v * unset);
          }
        }
      }
    }
    const int64_t floats = tile.width * kStride;
    for (int64_t i = 0; i < floats; i += kLanes) store(tile.sums + i, Vec{});
    const StridedRows values = code_values(head);
    const int32_t mask = (int32_t{1} << lower) - 1;
    for (int64_t first = 0; first < found; first += kBlockKeys) {
      for (int64_t i = 0; i < floats; i += kLanes) store(tile.block + i, Vec{});
      const int64_t end = min(first + kBlockKeys, found);
      const auto add = [&](auto count, int64_t k) {
        constexpr int kCount = decltype(count)::kCount;
        Vec weights[kCount][V];
        for (int i = 0; i < kCount; ++i) {
          const int32_t code = plan.occurring[k + i];
          const float* low = tables[0] + (code & mask) * kStride;
          const float* high = tables[1] + (code >> lower) * kStride;
          for (int j = 0; j < V; ++j) {
            weights[i][j] = load(low + j * kLanes) * load(high + j * kLanes);
          }
        }
        add_weighted(weights, {values[k], values.stride}, tile.width, tile.block);
      };
      int64_t k = first;
      for (; k + kTileKeys <= end; k += kTileKeys) add(Rows<kTileKeys>(), k);
      for (; k < end; ++k) add(Rows<1>(), k);
      for (int64_t i = 0; i < floats; i += kLanes) {
        store(tile.sums + i, load(tile.sums + i) + load(tile.block + i));
      }
    }
    VecInt usual[V];
    bool all_usual = true;
    for (int j = 0; j < V; ++j) {
      tile.sums_top[j] = Vec{};
      tile.sums_weight[j] = broadcast(1.0f);
      usual[j] = spread[j] <= broadcast(kMaxSpread);  // a NaN is not
      all_usual &= !any(~usual[j]);
    }
    if (!all_usual) replace_unusual(tile, usual, head, found);
  }

  // Queries whose logits lie too far apart, or are NaN or Inf, attend to codewords.
  template <int V>
  __attribute__((noinline, cold)) void replace_unusual(QueryTile<V>& tile, const VecInt (&usual)[V],
                                                       int64_t head, int64_t found) const {
    alignas(64) float by_bits[TileMemory::kMaxFloats];
    const int64_t floats = tile.width * tile.kStride;
    for (int64_t i = 0; i < floats; i += kLanes) store(by_bits + i, load(tile.sums + i));
    attend_to_codes(tile, head, found);
    for (int j = 0; j < V; ++j) {
      tile.sums_top[j] = usual[j] ? Vec{} : tile.sums_top[j];
      tile.sums_weight[j] = usual[j] ? broadcast(1.0f) : tile.sums_weight[j];
      for (int64_t c = 0; c < tile.width; ++c) {
        const int64_t at = c * tile.kStride + j * kLanes;
        store(tile.sums + at, usual[j] ? load(by_bits + at) : load(tile.sums + at));
      }
    }
  }

  void other_task(int64_t task, int64_t found) const {
    const int64_t head = task / plan.other_tiles, at = head * shape.head_width;
    TileMemory memory;
    other_tokens(task % plan.other_tiles, memory);
    with_vectors(memory.count, [&](auto vectors) {
      constexpr int V = decltype(vectors)::kCount;
      QueryTile<V> tile = make_tile<V>(memory, shape.head_width, plan.value_width);
      const float* rows[tile.kStride];
      for (int i = 0; i < tile.kStride; ++i) rows[i] = queries[memory.tokens[i]] + at;
      gather_columns<V>(rows, shape.head_width, scale, memory.floats);
      if (summed != nullptr) {
        attend_by_bits(tile, head, found);
      } else {
        attend_to_codes(tile, head, found);
      }
      Vec numbers[V];
      for (int j = 0; j < V; ++j) {
        numbers[j] = load(tile.sums + shape.head_width * tile.kStride + j * kLanes);
      }
      finish(tile, numbers, head, memory);
    });
  }

  // ---- The call.

  void run(const Parallel& parallel) const {
    const int64_t rotations = plan.edge_tiles > 0 ? ceil_div(shape.tokens, kRotateTokens) : 0;
    run_tasks(parallel, plan.chunks + rotations, [this](int64_t task) {
      if (task < plan.chunks) {
        count_chunk(task);
      } else {
        rotate_keys(task - plan.chunks);
      }
    });
    const int64_t found = plan.chunks > 0 ? list_codes() : 0;
    run_tasks(parallel, ceil_div(found, kGatherCodes),
              [=](int64_t task) { gather_codes(task, found); });
    const int64_t tiles = shape.heads * plan.edge_tiles, edge_tasks = tiles * plan.splits;
    run_tasks(parallel, edge_tasks + shape.heads * plan.other_tiles, [=](int64_t task) {
      if (task < edge_tasks) {
        edge_task(task);
      } else {
        other_task(task - edge_tasks, found);
      }
    });
    if (plan.splits > 1) run_tasks(parallel, tiles, [this](int64_t task) { join_task(task); });
  }

  template <class Body>
  static void run_tasks(const Parallel& parallel, int64_t count, const Body& body) {
    if (count == 0) return;
    parallel_for(parallel, static_cast<size_t>(count),
                 [&](size_t task) { body(static_cast<int64_t>(task)); });
  }
};

RotaryTable make_rotary_table(const Shape& shape, const Memory& memory) {
  const int64_t positions = max(shape.tokens / shape.grid_width, shape.grid_width);
  const RotaryTable rotary{take<float>(memory, positions * shape.head_width), shape.head_width};
  rotary.make(positions);
  return rotary;
}

}  // namespace

void hybrid_attention(const Shape& shape, const float* qkv, const int64_t* edge_tokens,
                      const float* code_weight, const float* codewords, const float* summed,
                      const KnownAttention& known, FullRowsKernel* full_rows, float* out,
                      const Memory& memory, const Parallel& parallel) {
  if (shape.tokens == 0) return;
  const RotaryTable rotary = shape.edges > 0 ? make_rotary_table(shape, memory) : RotaryTable{};
  TokenList left = update_attention(shape, known, rotary, qkv, {edge_tokens, shape.edges}, out,
                                    memory, parallel);
  if (full_rows != nullptr && left.count > 0) {
    int64_t* others = take<int64_t>(memory, left.count);
    left.count = full_rows(shape, qkv, left.tokens, left.count, out, others, memory, parallel);
    left.tokens = others;
  }
  const Plan plan(shape, left.count, memory);
  HybridAttention{shape, plan, rotary, qkv, edge_tokens, left, code_weight, codewords, summed, out}
      .run(parallel);
}

void full_attention(const Shape& given, const float* qkv, float* out, float* logsum,
                    const Memory& memory, const Parallel& parallel) {
  if (given.tokens == 0) return;
  Shape shape = given;
  shape.edges = shape.tokens;
  const Plan plan(shape, shape.tokens, memory);
  const RotaryTable rotary = make_rotary_table(shape, memory);
  const TokenList all{nullptr, shape.tokens};
  HybridAttention{shape, plan, rotary, qkv, nullptr, all, nullptr, nullptr, nullptr, out, logsum}
      .run(parallel);
}

}  // namespace i2f::I2F_TIER
