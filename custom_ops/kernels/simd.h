// Vectors for one instruction-set tier, in the compiler's own vector extension (GCC, Clang).
//
// Every kernel source is compiled once a tier with I2F_TIER (a namespace name), I2F_VECTOR_BYTES
// and I2F_VECTOR_REGISTERS set by CMake; the logic never names an instruction set. All that such a
// file defines lives in namespace i2f::I2F_TIER, so that the linker cannot merge code of two tiers.
// For the same reason these files use no standard-library templates: an inline std:: function
// compiled with AVX-512 could be kept for everyone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace i2f::I2F_TIER {

constexpr int kLanes = I2F_VECTOR_BYTES / 4;      // float lanes of a vector
constexpr int kRegisters = I2F_VECTOR_REGISTERS;  // vector registers the tier has: sizes the tiles

// Whether products take a factor from a lane of a vector at no cost, so that one load brings kLanes
// of them; elsewhere each factor is broadcast from memory.
#ifdef __ARM_NEON
constexpr bool kFactorsFromLanes = true;
#else
constexpr bool kFactorsFromLanes = false;
#endif

typedef float Vec __attribute__((vector_size(I2F_VECTOR_BYTES)));
typedef int32_t VecInt __attribute__((vector_size(I2F_VECTOR_BYTES)));
typedef float UnalignedVec __attribute__((vector_size(I2F_VECTOR_BYTES), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }  // exact for every x, -0 and NaN included

// First n lanes (0 <= n <= kLanes), the rest 0; touches no memory behind them.
inline Vec load_partial(const float* p, int n) {
  Vec v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void store_partial(float* p, Vec v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

}  // namespace i2f::I2F_TIER
