// Float32 numbers rounded to bfloat16.
#pragma once

#include "kernels/dot.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {

// Bfloat16 numbers in the upper halves of words: x rounded to the nearest even; a NaN stays one.
inline VecWord to_bfloat16(Vec x) {
  const VecWord bits = (VecWord)x;
  VecWord near = bits + 0x7fff + (bits >> 16 & 1);
  near = (VecInt)(bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : near;
  return near & 0xffff0000;
}

// The bits of the bfloat16 number that is nearest.
inline uint32_t bfloat16_of(float x) { return to_bfloat16(broadcast(x))[0] >> 16; }

// 2 * kLanes numbers as words of two neighbours, the first in the lower half. Subnormal ones may
// become 0, as which the unit that multiplies them takes them anyway.
inline VecWord bfloat16_pairs(Vec low, Vec high) {
#ifdef I2F_BFLOAT16_ROUNDING
  return round_to_bfloat16(low, high);
#else
  const VecWord even = to_bfloat16(even_lanes(low, high)), odd = to_bfloat16(odd_lanes(low, high));
  return even >> 16 | odd;
#endif
}

}  // namespace i2f::I2F_TIER
