// What both kernels of local upsampling share: that of many channels (upsample_many_channels.cc)
// and that of few (upsample_few_channels.cc).
#pragma once

#include "kernels/gemm.h"
#include "kernels/local_upsample.h"
#include "kernels/math.h"
#include "kernels/moments.h"

namespace i2f::I2F_TIER {

constexpr int kTaps = 9;    // of the convolution, row by row
constexpr int kCentre = 4;  // the tap that never leaves the crop: it carries the bias
constexpr int kReach = 2;   // low-resolution pixels that a pixel of the result sees each way

// Bicubic x2 with A = -0.75: an odd pixel 2j+1 is a sum over j-1..j+2 with these weights, an even
// one 2j over j-2..j+1 with them reversed. They are exact in float32 and sum to one.
constexpr float kCubic[4] = {-0.10546875f, 0.87890625f, 0.26171875f, -0.03515625f};

// Two neighbouring pixels of the result, or parts of them.
struct Pair {
  Vec first, second;
};

// A stage at work: its input at low resolution, normed as (x - mean) * scale + shift.
struct UpsampleStage {
  const float* x;
  int64_t rows, columns, in, out;  // of the crop at low resolution, and channels
  float mean;
  const float *scale, *shift;  // [period]: as many pixels side by side as make whole vectors
  int64_t period;

  // Floats of x to what is fetched early: the hardware does not foresee so many short runs.
  int64_t ahead() const { return columns * in; }
};

// Numbers of a norm's parameters, as UpsampleStage has them.
inline int64_t norm_period(int64_t in) { return in % kLanes == 0 ? in : in * kLanes; }

// Writes the norm's parameters in front of what else is packed, and gives back where that begins.
inline float* pack_norm(const UpsampleWeights& weights, float* packed) {
  const int64_t period = norm_period(weights.in_channels);
  for (int64_t i = 0; i < period; ++i) {
    packed[i] = weights.norm_weight[i % weights.in_channels];
    packed[period + i] = weights.norm_bias[i % weights.in_channels];
  }
  return packed + 2 * period;
}

// A stage with its norm: `packed` begins as pack_norm() wrote it, `scale` is memory for the scales.
inline UpsampleStage normed_stage(const float* x, int64_t rows, int64_t columns, int64_t in,
                                  int64_t out, const float* packed, float epsilon, float* scale,
                                  const Memory& memory, const Parallel& parallel) {
  const Moments moments = moments_of_all(x, rows * columns * in, memory, parallel);
  const float inverse = moments.inverse_deviation(epsilon);
  const int64_t period = norm_period(in);
  for (int64_t i = 0; i < period; ++i) scale[i] = packed[i] * inverse;
  return {x,     rows, columns, in, out, static_cast<float>(moments.mean), scale, packed + period,
          period};
}

// From a sum of taps and its share of the edge features to the result.
struct Finish {
  bool activate;
  int64_t e_ahead, to_ahead;  // floats to the same place two rows on, which is fetched

  inline __attribute__((always_inline)) Vec operator()(Vec sum, Vec e) const {
    return activate ? silu(sum + e) : sum + e;
  }
  // kLanes elements.
  inline __attribute__((always_inline)) void wholly(float* to, Vec sum, const float* e) const {
    __builtin_prefetch(e + e_ahead);
    __builtin_prefetch(to + to_ahead, 1);
    store(to, (*this)(sum, load(e)));
  }
  // Up to kLanes elements.
  __attribute__((noinline)) void partly(float* to, Vec sum, const float* e, int64_t count) const {
    const int n = static_cast<int>(max(0, min(count, kLanes)));
    store_partial(to, (*this)(sum, load_partial(e, n)), n);
  }
};

// A row of the result from low-resolution column `begin` on, `count` floats: its edge features
// without what the crop's upper or lower border takes away from them.
struct ResultRow {
  ResultRow(const UpsampleStage& stage, const EdgeFeatures& crop, int64_t row, int64_t begin,
            int64_t count, float* memory)
      : edge_features(&crop),
        number(row),
        channels(stage.out),
        top(row == 0),
        bottom(row == 2 * stage.rows - 1) {
    e = crop.inside + row * crop.stride + 2 * begin * stage.out;
    if (!top && !bottom) return;
    const float* border = (top ? crop.above : crop.below) + 2 * begin * stage.out;
    for (int64_t i = 0; i < count; ++i) memory[i] = e[i] - border[i];
    e = memory;
  }

  // Channels [c, c + count) of the edge features of the crop's first or last pixel of the row, of
  // which `own` are what the row has of them.
  Vec at_end(bool first, const float* own, int64_t c, int count) const {
    const float* border =
        (first ? edge_features->left : edge_features->right) + number * channels + c;
    const Vec inside = load_partial(own, count) - load_partial(border, count);
    if (!top && !bottom) return inside;
    const float* corner = edge_features->corner[(top ? 0 : 2) + (first ? 0 : 1)] + c;
    return inside + load_partial(corner, count);
  }

  const EdgeFeatures* edge_features;
  int64_t number, channels;
  bool top, bottom;
  const float* e;
};

// Few output channels: a part of a vector.
constexpr bool few_channels(int64_t out) { return out < kLanes && (out & (out - 1)) == 0; }

// Floats of the packed convolution, its packing, and the stage itself.
size_t packed_few_channels_size(int64_t in, int64_t out);
size_t packed_many_channels_size(int64_t in, int64_t out);
void pack_few_channels(const UpsampleWeights& weights, float* packed);
void pack_many_channels(const UpsampleWeights& weights, float* packed);
void upsample_few_channels(const UpsampleStage& stage, const EdgeFeatures& edge_features,
                           const float* packed, bool activate, float* y, const Memory& memory,
                           const Parallel& parallel);
void upsample_many_channels(const UpsampleStage& stage, const EdgeFeatures& edge_features,
                            const float* packed, bool activate, float* y, const Memory& memory,
                            const Parallel& parallel);

}  // namespace i2f::I2F_TIER
