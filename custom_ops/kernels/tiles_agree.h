// Whether tiles compute what kernels/tile_model.h says.
#pragma once

#include "kernels/tile_model.h"

namespace i2f::I2F_TIER {

// Words for tiles, a generator's: any bytes, or bfloat16 numbers of 2^-3 to 2^5 and either sign,
// whose sums round.
class TileWords {
 public:
  explicit TileWords(uint32_t seed) : state_(seed) {}
  uint32_t bytes() {
    const uint32_t high = next();
    return high << 16 | next();
  }
  uint32_t bfloat16() {
    const uint32_t high = number();
    return high << 16 | number();
  }
  // A float32 to which products of such numbers are added.
  uint32_t float32() { return number() << 16 | next(); }

 private:
  uint32_t next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 16;
  }
  uint32_t number() {
    const uint32_t bits = next();  // a sign, three bits of the exponent, seven of the fraction
    return (bits & 0x807f) | (124 + (bits >> 7 & 7)) << 7;
  }
  uint32_t state_;
};

// Computes some products with `T`, and with the model of it. All eight tiles take part, each as
// sums and as factors, with rows that lie apart in memory.
template <class T>
bool tiles_agree(uint32_t seed) {
  constexpr int64_t kStride = 19, kWords = 16 * kStride;
  TileWords words(seed);
  uint32_t bytes[3][kWords], numbers[3][kWords];
  for (int64_t i = 0; i < kWords; ++i) {
    for (auto& of_tile : bytes) of_tile[i] = words.bytes();
    for (auto& of_tile : numbers) of_tile[i] = words.bfloat16();
    numbers[0][i] = words.float32();
  }
  // The first row of x is subnormal, and meets large numbers in the first column of w; products of
  // the second row and column are. Nothing is so near 2^-126 that it would matter when it rounds.
  const auto with_exponent = [](uint32_t word, uint32_t exponent) {
    return (word & 0x807f807f) | exponent << 23 | exponent << 7;
  };
  for (int64_t k = 0; k < 16; ++k) {
    uint32_t* of_x = numbers[1] + k;
    uint32_t* of_w = numbers[2] + k * kStride;
    of_x[0] = with_exponent(of_x[0], 0);
    of_w[0] = with_exponent(of_w[0], 227);             // 2^100
    of_x[kStride] = with_exponent(of_x[kStride], 27);  // 2^-100
    of_w[1] = with_exponent(of_w[1], 97);              // 2^-30
  }
  const auto products = [&](auto& tiles, uint32_t* to) {
    tiles.template load<0>(bytes[0], kStride);
    tiles.template load<1>(bytes[1], kStride);
    tiles.template load<2>(bytes[2], kStride);
    tiles.template zero<3>();
    tiles.template add_bytes<0, 1, 2>();
    tiles.template add_bytes<0, 2, 1>();
    tiles.template add_bytes<3, 2, 1>();
    tiles.template load<4>(numbers[0], kStride);
    tiles.template load<5>(numbers[1], kStride);
    tiles.template load<6>(numbers[2], kStride);
    tiles.template zero<7>();
    tiles.template add_bfloat16<4, 5, 6>();
    tiles.template add_bfloat16<7, 5, 6>();
    tiles.template store<0>(to, kStride);
    tiles.template store<3>(to + kWords, kStride);
    tiles.template store<4>(to + 2 * kWords, kStride);
    tiles.template store<7>(to + 3 * kWords, kStride);
    // The other tiles as sums, and these as factors.
    tiles.template load<0>(bytes[1], kStride);
    tiles.template load<3>(bytes[2], kStride);
    tiles.template add_bytes<1, 3, 0>();
    tiles.template add_bytes<2, 0, 3>();
    tiles.template load<4>(numbers[2], kStride);
    tiles.template load<7>(numbers[1], kStride);
    tiles.template load<5>(numbers[0], kStride);
    tiles.template zero<6>();
    tiles.template add_bfloat16<5, 4, 7>();
    tiles.template add_bfloat16<6, 7, 4>();
    tiles.template store<1>(to + 4 * kWords, kStride);
    tiles.template store<2>(to + 5 * kWords, kStride);
    tiles.template store<5>(to + 6 * kWords, kStride);
    tiles.template store<6>(to + 7 * kWords, kStride);
  };
  uint32_t computed[8 * kWords] = {}, expected[8 * kWords] = {};
  {
    T tiles;
    products(tiles, computed);
  }
  TileModel model;
  products(model, expected);
  return __builtin_memcmp(computed, expected, sizeof computed) == 0;
}

}  // namespace i2f::I2F_TIER
