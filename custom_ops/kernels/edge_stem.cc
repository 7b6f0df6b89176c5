// The first convolution of the edge network. Pixels are in the lanes while the planes are summed
// up, and channels beside each other in the result. A block is a band of rows; of each plane three
// rows, divided by the plane's norm, lie in a ring with zeros around them.

#include "kernels/edge_stem.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int64_t kBand = 32;     // rows of a block
constexpr int64_t kChunk = 4096;  // squares that are summed in float32
constexpr double kMin = 1e-12;    // a plane's norm counts as
constexpr int kGroup = 4;         // channels summed together
constexpr int kWide = 2;          // vectors of pixels summed together

double sum_of_squares(const float* x, int64_t count) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = min(count, begin + kChunk);
    Vec sums[4] = {};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      for (int k = 0; k < 4; ++k) {
        const Vec v = load(x + i + k * kLanes);
        sums[k] += v * v;
      }
    }
    float sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < end; ++i) sum += x[i] * x[i];
    total += sum;
  }
  return total;
}

struct Stem {
  const float* maps;
  int64_t planes, rows, columns;
  const float *weight, *bias;
  int64_t channels;
  const float* norms;
  float* y;

  int64_t row_floats() const { return ceil_div(columns, kWide * kLanes) * kWide * kLanes + kLanes; }
  int64_t scratch_floats() const { return 3 * planes * row_floats() + channels * kWide * kLanes; }

  void run(int64_t block, float* scratch) const {
    const int64_t begin = block * kBand, end = min(rows, begin + kBand);
    const int64_t stride = planes * row_floats();
    const auto held = [&](int64_t r) { return scratch + (r + 3) % 3 * stride; };
    for (int64_t r = begin - 1; r <= end; ++r) {
      for (int64_t p = 0; p < planes; ++p) divide(p, r, held(r) + p * row_floats());
      if (r > begin) finish_row(r - 1, {held(r - 2), held(r - 1), held(r)}, scratch + 3 * stride);
    }
  }

  // A row of a plane behind one zero and before more of them.
  void divide(int64_t plane, int64_t row, float* to) const {
    const int64_t width = row_floats();
    if (row < 0 || row >= rows) {
      for (int64_t i = 0; i < width; ++i) to[i] = 0;
      return;
    }
    const float norm = norms[plane];
    const float* from = maps + (plane * rows + row) * columns;
    to[0] = 0;
    for (int64_t i = 0; i < columns; ++i) to[1 + i] = from[i] / norm;
    for (int64_t i = 1 + columns; i < width; ++i) to[i] = 0;
  }

  struct Rows {
    const float* at[3];
  };
  void finish_row(int64_t row, const Rows& held, float* results) const {
    for (int64_t i = 0; i < columns; i += kWide * kLanes) {
      for (int64_t c = 0; c < channels; c += kGroup) convolve(held, i, c, results);
      const int64_t count = min(kWide * kLanes, columns - i);
      float* to = y + (row * columns + i) * channels;
      if (channels == kGroup && count == kWide * kLanes) {
        for (int n = 0; n < kWide; ++n) interleave(results + n * kLanes, to + n * kGroup * kLanes);
        continue;
      }
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t c = 0; c < channels; ++c)
          to[p * channels + c] = results[c * kWide * kLanes + p];
      }
    }
  }

  // Channels [channel, channel + kGroup) of kWide vectors of pixels.
  void convolve(const Rows& held, int64_t first, int64_t channel, float* results) const {
    const int64_t count = min(kGroup, channels - channel);
    Vec sums[kGroup][kWide];
    const float* w[kGroup];
#pragma GCC unroll 4
    for (int c = 0; c < kGroup; ++c) {
      const int64_t own = channel + min(c, count - 1);
      w[c] = weight + own * planes * 9;
      for (int n = 0; n < kWide; ++n) sums[c][n] = broadcast(bias[own]);
    }
    for (int64_t p = 0; p < planes; ++p) {
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; ++tap) {
        const float* at = held.at[tap / 3] + p * row_floats() + first + tap % 3;
        Vec v[kWide];
        for (int n = 0; n < kWide; ++n) v[n] = load(at + n * kLanes);
#pragma GCC unroll 4
        for (int c = 0; c < kGroup; ++c) {
          const Vec x = broadcast(w[c][p * 9 + tap]);
          for (int n = 0; n < kWide; ++n) sums[c][n] += v[n] * x;
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kGroup; ++c) {
      if (c >= count) break;
      for (int n = 0; n < kWide; ++n) {
        store(results + ((channel + c) * kWide + n) * kLanes, sums[c][n]);
      }
    }
  }

  // kGroup vectors, one a channel -> their pixels one after the other.
  static void interleave(const float* from, float* to) {
    const auto channel = [&](int c) { return load(from + c * kWide * kLanes); };
    const Vec low[2] = {zip_low<1>(channel(0), channel(2)), zip_low<1>(channel(1), channel(3))};
    const Vec high[2] = {zip_high<1>(channel(0), channel(2)), zip_high<1>(channel(1), channel(3))};
    store(to, zip_low<1>(low[0], low[1]));
    store(to + kLanes, zip_high<1>(low[0], low[1]));
    store(to + 2 * kLanes, zip_low<1>(high[0], high[1]));
    store(to + 3 * kLanes, zip_high<1>(high[0], high[1]));
  }
};

}  // namespace

void edge_stem(const float* maps, int64_t planes, int64_t rows, int64_t columns,
               const float* weight, const float* bias, int64_t channels, float* y,
               const Memory& memory, const Parallel& parallel) {
  const int64_t bands = ceil_div(rows, kBand);
  double* squares = take<double>(memory, planes * bands);
  parallel_for(parallel, static_cast<size_t>(bands), [&](size_t task) {
    const auto band = static_cast<int64_t>(task);
    const int64_t begin = band * kBand, count = min(kBand, rows - begin) * columns;
    for (int64_t p = 0; p < planes; ++p) {
      squares[p * bands + band] = sum_of_squares(maps + (p * rows + begin) * columns, count);
    }
  });
  float* norms = take<float>(memory, planes);
  for (int64_t p = 0; p < planes; ++p) {
    double sum = 0;
    for (int64_t b = 0; b < bands; ++b) sum += squares[p * bands + b];
    const double norm = __builtin_sqrt(sum);
    norms[p] = static_cast<float>(norm < kMin ? kMin : norm);  // a NaN stays
  }
  const Stem stem{maps, planes, rows, columns, weight, bias, channels, norms, y};
  for_blocks(bands, stem.scratch_floats(), memory, parallel,
             [&](int64_t block, float* scratch) { stem.run(block, scratch); });
}

}  // namespace i2f::I2F_TIER
