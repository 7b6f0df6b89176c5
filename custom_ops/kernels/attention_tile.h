// Softmax attention of a few queries over many keys, in one pass and without storing the logits.
//
// The lanes of a vector are queries, so that keys and values are read in place, one broadcast a
// number, and no sum runs across lanes. A step takes the logits of kTileKeys keys, their
// exponentials and the products with the values through registers alone: kTileVectors x kTileKeys
// vectors.
//
// The weight of a logit s (in units of ln 2) is 2^(s - top), where `top` is no maximum but a bound
// that lies kSlack above the largest logit of the time it was set. It rises only when a logit
// exceeds it, a few times in a call, so the usual step neither tracks maxima nor rescales sums.
#pragma once

#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/shuffle.h"
#include "kernels/simd.h"

namespace i2f::I2F_TIER {

constexpr int kTileVectors = kRegisters >= 32 ? 3 : 2;
constexpr int kTileKeys = kRegisters >= 32 ? 8 : 6;
constexpr int kTileQueries = kTileVectors * kLanes;
// Keys whose products are summed from zero before they join the total. One running sum over 16384
// keys would lose accuracy to its own size.
constexpr int kBlockKeys = 32 * kTileKeys;

constexpr float kSlack = 8.0f;
constexpr float kLowest = -__FLT_MAX__;  // the bound before any logit is known
constexpr float kInfinity = __builtin_inff();

// ---- Attention.

// products[k][j] = sum over c < depth of columns[c][j] * rows[k][c]. The columns are vectors,
// `column_stride` floats from one c to the next.
template <int K, int V>
inline __attribute__((always_inline)) void multiply_rows(const float* columns,
                                                         int64_t column_stride, StridedRows rows,
                                                         int64_t depth, Vec (&products)[K][V]) {
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) products[k][j] = Vec{};
  }
#pragma GCC unroll 1
  for (int64_t c = 0; c < depth; ++c) {
    Vec column[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) column[j] = load(columns + c * column_stride + j * kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const Vec x = broadcast(rows[k][c]);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) products[k][j] += column[j] * x;
    }
  }
}

// sums[c][j] += sum over k of weights[k][j] * values[k][c], for c < width: [width][V * kLanes].
template <int K, int V>
inline __attribute__((always_inline)) void add_weighted(const Vec (&weights)[K][V],
                                                        StridedRows values, int64_t width,
                                                        float* sums) {
#pragma GCC unroll 1
  for (int64_t c = 0; c < width; ++c) {
    float* row = sums + c * V * kLanes;
    Vec sum[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[j] = load(row + j * kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const Vec x = broadcast(values[k][c]);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sum[j] += weights[k][j] * x;
    }
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) store(row + j * kLanes, sum[j]);
  }
}

// V vectors of queries and what is known of their softmax so far.
template <int V>
struct QueryTile {
  static constexpr int kStride = V * kLanes;  // floats from a channel to the next
  int64_t depth;                              // channels of queries and keys
  int64_t width;                              // channels of values
  const float* queries;                       // [depth][kStride], times scale and log2(e)
  float* block;                               // [width][kStride], weighted values of a block
  float* sums;                                // [width][kStride], of all blocks before it
  Vec top[V], sums_top[V];                    // the bounds that block and sums refer to
  Vec weight[V], sums_weight[V];              // sums of the weights
};

// Raises the bounds that a logit of the K keys exceeds; a query with a NaN among them gets a NaN.
template <int K, int V>
__attribute__((noinline, cold)) void raise_top(QueryTile<V>& tile, StridedRows keys) {
  for (int j = 0; j < V; ++j) {
    Vec logits[K][1];
    multiply_rows(tile.queries + j * kLanes, tile.kStride, keys, tile.depth, logits);
    Vec largest = broadcast(kLowest);
    VecInt is_nan{};
    for (int k = 0; k < K; ++k) {
      largest = logits[k][0] > largest ? logits[k][0] : largest;
      is_nan |= logits[k][0] != logits[k][0];
    }
    Vec raised = largest >= tile.top[j] ? largest + broadcast(kSlack) : tile.top[j];
    raised = is_nan ? broadcast(__builtin_nanf("")) : raised;
    const Vec factor = exp2_nonpositive(tile.top[j] - raised);
    tile.top[j] = raised;
    tile.weight[j] *= factor;
    for (int64_t c = 0; c < tile.width; ++c) {
      float* sum = tile.block + c * tile.kStride + j * kLanes;
      store(sum, load(sum) * factor);
    }
  }
}

// Adds K keys and values to a block.
template <int K, int V>
inline __attribute__((always_inline)) void step(QueryTile<V>& tile, StridedRows keys,
                                                StridedRows values) {
  Vec p[K][V];
  for (bool raised = false;; raised = true) {
    multiply_rows(tile.queries, tile.kStride, keys, tile.depth, p);
    // All is well when every logit is below its bound: the difference has its sign bit set and is
    // at most -Inf, read as an integer. What is above, or NaN, is larger.
    VecInt largest = VecInt{} + INT32_MIN;
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      const Vec top = tile.top[j];
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        p[k][j] -= top;
        largest = (VecInt)p[k][j] > largest ? (VecInt)p[k][j] : largest;
      }
    }
    if (__builtin_expect(!any(largest > (VecInt)broadcast(-kInfinity)) || raised, 1)) break;
    raise_top<K>(tile, keys);
  }
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    Vec sum{};
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      p[k][j] = exp2_nonpositive(p[k][j]);
      sum += p[k][j];
    }
    tile.weight[j] += sum;
  }
  add_weighted(p, values, tile.width, tile.block);
}

