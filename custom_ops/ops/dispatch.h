// Which tier of the kernels runs: the best that the machine has, or the one that INTER2FORMER_TIER
// names.
#pragma once

#include <cstddef>

#include "tiers.h"  // I2F_TIERS, written by cmake/tiers.cmake

namespace i2f {

#define I2F_NAME(tier, ...) #tier,
constexpr const char* kTiers[] = {I2F_TIERS(I2F_NAME)};  // of this build, in ascending order
#undef I2F_NAME

// The index in kTiers of the tier that runs, chosen once. Throws std::runtime_error when
// INTER2FORMER_TIER names no tier or one that this machine lacks.
size_t chosen_tier();

// One kernel as each tier has it. A call runs that of the chosen tier.
template <class Function>
struct Dispatched;
template <class Result, class... Arguments>
struct Dispatched<Result(Arguments...)> {
  Result operator()(Arguments... arguments) const { return of_tier[chosen_tier()](arguments...); }
  Result (*of_tier[sizeof(kTiers) / sizeof(*kTiers)])(Arguments...);
};

}  // namespace i2f

// Makes a kernel known to an operator as kernels::name. Stands in namespace i2f.
//   type  the type of its function, from the kernel's header
#define I2F_KERNEL(type, name)                                                       \
  I2F_TIERS(I2F_DECLARE_OF_BASE, type, name)                                         \
  namespace kernels {                                                                \
  constexpr Dispatched<type> name = {{I2F_TIERS(I2F_FUNCTION_OF_BASE, type, name)}}; \
  }
#define I2F_DECLARE_OF_BASE(tier, base, runs_here, type, name) \
  namespace base {                                             \
  type name;                                                   \
  }
#define I2F_FUNCTION_OF_BASE(tier, base, runs_here, type, name) base::name,

// The same for a kernel of reduced precision, of which each tier has its own.
#define I2F_REDUCED_PRECISION_KERNEL(type, name)                                     \
  I2F_TIERS(I2F_DECLARE_OF_TIER, type, name)                                         \
  namespace kernels {                                                                \
  constexpr Dispatched<type> name = {{I2F_TIERS(I2F_FUNCTION_OF_TIER, type, name)}}; \
  }
#define I2F_DECLARE_OF_TIER(tier, base, runs_here, type, name) \
  namespace tier {                                             \
  type name;                                                   \
  }
#define I2F_FUNCTION_OF_TIER(tier, base, runs_here, type, name) tier::name,
