// Rotary position embedding of attention heads in two dimensions (OPERATORS.md, HybridAttention).
#pragma once

#include "kernels/attention.h"
#include "kernels/shuffle.h"
#include "kernels/simd.h"

namespace i2f::I2F_TIER {

constexpr double kPositionScale = 0.5;
constexpr double kTheta = 10000.0;

// The rotation of a head by each position: cosines, each twice, then sines, minus and plus in turn,
// so that out = x * cosines + (x with neighbours exchanged) * sines. head_width floats for both.
struct RotaryTable {
  float* table;        // [positions, head_width]
  int64_t head_width;  // a multiple of 4, at most kMaxHeadWidth

  // By repeated rotation in double precision: a sine and cosine a frequency, none a position. Each
  // is the float nearest to the true one, or as near but for 1e-9.
  void make(int64_t positions) const {
    const int64_t half = head_width / 2, frequencies = half / 2;
    double cosine[kMaxHeadWidth / 4], sine[kMaxHeadWidth / 4], step_cosine[kMaxHeadWidth / 4],
        step_sine[kMaxHeadWidth / 4];
    for (int64_t i = 0; i < frequencies; ++i) {
      const double angle =
          kPositionScale * __builtin_pow(kTheta, -static_cast<double>(i) / frequencies);
      cosine[i] = 1;
      sine[i] = 0;
      step_cosine[i] = __builtin_cos(angle);
      step_sine[i] = __builtin_sin(angle);
    }
    for (int64_t position = 0; position < positions; ++position) {
      float* cosines = table + position * head_width;
      float* sines = cosines + half;
      for (int64_t i = 0; i < frequencies; ++i) {
        cosines[2 * i] = cosines[2 * i + 1] = static_cast<float>(cosine[i]);
        sines[2 * i] = static_cast<float>(sine[i]);
        sines[2 * i + 1] = -sines[2 * i];
        const double next = cosine[i] * step_cosine[i] - sine[i] * step_sine[i];
        sine[i] = sine[i] * step_cosine[i] + cosine[i] * step_sine[i];
        cosine[i] = next;
      }
    }
  }

  // One head x -> y. Its first half rotates with the row, the second with the column.
  void rotate(const float* x, int64_t row, int64_t column, float* y) const {
    const int64_t half = head_width / 2;
    const int64_t positions[] = {row, column};
    for (const int64_t position : positions) {
      const float* cosines = table + position * head_width;
      const float* sines = cosines + half;
      int64_t c = 0;
      for (; c + kLanes <= half; c += kLanes) {
        store(y + c, rotated(load(x + c), load(cosines + c), load(sines + c)));
      }
      if (c < half) {
        const int n = static_cast<int>(half - c);
        store_partial(y + c,
                      rotated(load_partial(x + c, n), load_partial(cosines + c, n),
                              load_partial(sines + c, n)),
                      n);
      }
      x += half;
      y += half;
    }
  }

 private:
  static Vec rotated(Vec x, Vec cosines, Vec sines) {
    return x * cosines + flip_lanes<1>(x) * sines;
  }
};

}  // namespace i2f::I2F_TIER
