// Elementary functions of one tier's vectors. tests/primitives.cc asserts what is said of them
// here.
#pragma once

#include "kernels/simd.h"

namespace i2f::I2F_TIER {

typedef uint32_t VecUint __attribute__((vector_size(I2F_VECTOR_BYTES)));

constexpr double kLog2E = 0x1.71547652b82fep+0;  // exponents are often in units of ln 2

// e^x within 1.05 units in the last place where the result is a normal number below 2^127.5; 0
// below 2^-126.5, Inf above 2^127.5, NaN for NaN.
//
// x = n ln 2 + r, |r| <= ln(2) / 2, e^x = 2^n e^r. The polynomial for e^r has 1 + r fixed and is
// minimax in the relative error of the rest (3.1e-9).
inline Vec exp(Vec x) {
  const Vec kShift = broadcast(0x1.8p23f);  // adding it rounds to an integer, kept in the low bits
  x = x > broadcast(89.0f) ? broadcast(89.0f) : x;  // a NaN compares false and stays
  x = x < broadcast(-88.0f) ? broadcast(-88.0f) : x;
  const Vec shifted = x * broadcast(0x1.715476p+0f) + kShift;
  const Vec n = shifted - kShift;
  Vec r = x - n * broadcast(0x1.62e4p-1f);  // ln 2 in two parts; the first has zeros to spare
  r = r - n * broadcast(0x1.7f7d1cp-20f);
  Vec p = broadcast(0x1.6a2434p-10f);
  p = p * r + broadcast(0x1.1239e2p-7f);
  p = p * r + broadcast(0x1.5558f2p-5f);
  p = p * r + broadcast(0x1.555492p-3f);
  p = p * r + broadcast(0x1.fffffcp-2f);
  p = p * (r * r) + r + broadcast(1.0f);
  // 2^n by its exponent bits: n + 127 in 0..255, so that the ends are 0 and Inf.
  const VecUint exponent = ((VecUint)shifted - (VecUint)kShift + 127) << 23;
  return p * (Vec)exponent;
}

// Bounds that read floats as integers, where the compilers' vectors have a minimum; of floats it
// would be a comparison and a blend. `least` is negative: such floats ascend, read as unsigned,
// downwards. `most` is positive. A NaN may become either bound.
inline Vec clamp_min_bits(Vec x, float least) {
  const VecUint bits = (VecUint)x, bound = (VecUint)broadcast(least);
  return (Vec)(bits < bound ? bits : bound);
}
inline Vec clamp_max_bits(Vec x, float most) {
  const VecInt bits = (VecInt)x, bound = (VecInt)broadcast(most);
  return (Vec)(bits < bound ? bits : bound);
}

// How many vectors a function takes at once.
template <int M>
struct Count {};

// 2^x within a relative error of 2e-7 for -126 <= x < 128, exactly 1 for 0 and Inf for 128; of
// other x it is some number. The polynomial for the fraction has the constant 1 fixed and is
// minimax in the relative error (9.2e-8).
//
// Of several vectors the steps are taken by turns: each waits for the one before, and a processor
// looks only so far ahead.
template <int M>
inline __attribute__((always_inline)) void exp2_in_range(Vec* x, Count<M>) {
  const Vec kShift = broadcast(0x1.8p23f);  // adding it rounds to an integer, kept in the low bits
  constexpr float kFactors[] = {0x1.3cea84p-7f, 0x1.c6b754p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f,
                                1.0f};
  Vec shifted[M], p[M];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) shifted[i] = x[i] + kShift;
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) x[i] = x[i] - (shifted[i] - kShift);
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) p[i] = broadcast(0x1.5bb994p-10f);
#pragma GCC unroll 8
  for (int k = 0; k < 5; ++k) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) p[i] = p[i] * x[i] + broadcast(kFactors[k]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) x[i] = (Vec)((VecUint)p[i] + ((VecUint)shifted[i] << 23));
}
inline __attribute__((always_inline)) Vec exp2_in_range(Vec x) {
  exp2_in_range(&x, Count<1>());
  return x;
}

