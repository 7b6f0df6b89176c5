// LayerNorm of one row without its scale and shift, which the next product's weights hold.
#pragma once

#include "kernels/shuffle.h"
#include "kernels/simd.h"

namespace i2f::I2F_TIER {

// Sum of term(i), a vector, over i = 0, kLanes, ... below `end`: four sums, so that none waits for
// the one before.
template <class Term>
inline Vec sum_of_terms(int64_t end, const Term& term) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 3 * kLanes < end; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += term(i + j * kLanes);
  }
  for (; i < end; i += kLanes) sums[0] += term(i);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// What a row's numbers become: (x - mean) * scale.
struct RowNorm {
  float mean, scale;
};

// to = (x - mean) / sqrt(variance + epsilon) of `count` floats, count >= 1. Reads x [count]; `to`
// is whole vectors, and may be x. Of numbers within 1 of a mean of up to 3, a result errs by less
// than 1e-6. One function for all callers: their rows have the same bits.
inline __attribute__((noinline)) RowNorm normalise(const float* x, int64_t count, float epsilon,
                                                   float* to) {
  const int64_t whole = count / kLanes * kLanes;
  const int rest = static_cast<int>(count - whole);
  const float size = static_cast<float>(count);
  const Vec tail = load_partial(x + whole, rest);
  const Vec sum = sum_of_terms(whole, [=](int64_t i) { return load(x + i); }) + tail;
  const Vec mean = broadcast(sum_of_lanes(sum) / size);
  const auto square = [=](Vec v) { return (v - mean) * (v - mean); };
  Vec squares = sum_of_terms(whole, [=](int64_t i) { return square(load(x + i)); });
  const Vec last = square(tail);
  for (int j = 0; j < rest; ++j) squares[j] += last[j];
  const float variance = sum_of_lanes(squares) / size;
  const Vec scale = broadcast(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t i = 0; i < whole; i += kLanes) store(to + i, (load(x + i) - mean) * scale);
  if (rest > 0) store(to + whole, (tail - mean) * scale);
  return {mean[0], scale[0]};
}

}  // namespace i2f::I2F_TIER
