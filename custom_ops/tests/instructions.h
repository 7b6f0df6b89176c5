// Models of the instructions that kernels/dot.h names, for test builds on machines that lack them
// (CMake's I2F_EMULATE). Written from the architecture's description, not from the kernels: a
// kernel that packs its factors in another order than the instruction reads them fails its tests.
// CMake defines I2F_EMULATED_<feature> for each feature of a tier.
#pragma once

#include "kernels/simd.h"

#if defined(I2F_EMULATED_avx512vnni) || defined(I2F_EMULATED_avxvnni)
#define I2F_BYTE_DOTS
#else
#define I2F_BYTE_PAIRS
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

inline VecInt saturated(VecInt x) {
  x = x > 32767 ? x * 0 + 32767 : x;
  return x < -32768 ? x * 0 - 32768 : x;
}

// VPMADDUBSW, which saturates the sum of two products of unsigned bytes of x and signed ones of w
// to 16 bits, then VPMADDWD by ones and VPADDD.
inline VecInt dot_byte_pairs(VecInt sums, VecWord x, VecWord w) {
  VecInt products[4];
  for (int byte = 0; byte < 4; ++byte) {
    products[byte] = (VecInt)(x >> (8 * byte) & 255) * ((VecInt)(w << (24 - 8 * byte)) >> 24);
  }
  const VecInt low = saturated(products[0] + products[1]);
  const VecInt high = saturated(products[2] + products[3]);
  return (VecInt)((VecWord)sums + (VecWord)low + (VecWord)high);
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
