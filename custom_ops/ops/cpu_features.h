// I2F_CPU_HAS(feature): whether this machine has a feature of tiers.txt, and its operating system
// saves the registers of it. The one file that asks.
#pragma once

#if defined(__linux__)
#include <unistd.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

namespace i2f {

// Asks Linux for the memory of AMX tiles (arch_prctl: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). It
// is granted to the whole process, later threads included, or refused: by an old kernel, in a
// sandbox, or where a thread's stack for signals is too small. On other systems the answer is no.
inline bool cpu_grants_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace i2f

#if defined(__x86_64__)
#define I2F_CPU_HAS(feature) __builtin_cpu_supports(#feature)
// The same of AMX, which not all compilers know by that name.
#define I2F_CPU_HAS_TILES(feature) ::i2f::cpu_has_##feature()

namespace i2f {

// Whether the processor says so in `bit` of its features, and its system saves tiles.
inline bool cpu_has_tiles([[maybe_unused]] int bit) {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c >> 27 & 1) == 0) return false;  // OSXSAVE
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> bit & 1) == 0) return false;
  unsigned saved, high;
  asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  return (saved >> 17 & 3) == 3;  // layout and data of tiles
#else
  return false;
#endif
}
inline bool cpu_has_amx_bf16() { return cpu_has_tiles(22); }
inline bool cpu_has_amx_tile() { return cpu_has_tiles(24); }
inline bool cpu_has_amx_int8() { return cpu_has_tiles(25); }

}  // namespace i2f
#elif defined(__aarch64__)
#define I2F_CPU_HAS(feature) ::i2f::cpu_has_##feature()

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace i2f {

// Bits of Linux's auxiliary vector, whose names older headers lack; names of macOS. On other
// systems the answer is no.
#if defined(__linux__)
inline bool cpu_has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }  // HWCAP_ASIMDDP
inline bool cpu_has_bf16() { return getauxval(AT_HWCAP2) >> 14 & 1; }    // HWCAP2_BF16
#elif defined(__APPLE__)
inline bool cpu_has(const char* name) {
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname(name, &has, &size, nullptr, 0) == 0 && has != 0;
}
inline bool cpu_has_dotprod() { return cpu_has("hw.optional.arm.FEAT_DotProd"); }
inline bool cpu_has_bf16() { return cpu_has("hw.optional.arm.FEAT_BF16"); }
#else
inline bool cpu_has_dotprod() { return false; }
inline bool cpu_has_bf16() { return false; }
#endif

}  // namespace i2f
#endif
