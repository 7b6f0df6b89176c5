// Dot products of int8 and bfloat16 numbers: a lane of 32 bits holds kDepth factors.
// The one header that names instructions, for what the compilers' vector extension cannot say;
// without them the factors are as wide as the sums, and results are the same.
#pragma once

#include "kernels/simd.h"
#if defined(__SSE2__) && !defined(I2F_EMULATED)
#include <immintrin.h>  // all of it is always inlined: nothing for the linker to merge
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace i2f::I2F_TIER {

typedef uint32_t VecWord __attribute__((vector_size(I2F_VECTOR_BYTES)));  // factors of each lane
typedef uint32_t UnalignedVecWord
    __attribute__((vector_size(I2F_VECTOR_BYTES), aligned(4), may_alias));

inline VecWord load(const uint32_t* p) { return *reinterpret_cast<const UnalignedVecWord*>(p); }
inline void store(uint32_t* p, VecWord v) { *reinterpret_cast<UnalignedVecWord*>(p) = v; }

// Stores a vector past the caches, where the tier can; p is aligned. What reads it elsewhere waits
// for end_of_stream.
inline void stream(float* p, Vec v) {
#if defined(__AVX512F__) && !defined(I2F_EMULATED)
  _mm512_stream_ps(p, (__m512)v);
#else
  store(p, v);
#endif
}
inline void end_of_stream() {
#if defined(__AVX512F__) && !defined(I2F_EMULATED)
  _mm_sfence();
#endif
}

// Words as pairs of numbers of 16 bits, the first in the lower half.
typedef uint16_t VecHalves __attribute__((vector_size(I2F_VECTOR_BYTES)));

// Numbers rounded to whole ones (nearest even) of 16 bits: 0 for those below, 65535 for those above
// and below 2^31. Of each 4 neighbours, first those of `first` come, then those of `second`.
inline VecHalves round_to_halves(Vec first, Vec second) {
#if defined(__AVX512BW__) && !defined(I2F_EMULATED)
  return (VecHalves)_mm512_packus_epi32(_mm512_cvtps_epi32((__m512)first),
                                        _mm512_cvtps_epi32((__m512)second));
#else
  VecHalves halves;
  for (int i = 0; i < 2 * kLanes; ++i) {
    const int lane = i / 8 * 4 + i % 4;
    float x = i % 8 < 4 ? first[lane] : second[lane];
    x = x > 0 ? x : 0;
    x = x < 65535 ? x : 65535;
    const float shifted = x + 0x1p23f;  // which rounds
    halves[i] = static_cast<uint16_t>(static_cast<int32_t>(shifted - 0x1p23f));
  }
  return halves;
#endif
}

// The upper halves of products.
inline VecHalves multiply_high(VecHalves x, VecHalves y) {
#if defined(__AVX512BW__) && !defined(I2F_EMULATED)
  return (VecHalves)_mm512_mulhi_epu16((__m512i)x, (__m512i)y);
#else
  for (int i = 0; i < 2 * kLanes; ++i) x[i] = static_cast<uint16_t>(uint32_t{x[i]} * y[i] >> 16);
  return x;
#endif
}

// Differences, 0 for those below.
inline VecHalves subtract_down_to_zero(VecHalves x, VecHalves y) {
#if defined(__AVX512BW__) && !defined(I2F_EMULATED)
  return (VecHalves)_mm512_subs_epu16((__m512i)x, (__m512i)y);
#else
  return (VecHalves)(x > y) & (x - y);
#endif
}

}  // namespace i2f::I2F_TIER

// The instructions, each with a macro that says that the tier has it: I2F_BYTE_DOTS,
// I2F_SIGNED_BYTE_DOTS, I2F_BYTE_PAIRS, I2F_BFLOAT16_DOTS, I2F_BFLOAT16_ROUNDING, I2F_WORD_DOTS. In
// test builds, models of those that the machine lacks.
#ifdef I2F_EMULATED
#include "tests/instructions.h"
#else

namespace i2f::I2F_TIER {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define I2F_BYTE_DOTS
// Unsigned by signed bytes: sums + the sum of a lane's four products, modulo 2^32.
inline VecInt dot_bytes(VecInt sums, VecWord x, VecWord w) {
#ifdef __AVX512VNNI__
  return (VecInt)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
#else
  return (VecInt)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)x, (__m256i)w);
#endif
}
#elif defined(__AVX2__)
#define I2F_BYTE_PAIRS
// The same where the sum of the first two products, and that of the others, is within 16 bits.
inline VecInt dot_byte_pairs(VecInt sums, VecWord x, VecWord w) {
#ifdef __AVX512BW__
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)x, (__m512i)w);
  return sums + (VecInt)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, (__m256i)w);
  return sums + (VecInt)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
#endif

