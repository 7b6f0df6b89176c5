// Models of the instructions that kernels/dot.h names, for test builds on machines that lack them
// (CMake's I2F_EMULATE). Written from the architecture's description, not from the kernels: a
// kernel that packs its factors in another order than the instruction reads them fails its tests.
// CMake defines I2F_EMULATED_<feature> for each feature of a tier.
#pragma once

#include "kernels/simd.h"

#define I2F_WORD_DOTS
#ifdef I2F_EMULATED_avx512vnni
#define I2F_BYTE_DOTS
#endif
#ifdef I2F_EMULATED_avx512bf16
#define I2F_BFLOAT16_DOTS
#endif

namespace i2f::I2F_TIER {

// VPDPBUSD: byte i of x is unsigned, byte i of w signed; the four products and the sum are added
// without saturation.
inline VecInt dot_bytes(VecInt sums, VecWord x, VecWord w) {
  VecWord total = (VecWord)sums;
  for (int byte = 0; byte < 4; ++byte) {
    const VecWord of_x = x >> (8 * byte) & 255;
    const VecInt of_w = (VecInt)(w << (24 - 8 * byte)) >> 24;
    total += of_x * (VecWord)of_w;
  }
  return (VecInt)total;
}

// VPMADDWD, then VPADDD.
inline VecInt dot_words(VecInt sums, VecWord x, VecWord w) {
  const VecInt x_low = (VecInt)(x << 16) >> 16, x_high = (VecInt)x >> 16;
  const VecInt w_low = (VecInt)(w << 16) >> 16, w_high = (VecInt)w >> 16;
  return (VecInt)((VecWord)sums + (VecWord)(x_low * w_low) + (VecWord)(x_high * w_high));
}

// Numbers below 2^-126 as 0 of their sign.
inline Vec without_subnormals(Vec x) {
  const VecInt bits = (VecInt)x;
  const VecInt is_subnormal = (bits & 0x7f800000) == 0;
  return (Vec)(is_subnormal ? bits & INT32_MIN : bits);
}

// VDPBF16PS: the products of the odd numbers and then of the even ones join the sum, each rounded
// to the nearest even; subnormal operands and results are 0.
inline Vec dot_bfloat16(Vec sums, VecWord x, VecWord w) {
  const Vec x_even = without_subnormals((Vec)(x << 16)),
            w_even = without_subnormals((Vec)(w << 16));
  const Vec x_odd = without_subnormals((Vec)(x & 0xffff0000)),
            w_odd = without_subnormals((Vec)(w & 0xffff0000));
  sums = without_subnormals(without_subnormals(sums) + x_odd * w_odd);
  return without_subnormals(sums + x_even * w_even);
}

}  // namespace i2f::I2F_TIER
