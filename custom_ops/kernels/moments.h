// Mean and variance of many numbers, the same for any number of threads.
#pragma once

#include "kernels/gemm.h"
#include "kernels/memory.h"
#include "kernels/parallel.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {

constexpr int64_t kMomentsChunk = 8192;  // floats whose mean is taken at once, in the first cache
constexpr int64_t kMomentsTasks = 64;

struct Moments {
  double mean, squares;  // squares: sum of squared distances from the mean
  double count;

  void add(const Moments& other) {
    if (other.count == 0) return;
    const double step = other.mean - mean, share = other.count / (count + other.count);
    squares += other.squares + step * step * count * share;
    mean += step * share;
    count += other.count;
  }
  // Errs by half the squares' share and a rounding: less than 3.2e-7 of itself.
  float inverse_deviation(float epsilon) const {
    return static_cast<float>(1 / __builtin_sqrt(squares / count + epsilon));
  }
};

// Moments of the lanes of vectors that come one after the other, each lane from a number near its
// mean: its first.
struct LaneMoments {
  void add(Vec v) {
    if (vectors++ == 0) from = v;
    const Vec d = v - from;
    tile_sum += d;
    tile_squares += d * d;
  }
  // Ends a float32 sum: after some tens of vectors.
  void end_tile() {
    sum += tile_sum;
    squares += tile_squares;
    tile_sum = tile_squares = Vec{};
  }
  // Of the first `count` lanes together.
  Moments moments(int64_t count) const {
    const auto n = static_cast<double>(vectors);
    Moments all{};
    for (int i = 0; i < min(count, kLanes); ++i) {
      const double rest = sum[i] / n;
      all.add({from[i] + rest, squares[i] - n * rest * rest, n});
    }
    return all;
  }
  int64_t vectors = 0;
  Vec from{}, sum{}, squares{}, tile_sum{}, tile_squares{};
};

// Of x [count], 1 <= count <= kMomentsChunk. Distances are from a rounded mean; their own mean
// mends it: of numbers within 1 of a mean of up to 1000, the mean errs by less than 5e-8 and the
// squares by a share of less than 5e-7.
inline Moments moments_of(const float* x, int64_t count) {
  constexpr int kSums = 4;
  const int64_t whole = count / (kSums * kLanes) * (kSums * kLanes);
  const auto sum_up = [&](const auto& term) {
    Vec sums[kSums] = {};
    for (int64_t i = 0; i < whole; i += kSums * kLanes) {
      for (int j = 0; j < kSums; ++j) sums[j] += term(load(x + i + j * kLanes));
    }
    float sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int64_t i = whole; i < count; ++i) sum += term(broadcast(x[i]))[0];
    return sum;
  };
  const auto n = static_cast<double>(count);
  const float about = sum_up([](Vec v) { return v; }) / static_cast<float>(count);
  const Vec from = broadcast(about);
  const double rest = sum_up([&](Vec v) { return v - from; }) / n;
  return {about + rest, sum_up([&](Vec v) { return (v - from) * (v - from); }) - n * rest * rest,
          n};
}

// Of x [count], a chunk after the other.
inline Moments moments_of_chunks(const float* x, int64_t count) {
  Moments all{};
  for (int64_t i = 0; i < count; i += kMomentsChunk) {
    all.add(moments_of(x + i, min(kMomentsChunk, count - i)));
  }
  return all;
}

inline Moments sum_of(const Moments* parts, int64_t count) {
  Moments all{};
  for (int64_t i = 0; i < count; ++i) all.add(parts[i]);
  return all;
}

// Of x [count] by all threads, count >= 1. Static: what it hands to parallel_for is then this
// tier's alone.
static inline Moments moments_of_all(const float* x, int64_t count, const Memory& memory,
                                     const Parallel& parallel) {
  const int64_t chunks = ceil_div(count, kMomentsChunk);
  auto* parts = take<Moments>(memory, chunks);
  const int64_t tasks = min(chunks, kMomentsTasks);
  parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
    const auto i = static_cast<int64_t>(task);
    for (int64_t c = chunks * i / tasks; c < chunks * (i + 1) / tasks; ++c) {
      parts[c] = moments_of(x + c * kMomentsChunk, min(kMomentsChunk, count - c * kMomentsChunk));
    }
  });
  return sum_of(parts, chunks);
}

}  // namespace i2f::I2F_TIER
