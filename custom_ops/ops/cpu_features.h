// I2F_CPU_HAS(feature): whether this machine has a feature of tiers.txt, and its operating system
// saves the registers of it. The one file that asks.
#pragma once

#if defined(__x86_64__)
#define I2F_CPU_HAS(feature) __builtin_cpu_supports(#feature)
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