// 2^x within a relative error of 2e-7 for -126 <= x <= 0, about 2^-126 below, exactly 1 for 0. Of
// another x (NaN, positive) it is some number. No flush to 0: a result is used as a factor of what
// another result may undo.
inline Vec exp2_nonpositive(Vec x) { return exp2_in_range(clamp_min_bits(x, -126.0f)); }

// log(1 + e^x) within a relative error of 4e-7 where the result is a normal number, 0 below -88;
// NaN for NaN.
//
// It is max(x, 0) + log(1 + w), w = e^-|x|, and log(1 + w) = 2 artanh(s) with s = w / (2 + w) of at
// most 1/3: an odd polynomial in s, minimax in the relative error (4.6e-9).
inline Vec softplus(Vec x) {
  const Vec w = exp((Vec)((VecUint)x | 0x80000000u));  // of -|x|
  const Vec s = w / (broadcast(2.0f) + w);
  const Vec square = s * s;
  Vec p = broadcast(0x1.1ef872p-3f);
  p = p * square + broadcast(0x1.1eb612p-3f);
  p = p * square + broadcast(0x1.99d27cp-3f);
  p = p * square + broadcast(0x1.5555p-2f);
  const Vec twice = s + s;
  return (x > broadcast(0.0f) ? x : broadcast(0.0f)) + (twice + twice * (square * p));
}

// 1 / (1 + e^-x) within a relative error of 2.5e-7, 0 below -88.377; NaN for NaN.
inline Vec sigmoid(Vec x) { return broadcast(1.0f) / (broadcast(1.0f) + exp(-x)); }

// x / (1 + e^-x) within a relative error of 1.8e-7 (1 + max(0, -x)), 0 below -88.723 (-128 ln 2,
// where it is -2.6e-37); NaN for NaN and -Inf, as the formula has it.
inline __attribute__((always_inline)) Vec silu(Vec x) {
  const Vec power = clamp_max_bits(x * broadcast(-0x1.715476p+0f), 128.0f);  // log2 e
  return x / (broadcast(1.0f) + exp2_in_range(clamp_min_bits(power, -126.0f)));
}

// The exact (erf) GELU, x times the normal distribution's Phi(x), with an error of at most 2.1e-7
// |x|, or 3e-7 |x| where products and sums do not fuse; NaN for NaN and -Inf, as the formula has
// it. erf(x / sqrt(2)) / x is a quotient of polynomials in x^2, minimax in the absolute error of
// erf (1.5e-8) for |x| <= 5.5; beyond, Phi is 0 or 1 within 2e-8.
inline Vec gelu(Vec x) {
  const Vec square = x * x;
  Vec p = broadcast(0x1.85319cp-25f);
  p = p * square + broadcast(0x1.aa4590p-17f);
  p = p * square + broadcast(0x1.6399f2p-12f);
  p = p * square + broadcast(0x1.32d0d0p-7f);
  p = p * square + broadcast(0x1.15f514p-4f);
  p = p * square + broadcast(0x1.988450p-1f);
  Vec q = broadcast(0x1.40b450p-20f);
  q = q * square + broadcast(0x1.35c79ep-14f);
  q = q * square + broadcast(0x1.ef17cap-10f);
  q = q * square + broadcast(0x1.d60bd4p-6f);
  q = q * square + broadcast(0x1.01c202p-2f);
  q = q * square + broadcast(1.0f);
  Vec phi = broadcast(0.5f) * (x * p / q) + broadcast(0.5f);
  phi = x > broadcast(5.5f) ? broadcast(1.0f) : phi;
  phi = x < broadcast(-5.5f) ? broadcast(0.0f) : phi;
  return x * phi;
}

}  // namespace i2f::I2F_TIER