// Attends to n keys. Afterwards, for each query: sums = sum of 2^(logit - sums_top) * value,
// sums_weight = sum of 2^(logit - sums_top). sums_weight is NaN where a logit was NaN or +Inf;
// sums_top is kLowest where all were -Inf.
template <int V>
void attend(QueryTile<V>& tile, StridedRows keys, StridedRows values, int64_t n) {
  const int64_t floats = tile.width * tile.kStride;
  for (int j = 0; j < V; ++j) {
    tile.top[j] = tile.sums_top[j] = broadcast(kLowest);
    tile.sums_weight[j] = Vec{};
  }
  for (int64_t i = 0; i < floats; i += kLanes) store(tile.sums + i, Vec{});
  for (int64_t first = 0; first < n; first += kBlockKeys) {
    for (int j = 0; j < V; ++j) tile.weight[j] = Vec{};
    for (int64_t i = 0; i < floats; i += kLanes) store(tile.block + i, Vec{});
    const int64_t end = first + kBlockKeys < n ? first + kBlockKeys : n;
    int64_t k = first;
    for (; k + kTileKeys <= end; k += kTileKeys) {
      step<kTileKeys>(tile, {keys[k], keys.stride}, {values[k], values.stride});
    }
    for (; k < end; ++k) step<1>(tile, {keys[k], keys.stride}, {values[k], values.stride});
    Vec factor[V];
    for (int j = 0; j < V; ++j) {
      factor[j] = exp2_nonpositive(tile.sums_top[j] - tile.top[j]);
      tile.sums_top[j] = tile.top[j];
      tile.sums_weight[j] = tile.sums_weight[j] * factor[j] + tile.weight[j];
    }
    for (int64_t c = 0; c < tile.width; ++c) {
      for (int j = 0; j < V; ++j) {
        float* sum = tile.sums + c * tile.kStride + j * kLanes;
        store(sum, load(sum) * factor[j] + load(tile.block + (sum - tile.sums)));
      }
    }
  }
  for (int j = 0; j < V; ++j) {
    const Vec top = tile.sums_top[j];
    tile.sums_weight[j] =
        top < broadcast(kInfinity) ? tile.sums_weight[j] : broadcast(__builtin_nanf(""));
  }
}

// ---- Tiles of queries in memory.

// A tile's memory. Queries are `tokens`, in lane order; the lanes behind the last repeat it.
struct TileMemory {
  static constexpr int64_t kMaxFloats = (kMaxHeadWidth + 1) * kTileQueries;
  alignas(64) float floats[3 * kMaxFloats];
  int64_t tokens[kTileQueries];
  int count;
};

// Calls body(Rows<V>()) with the number V of vectors that hold `count` queries.
template <class Body>
inline void with_vectors(int count, const Body& body) {
  with_rows<kTileVectors>(ceil_div(count, kLanes), body);
}

// rows [V * kLanes] of `width` floats -> columns [width][V * kLanes], times scale. The scale's
// rounding would be an error of all logits in the same direction, so what it leaves is added.
template <int V>
void gather_columns(const float* const* rows, int64_t width, double scale, float* columns) {
  const float high = static_cast<float>(scale), low = static_cast<float>(scale - high);
  for (int j = 0; j < V; ++j) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const int n = static_cast<int>(min(kLanes, width - c));
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const float* row = rows[j * kLanes + i] + c;
        const Vec x = n == kLanes ? load(row) : load_partial(row, n);
        square[i] = x * high + x * low;
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < n) store(columns + ((c + i) * V + j) * kLanes, square[i]);
      }
    }
  }
}

// The inverse, each column times its factor, for the first `count` rows.
template <int V>
void scatter_rows(const float* columns, int64_t width, const Vec (&factor)[V], float* const* rows,
                  int count) {
  for (int j = 0; j < V; ++j) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const int n = static_cast<int>(min(kLanes, width - c));
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        square[i] = i < n ? load(columns + ((c + i) * V + j) * kLanes) * factor[j] : Vec{};
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (j * kLanes + i >= count) continue;
        float* row = rows[j * kLanes + i] + c;
        if (n == kLanes) {
          store(row, square[i]);
        } else {
          store_partial(row, square[i], n);
        }
      }
    }
  }
}

template <int V>
QueryTile<V> make_tile(TileMemory& memory, int64_t depth, int64_t width) {
  constexpr int kStride = QueryTile<V>::kStride;
  QueryTile<V> tile{};
  tile.depth = depth;
  tile.width = width;
  tile.queries = memory.floats;
  tile.block = memory.floats + depth * kStride;
  tile.sums = tile.block + width * kStride;
  return tile;
}

// Divides the first `width` sums of a query by its `denominator` and writes them to its row.
template <int V>
void divide(const QueryTile<V>& tile, const Vec (&denominator)[V], int64_t width,
            float* const* rows, int count) {
  Vec factor[V];
  for (int j = 0; j < V; ++j) {
    const VecInt is_number =
        (tile.sums_weight[j] == tile.sums_weight[j]) & (tile.sums_top[j] > broadcast(kLowest));
    factor[j] = is_number ? broadcast(1.0f) / denominator[j] : broadcast(__builtin_nanf(""));
  }
  scatter_rows<V>(tile.sums, width, factor, rows, count);
}

}  // namespace i2f::I2F_TIER
