// The Canny maps in one pass over the picture. A block is a band of rows; what a row of the maps
// needs lies in rings of rows: the blurred planes, first along the rows only, the gradient's
// magnitude and direction.
//
// The maps magnify a last bit (docs/MODEL.md, section 4), so every rounding is spelled out: this
// file is compiled without contraction, and `fused` stands where a convolution's sum rounds once.

#include "kernels/canny_maps.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int64_t kBand = 64;   // rows of a block
constexpr int64_t kFrame = 16;  // zeros at either side of a row
constexpr int kPlanes = 3;
constexpr int kBlurRing = 8, kRing = 4;  // rows, powers of two
constexpr float kThreshold = 2.0f;
constexpr float kTan22 = 0.41421356237309503f,
                kTan67 = 2.414213562373095f;  // of 22.5, 67.5 degrees

inline float fused(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// ---- Rows. Functions of their own: what their arguments promise lets a compiler vectorise them.

// Adds the gradient of a plane at n pixels, from its rows above, at and below them.
void add_gradient(const float* __restrict a, const float* __restrict b, const float* __restrict c,
                  int64_t n, float* __restrict magnitude, float* __restrict sum_x,
                  float* __restrict sum_y) {
  for (int64_t i = 0; i < n; ++i) {
    float x = a[i - 1] - a[i + 1];
    x = x + 2 * b[i - 1];
    x = x - 2 * b[i + 1];
    x = x + c[i - 1];
    x = x - c[i + 1];
    float y = a[i - 1] + 2 * a[i];
    y = y + a[i + 1];
    y = y - c[i - 1];
    y = y - 2 * c[i];
    y = y - c[i + 1];
    const float length = __builtin_sqrtf(x * x + y * y);
    magnitude[i] = magnitude[i] + length;
    sum_x[i] += x;
    sum_y[i] += y;
  }
}

// The five maps at n pixels, from the magnitudes above, at and below them.
void decide(const float* __restrict above, const float* __restrict here,
            const float* __restrict below, const float* __restrict direction, int64_t n,
            float* __restrict magnitudes, float* __restrict directions, float* __restrict thinned,
            float* __restrict thresholded, float* __restrict early) {
  for (int64_t i = 0; i < n; ++i) {
    const float m = here[i], d = direction[i];
    // Whether m exceeds both neighbours along each axis.
    const int level = (m - here[i + 1] > 0) & (m - here[i - 1] > 0);
    const int falling = (m - below[i + 1] > 0) & (m - above[i - 1] > 0);
    const int steep = (m - below[i] > 0) & (m - above[i] > 0);
    const int rising = (m - below[i - 1] > 0) & (m - above[i + 1] > 0);
    const float axis = d >= 180 ? d - 180 : d;  // 0..180, both ends level
    const int largest = axis == 45 ? falling : axis == 90 ? steep : axis == 135 ? rising : level;
    const float t = largest != 0 ? m : 0;
    magnitudes[i] = m;
    directions[i] = d;
    thinned[i] = t;
    thresholded[i] = t >= kThreshold ? t : 0;
    early[i] = m >= kThreshold ? m : 0;
  }
}

struct Bands {
  const float* image;
  int64_t rows, columns;
  const float *mean, *std, *blur_row, *blur_column;
  float* maps;

  int64_t stride() const { return ceil_div(columns, 16) * 16 + 2 * kFrame; }
  int64_t scratch_floats() const {
    return stride() * (kPlanes * (1 + kBlurRing + kRing) + 2 + 2 * kRing);
  }

  // Where rows lie on a scratch; all are framed by zeros.
  struct Scratch {
    float* picture(int plane) const { return base + plane * stride; }
    float* smeared(int64_t row, int plane) const {  // blurred along the rows
      return base + (kPlanes + (row + kBlurRing) % kBlurRing * kPlanes + plane) * stride;
    }
    float* blurred(int64_t row, int plane) const {
      return base + (kPlanes * (1 + kBlurRing) + (row + kRing) % kRing * kPlanes + plane) * stride;
    }
    float* magnitude(int64_t row) const { return behind(0, row); }
    float* direction(int64_t row) const { return behind(1, row); }
    float* sum(int axis) const {
      return base + (kPlanes * (1 + kBlurRing + kRing) + 2 * kRing + axis) * stride;
    }
    float* behind(int which, int64_t row) const {
      const int64_t first = kPlanes * (1 + kBlurRing + kRing) + which * kRing;
      return base + (first + (row + kRing) % kRing) * stride;
    }
    float* base;
    int64_t stride;
  };

  void run(int64_t block, float* memory) const {
    const int64_t begin = block * kBand, end = min(rows, begin + kBand);
    for (int64_t i = 0; i < scratch_floats(); ++i) memory[i] = 0;
    const Scratch scratch{memory + kFrame, stride()};
    for (int64_t r = begin - 4; r < end + 4; ++r) {  // each step waits for the rows that it needs
      smear(r, scratch);
      if (r >= begin) blur_down(r - 2, scratch);
      if (r >= begin + 2) differentiate(r - 3, scratch);
      if (r >= begin + 4) thin(r - 4, scratch);
    }
  }

  bool outside(int64_t row) const { return row < 0 || row >= rows; }
  void clear(float* row) const {
    for (int64_t i = 0; i < columns; ++i) row[i] = 0;
  }

  // A row of the picture in [0, 1], as the network sees it, blurred along the row.
  void smear(int64_t row, const Scratch& scratch) const {
    const Blur blur(blur_row);
    for (int plane = 0; plane < kPlanes; ++plane) {
      float* __restrict to = scratch.smeared(row, plane);
      if (outside(row)) {
        clear(to);
        continue;
      }
      float* __restrict picture = scratch.picture(plane);
      const float* from = image + row * columns * kPlanes + (kPlanes - 1 - plane);
      const float m = mean[plane], s = std[plane];
      for (int64_t i = 0; i < columns; ++i) {
        const float normalized = (from[i * kPlanes] - m) / s;
        const float value = (normalized * s + m) / 255;
        picture[i] = value < 0 ? 0 : value > 1 ? 1 : value;
      }
      for (int64_t i = 0; i < columns; ++i) {
        to[i] = blur(picture[i - 2], picture[i - 1], picture[i], picture[i + 1], picture[i + 2]);
      }
    }
  }

  // A sum of five as a convolution rounds it.
  struct Blur {
    explicit Blur(const float* w) : w{w[0], w[1], w[2], w[3], w[4]} {}
    inline float operator()(float a, float b, float c, float d, float e) const {
      return fused(w[4], e, fused(w[3], d, fused(w[2], c, fused(w[1], b, w[0] * a))));
    }
    float w[5];
  };

  void blur_down(int64_t row, const Scratch& scratch) const {
    const Blur blur(blur_column);
    for (int plane = 0; plane < kPlanes; ++plane) {
      float* __restrict to = scratch.blurred(row, plane);
      if (outside(row)) {
        clear(to);
        continue;
      }
      const float* from[5];
      for (int k = 0; k < 5; ++k) from[k] = scratch.smeared(row + k - 2, plane);
      for (int64_t i = 0; i < columns; ++i) {
        to[i] = blur(from[0][i], from[1][i], from[2][i], from[3][i], from[4][i]);
      }
    }
  }

  void differentiate(int64_t row, const Scratch& scratch) const {
    float* __restrict magnitude = scratch.magnitude(row);
    float* __restrict direction = scratch.direction(row);
    if (outside(row)) return clear(magnitude);
    float* __restrict sum_x = scratch.sum(0);
    float* __restrict sum_y = scratch.sum(1);
    clear(magnitude);
    clear(sum_x);
    clear(sum_y);
    for (int plane = 0; plane < kPlanes; ++plane) {
      const float* a = scratch.blurred(row - 1, plane);
      const float* b = scratch.blurred(row, plane);
      const float* c = scratch.blurred(row + 1, plane);
      add_gradient(a, b, c, columns, magnitude, sum_x, sum_y);
    }
    for (int64_t i = 0; i < columns; ++i) {
      const float x = sum_x[i], y = sum_y[i];
      const float width = x < 0 ? -x : x, height = y < 0 ? -y : y;
      float octant =
          (height > kTan22 * width ? 1.0f : 0.0f) + (height > kTan67 * width ? 1.0f : 0.0f);
      octant = x < 0 ? 4 - octant : octant;
      direction[i] = 45 * (y < 0 ? 4 - octant : 4 + octant);
    }
  }

  // Non-maximum suppression and thresholds: the five maps.
  void thin(int64_t row, const Scratch& scratch) const {
    const float* above = scratch.magnitude(row - 1);
    const float* here = scratch.magnitude(row);
    const float* below = scratch.magnitude(row + 1);
    const float* direction = scratch.direction(row);
    float* to[5];
    for (int i = 0; i < 5; ++i) to[i] = maps + (i * rows + row) * columns;
    decide(above, here, below, direction, columns, to[0], to[1], to[2], to[3], to[4]);
  }
};

}  // namespace

void canny_maps(const float* image, int64_t rows, int64_t columns, const float* mean,
                const float* std, const float* blur_row, const float* blur_column, float* maps,
                const Memory& memory, const Parallel& parallel) {
  const Bands bands{image, rows, columns, mean, std, blur_row, blur_column, maps};
  for_blocks(ceil_div(rows, kBand), bands.scratch_floats(), memory, parallel,
             [&](int64_t block, float* scratch) { bands.run(block, scratch); });
}

}  // namespace i2f::I2F_TIER
