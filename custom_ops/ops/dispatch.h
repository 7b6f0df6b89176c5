// Which tier of the kernels runs, for each kind of product by itself: the fastest that the machine
// has, by measurement, or the one that INTER2FORMER_TIER names.
#pragma once

#include <cstddef>

#include "tiers.h"  // I2F_TIERS, written by cmake/tiers.cmake

namespace i2f {

#define I2F_NAME(tier, ...) #tier,
constexpr const char* kTiers[] = {I2F_TIERS(I2F_NAME)};  // of this build, in ascending order
#undef I2F_NAME
constexpr size_t kTierCount = sizeof(kTiers) / sizeof(*kTiers);

// Kernels of bfloat16 and int8 numbers, and all others.
enum class Product : size_t { kFloat32, kBfloat16, kInt8 };
constexpr size_t kProducts = 3;

struct Choice {
  size_t tier;              // index in kTiers
  float rates[kTierCount];  // of a linear layer on one thread, 10^9 multiplications and additions a
                            // second; 0 for tiers that this machine or this product has not
};

// The choice for one kind of product, made once for all when the first is asked for. Throws
// std::runtime_error when INTER2FORMER_TIER names no tier or one that this machine lacks.
const Choice& choice(Product product);

// Why a tier does not run here: nullptr where it runs, an empty text where this machine lacks it,
// and what is wrong where the machine has it.
const char* obstacle(size_t tier);
inline bool runs_here(size_t tier) { return obstacle(tier) == nullptr; }

// One kernel as each tier has it. A call runs that of the chosen tier.
template <Product kProduct, class Function>
struct Dispatched;
template <Product kProduct, class Result, class... Arguments>
struct Dispatched<kProduct, Result(Arguments...)> {
  Result operator()(Arguments... arguments) const {
    return of_tier[choice(kProduct).tier](arguments...);
  }
  Result (*of_tier[kTierCount])(Arguments...);
};

}  // namespace i2f

// Makes a kernel known to an operator as kernels::name. Stands in namespace i2f.
//   type  the type of its function, from the kernel's header
#define I2F_KERNEL(type, name)                           \
  I2F_TIERS(I2F_DECLARE_OF_BASE, type, name)             \
  namespace kernels {                                    \
  constexpr Dispatched<Product::kFloat32, type> name = { \
      {I2F_TIERS(I2F_FUNCTION_OF_BASE, type, name)}};    \
  }
#define I2F_DECLARE_OF_BASE(tier, base, has, type, name) \
  namespace base {                                       \
  type name;                                             \
  }
#define I2F_FUNCTION_OF_BASE(tier, base, has, type, name) base::name,

// The same for a kernel of reduced precision, of which each tier has its own.
//   product  Product::kBfloat16 or Product::kInt8
#define I2F_REDUCED_PRECISION_KERNEL(product, type, name)                                     \
  I2F_TIERS(I2F_DECLARE_OF_TIER, type, name)                                                  \
  namespace kernels {                                                                         \
  constexpr Dispatched<product, type> name = {{I2F_TIERS(I2F_FUNCTION_OF_TIER, type, name)}}; \
  }
#define I2F_DECLARE_OF_TIER(tier, base, has, type, name) \
  namespace tier {                                       \
  type name;                                             \
  }
#define I2F_FUNCTION_OF_TIER(tier, base, has, type, name) tier::name,
