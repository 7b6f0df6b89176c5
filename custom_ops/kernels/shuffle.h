// Lanes of two vectors rearranged, in the compilers' own ways.
#pragma once

#include <utility>  // std::integer_sequence, a type: it leaves no code behind

#include "kernels/simd.h"

namespace i2f::I2F_TIER {

// Lane i is lane Map::at(i) of a and b side by side.
template <class Map, int... i>
inline Vec shuffle(Vec a, Vec b, std::integer_sequence<int, i...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, Map::at(i)...);
#else
  return __builtin_shuffle(a, b, VecInt{Map::at(i)...});
#endif
}
template <class Map>
inline Vec shuffle(Vec a, Vec b) {
  return shuffle<Map>(a, b, std::make_integer_sequence<int, kLanes>());
}

template <int kPhase>
struct Unzip {
  static constexpr int at(int i) { return 2 * i + kPhase; }
};
template <int kGroup, int kHalf>
struct Zip {
  static constexpr int at(int i) {
    const int group = i / kGroup;
    return group % 2 * kLanes + kHalf * kLanes / 2 + group / 2 * kGroup + i % kGroup;
  }
};

// The even and the odd lanes of a and b side by side.
inline Vec even_lanes(Vec a, Vec b) { return shuffle<Unzip<0>>(a, b); }
inline Vec odd_lanes(Vec a, Vec b) { return shuffle<Unzip<1>>(a, b); }

// Whether a comparison holds in any lane.
inline bool any(VecInt mask) {
  uint64_t words[sizeof(VecInt) / sizeof(uint64_t)];
  __builtin_memcpy(words, &mask, sizeof(mask));
  uint64_t joined = 0;
  for (uint64_t word : words) joined |= word;
  return joined != 0;
}

// Groups of kGroup lanes of a and of b interleaved: the first half of all, and the second.
template <int kGroup>
inline Vec zip_low(Vec a, Vec b) {
  return shuffle<Zip<kGroup, 0>>(a, b);
}
template <int kGroup>
inline Vec zip_high(Vec a, Vec b) {
  return shuffle<Zip<kGroup, 1>>(a, b);
}

template <int kDistance>
struct Flip {
  static constexpr int at(int i) { return i ^ kDistance; }
};
// Lane i of the result is lane i ^ kDistance of v.
template <int kDistance>
inline Vec flip_lanes(Vec v) {
  return shuffle<Flip<kDistance>>(v, v);
}
template <int kDistance>
inline VecInt flip_lanes(VecInt v) {
  return (VecInt)flip_lanes<kDistance>((Vec)v);
}

// Of 2 x 2 blocks of side kSide in two rows, the upper and the lower ones after the blocks off the
// diagonal changed places.
template <int kSide>
struct UpperBlocks {
  static constexpr int at(int i) { return i & kSide ? kLanes + i - kSide : i; }
};
template <int kSide>
struct LowerBlocks {
  static constexpr int at(int i) { return i & kSide ? kLanes + i : i + kSide; }
};

// A square of kLanes x kLanes floats, by blocks of half the side each time.
template <int kSide = kLanes / 2>
inline __attribute__((always_inline)) void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kSide) continue;
    const Vec upper = shuffle<UpperBlocks<kSide>>(rows[i], rows[i + kSide]);
    rows[i + kSide] = shuffle<LowerBlocks<kSide>>(rows[i], rows[i + kSide]);
    rows[i] = upper;
  }
  if constexpr (kSide > 1) transpose<kSide / 2>(rows);
}

template <int kBy>
struct Rotate {
  static constexpr int at(int i) { return (i + kBy) % kLanes; }
};
template <int kBy = kLanes / 2>
inline float sum_of_lanes(Vec v) {
  v += shuffle<Rotate<kBy>>(v, v);
  if constexpr (kBy == 1) {
    return v[0];
  } else {
    return sum_of_lanes<kBy / 2>(v);
  }
}

}  // namespace i2f::I2F_TIER
