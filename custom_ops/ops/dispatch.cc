#include "ops/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tiers.h"  // I2F_TIERS, written by cmake/tiers.cmake

namespace i2f {

#define I2F_DECLARE(name, runs_here) \
  namespace name {                   \
  extern const KernelTable kKernels; \
  }
I2F_TIERS(I2F_DECLARE)
#undef I2F_DECLARE

namespace {

struct Tier {
  const KernelTable& kernels;
  bool (*runs_here)();
};

// What a tier asks of the machine is what cmake/tiers.cmake compiles it with; the builtin also
// knows whether the operating system saves the registers.
bool always() { return true; }
#ifdef __x86_64__
[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}
[[maybe_unused]] bool has_avx512bf16() {
  return has_avx512vnni() && __builtin_cpu_supports("avx512bf16");
}
#endif

// Best last.
#define I2F_ENTRY(name, runs_here) {name::kKernels, runs_here},
const Tier kTiers[] = {I2F_TIERS(I2F_ENTRY)};
#undef I2F_ENTRY

const KernelTable& choose() {
  const char* variable = std::getenv("INTER2FORMER_TIER");
  const std::string wanted = variable == nullptr ? "" : variable;
  const KernelTable* best = nullptr;
  std::string available;
  bool known = false;
  for (const Tier& tier : kTiers) {
    known = known || wanted == tier.kernels.tier;
    if (!tier.runs_here()) continue;
    best = wanted.empty() || wanted == tier.kernels.tier ? &tier.kernels : best;
    available += (available.empty() ? "" : ", ") + std::string(tier.kernels.tier);
  }
  if (best == nullptr) {
    throw std::runtime_error("INTER2FORMER_TIER: expected one of " + available + ", got " + wanted +
                             (known ? ", which this machine lacks" : ""));
  }
  return *best;
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

}  // namespace i2f
