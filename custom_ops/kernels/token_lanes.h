// Tokens in the lanes of vectors, kWidth at a time: row k of such a block, kWidth floats, holds
// number k of each token. What is done to every token alike then needs no sums across lanes, and a
// layer's weights meet the tokens row by row, as they lie in memory.
#pragma once

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER::token_lanes {

constexpr int kRows = kTileRows<2>;     // of a tile of weights
constexpr int64_t kWidth = 2 * kLanes;  // tokens of a block
constexpr int64_t kSpan = 4 * kWidth;   // that a task takes, block after block

// to [depth, kWidth] = the first `count` rows of x [count, depth], and zeros behind them. The rows
// that follow are often next: they are on their way to the cache while this block is computed.
inline __attribute__((noinline)) void gather(StridedRows x, int64_t count, int64_t depth,
                                             float* to) {
  for (int64_t k = 0; k < depth; k += kLanes, to += kLanes * kWidth) {
    const int64_t height = min(kLanes, depth - k);
    for (int64_t n = 0; n < kWidth; n += kLanes) {
      Vec square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const float* from = x[n + i] + k;
        square[i] = n + i >= count    ? Vec{}
                    : height < kLanes ? load_partial(from, static_cast<int>(height))
                                      : load(from);
        __builtin_prefetch(from + kWidth * x.stride);
      }
      transpose(square);
      for (int64_t i = 0; i < height; ++i) store(to + i * kWidth + n, square[i]);
    }
  }
}

// The reverse: to [count, depth], rows `stride` apart, = the first `count` tokens of a block.
inline __attribute__((noinline)) void scatter(const float* from, int64_t count, int64_t depth,
                                              float* to, int64_t stride) {
  for (int64_t k = 0; k < depth; k += kLanes, from += kLanes * kWidth) {
    const int64_t height = min(kLanes, depth - k);
    for (int64_t n = 0; n < count; n += kLanes) {
      Vec square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = i < height ? load(from + i * kWidth + n) : Vec{};
      }
      transpose(square);
      for (int64_t i = 0; i < min(kLanes, count - n); ++i) {
        float* row = to + (n + i) * stride + k;
        if (height < kLanes) {
          store_partial(row, square[i], static_cast<int>(height));
        } else {
          store(row, square[i]);
        }
      }
    }
  }
}

// to [rows, kWidth], rows `stride` apart: each row is one of `numbers`, or 0 where that is null.
inline void fill(const float* numbers, int64_t rows, float* to, int64_t stride = kWidth) {
  for (int64_t i = 0; i < rows; ++i, to += stride) {
    const Vec number = broadcast(numbers == nullptr ? 0.0f : numbers[i]);
    for (int n = 0; n < 2; ++n) store(to + n * kLanes, number);
  }
}

// sums [rows, kWidth], rows `stride` apart, += weights [rows, depth] times x [depth, kWidth], in
// ascending depth, summed from zero: a running sum of thousands would lose digits.
inline __attribute__((noinline)) void add_product(StridedRows weights, int64_t rows, int64_t depth,
                                                  const float* x, float* sums,
                                                  int64_t stride = kWidth) {
  for_parts(0, rows, kRows, [&](int64_t begin, int64_t end) {
    with_rows<kRows>(end - begin, [&](auto height) {
      constexpr int M = decltype(height)::kCount;
      const float* from[M];
      for (int m = 0; m < M; ++m) from[m] = weights[begin + m];
      float* to = sums + begin * stride;
      Vec tile[M][2] = {};
      add_products<M, 2>(from, x, depth, tile);
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          float* at = to + m * stride + n * kLanes;
          store(at, load(at) + tile[m][n]);
        }
      }
    });
  });
}

// x [depth, kWidth] = function(weight LN(x) + bias), LN over the `depth` numbers of each token.
template <class Function>
inline void layer_norm(float* x, int64_t depth, float epsilon, const float* weight,
                       const float* bias, const Function& function) {
  const float size = static_cast<float>(depth);
  Vec mean[2], factor[2];
  for (int n = 0; n < 2; ++n) {
    const auto sum_of = [&](const auto& term) {  // four sums: none waits for the one before
      const float* at = x + n * kLanes;
      Vec sums[4] = {};
      int64_t k = 0;
      for (; k + 3 < depth; k += 4, at += 4 * kWidth) {
        for (int j = 0; j < 4; ++j) sums[j] += term(load(at + j * kWidth));
      }
      for (; k < depth; ++k, at += kWidth) sums[0] += term(load(at));
      return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    };
    mean[n] = sum_of([](Vec v) { return v; }) / size;
    const Vec variance = sum_of([&](Vec v) { return (v - mean[n]) * (v - mean[n]); }) / size;
    for (int i = 0; i < kLanes; ++i) factor[n][i] = 1.0f / __builtin_sqrtf(variance[i] + epsilon);
  }
  for (int64_t k = 0; k < depth; ++k, x += kWidth) {
    for (int n = 0; n < 2; ++n) {
      const Vec v = (load(x + n * kLanes) - mean[n]) * (factor[n] * weight[k]);
      store(x + n * kLanes, function(v + bias[k]));
    }
  }
}

// Calls body(first, count, scratch) for the blocks of `tokens` tokens; those of a span are one
// thread's, one after the other.
template <class Body>
inline void for_token_blocks(int64_t tokens, int64_t scratch_floats, const Memory& memory,
                             const Parallel& parallel, const Body& body) {
  if (tokens == 0) return;
  for_blocks(ceil_div(tokens, kSpan), scratch_floats, memory, parallel,
             [&](int64_t span, float* scratch) {
               const int64_t end = min(tokens, (span + 1) * kSpan);
               for (int64_t first = span * kSpan; first < end; first += kWidth) {
                 body(first, min(kWidth, end - first), scratch);
               }
             });
}

}  // namespace i2f::I2F_TIER::token_lanes
