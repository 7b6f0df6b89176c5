// A model in plain C++ of the matrix unit that kernels/tiles.h names, written from the operations
// that Intel's manual prints for TDPBUSD and TDPBF16PS. Test builds compute with it on machines
// that lack the unit; on machines that have one, the unit must agree with it bit by bit before a
// kernel may use it (kernels/tiles_agree.h).
#pragma once

#include "kernels/simd.h"

namespace i2f::I2F_TIER {

class TileModel {
 public:
  TileModel() = default;
  TileModel(const TileModel&) = delete;
  TileModel& operator=(const TileModel&) = delete;

  template <int kTile>
  void zero() {
    for (auto& row : tiles_[kTile]) {
      for (uint32_t& word : row) word = 0;
    }
  }
  template <int kTile>
  void load(const uint32_t* from, int64_t stride) {
    for (int64_t m = 0; m < kSize; ++m) {
      for (int64_t n = 0; n < kSize; ++n) tiles_[kTile][m][n] = from[m * stride + n];
    }
  }
  template <int kTile>
  void load_once(const uint32_t* from, int64_t stride) {
    load<kTile>(from, stride);
  }
  template <int kTile>
  void store(uint32_t* to, int64_t stride) {
    for (int64_t m = 0; m < kSize; ++m) {
      for (int64_t n = 0; n < kSize; ++n) to[m * stride + n] = tiles_[kTile][m][n];
    }
  }

  template <int kSums, int kX, int kW>
  void add_bytes() {
    for (int m = 0; m < kSize; ++m) {
      for (int k = 0; k < kSize; ++k) {
        for (int n = 0; n < kSize; ++n) {
          for (int byte = 0; byte < 4; ++byte) {
            const uint32_t of_x = tiles_[kX][m][k] >> (8 * byte) & 255;
            const auto of_w = static_cast<int8_t>(tiles_[kW][k][n] >> (8 * byte) & 255);
            tiles_[kSums][m][n] += of_x * static_cast<uint32_t>(of_w);
          }
        }
      }
    }
  }

  template <int kSums, int kX, int kW>
  void add_bfloat16() {
    for (int m = 0; m < kSize; ++m) {
      float even[kSize] = {}, odd[kSize] = {};
      for (int k = 0; k < kSize; ++k) {
        const uint32_t x = tiles_[kX][m][k];
        for (int n = 0; n < kSize; ++n) {
          const uint32_t w = tiles_[kW][k][n];
          even[n] = flushed(__builtin_fmaf(number(x << 16), number(w << 16), even[n]));
          odd[n] = flushed(__builtin_fmaf(number(x & kHigh), number(w & kHigh), odd[n]));
        }
      }
      for (int n = 0; n < kSize; ++n) {
        uint32_t& sum = tiles_[kSums][m][n];
        const float total = flushed(number(sum) + flushed(even[n] + odd[n]));
        __builtin_memcpy(&sum, &total, sizeof total);
      }
    }
  }

 private:
  static constexpr int kSize = 16;
  static constexpr uint32_t kHigh = 0xffff0000;

  // The number of these bits; below 2^-126 it is 0 of its sign.
  static float number(uint32_t bits) {
    if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
  }
  static float flushed(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return number(bits);
  }

  uint32_t tiles_[8][kSize][kSize] = {};
};

}  // namespace i2f::I2F_TIER