#ifdef __ARM_FEATURE_DOTPROD
#define I2F_SIGNED_BYTE_DOTS
// The same of signed bytes.
inline VecInt dot_signed_bytes(VecInt sums, VecWord x, VecWord w) {
  return (VecInt)vdotq_s32((int32x4_t)sums, (int8x16_t)x, (int8x16_t)w);
}
#endif

#ifdef __AVX512BF16__
#define I2F_BFLOAT16_DOTS
// Bfloat16 numbers: sums + a lane's two products.
inline Vec dot_bfloat16(Vec sums, VecWord x, VecWord w) {
  return (Vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)w);
}
#define I2F_BFLOAT16_ROUNDING
// Numbers of two vectors as words of two neighbours, the first in the lower half, each rounded to
// the nearest even; subnormal ones are 0.
inline VecWord round_to_bfloat16(Vec low, Vec high) {
  return (VecWord)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}
#endif

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#define I2F_BFLOAT16_DOTS
#define I2F_DOTS_ROUND_TO_ODD
// The same, but first the two products are added and then their sum, and both sums round to odd:
// what lies between two numbers becomes the one whose last bit is set.
inline Vec dot_bfloat16(Vec sums, VecWord x, VecWord w) {
  return (Vec)vbfdotq_f32((float32x4_t)sums, (bfloat16x8_t)x, (bfloat16x8_t)w);
}
#endif

#if defined(__SSE2__) && !defined(__AVX2__)
#define I2F_WORD_DOTS
// Signed numbers of 16 bits: sums + the sum of a lane's two products, modulo 2^32.
inline VecInt dot_words(VecInt sums, VecWord x, VecWord w) {
  return sums + (VecInt)_mm_madd_epi16((__m128i)x, (__m128i)w);
}
#endif

}  // namespace i2f::I2F_TIER
#endif

namespace i2f::I2F_TIER {

// sums + (x + kOffset) (w + kWeightOffset) of whole numbers, x in -127..127 and w in -128..127,
// exact: instructions that multiply unsigned by signed bytes want one of the two moved.
struct Int8Dot {
  using Sums = VecInt;
  // The most that x may add up to, either way, in the first two of a lane's four factors and in the
  // others: times 255 it stays within 16 bits. 0 where there is no such limit.
#ifdef I2F_BYTE_PAIRS
  static constexpr int kMaxPair = 128;
#else
  static constexpr int kMaxPair = 0;
#endif
#if defined(I2F_BYTE_PAIRS)
  using Factor = int8_t;
  static constexpr int kDepth = 4, kOffset = 0, kWeightOffset = 128;
  static VecInt add(VecInt sums, VecWord x, VecWord w) { return dot_byte_pairs(sums, w, x); }
#elif defined(I2F_BYTE_DOTS)
  using Factor = uint8_t;
  static constexpr int kDepth = 4, kOffset = 128, kWeightOffset = 0;
  static VecInt add(VecInt sums, VecWord x, VecWord w) { return dot_bytes(sums, x, w); }
#elif defined(I2F_SIGNED_BYTE_DOTS)
  using Factor = int8_t;
  static constexpr int kDepth = 4, kOffset = 0, kWeightOffset = 0;
  static VecInt add(VecInt sums, VecWord x, VecWord w) { return dot_signed_bytes(sums, x, w); }
#elif defined(I2F_WORD_DOTS)
  using Factor = int16_t;
  static constexpr int kDepth = 2, kOffset = 0, kWeightOffset = 0;
  static VecInt add(VecInt sums, VecWord x, VecWord w) { return dot_words(sums, x, w); }
#else
  using Factor = int32_t;
  static constexpr int kDepth = 1, kOffset = 0, kWeightOffset = 0;
  static VecInt add(VecInt sums, VecWord x, VecWord w) { return sums + (VecInt)x * (VecInt)w; }
#endif
};

// sums + x w of bfloat16 numbers; products are exact, each sum of two numbers rounds to float32
// with a relative error of at most kRounding. The instructions take subnormal numbers for 0.
//
// kRun: after so many inputs a sum starts anew from zero. One running sum of 3072 inputs had twice
// the error of the plain formula. An error of rounding to odd spreads evenly over two units in the
// last place, not one: its variance is four times as large, and there are half as many of them,
// one for two inputs. Half a run makes up for that, as a run's error grows with its length.
#ifdef I2F_BFLOAT16_DOTS
struct Bf16Dot {
  using Sums = Vec;
#ifdef I2F_DOTS_ROUND_TO_ODD
  static constexpr int kRun = 256;
  static constexpr double kRounding = 0x1p-23;
#else
  static constexpr int kRun = 512;
  static constexpr double kRounding = 0x1p-24;
#endif
  using Factor = uint16_t;
  static constexpr int kDepth = 2, kMaxPair = 0;
  static Vec add(Vec sums, VecWord x, VecWord w) { return dot_bfloat16(sums, x, w); }
};
#endif

}  // namespace i2f::I2F_TIER
