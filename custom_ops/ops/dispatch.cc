#include "ops/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace i2f {

namespace portable {
extern const KernelTable kKernels;
}
#ifdef I2F_X86_TIERS
namespace avx2 {
extern const KernelTable kKernels;
}
namespace avx512 {
extern const KernelTable kKernels;
}
namespace avx512vnni {
extern const KernelTable kKernels;
}
namespace avx512bf16 {
extern const KernelTable kKernels;
}
#endif

namespace {

struct Tier {
  const KernelTable& kernels;
  bool (*runs_here)();
};

#ifdef I2F_X86_TIERS
bool has_avx512() {
  return __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

// Best last. What a tier asks of the machine is what CMakeLists.txt compiles it with; the builtin
// also knows whether the operating system saves the registers.
const Tier kTiers[] = {
    {portable::kKernels, [] { return true; }},
#ifdef I2F_X86_TIERS
    {avx2::kKernels,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
     }},
    {avx512::kKernels, has_avx512},
    {avx512vnni::kKernels, has_vnni},
    {avx512bf16::kKernels, [] { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }},
#endif
};

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
