// The table of one tier; compiled once a tier.

#include "kernels/kernels.h"

namespace i2f::I2F_TIER {

#define I2F_DECLARE(type, name) type name;
I2F_KERNELS(I2F_DECLARE)
#undef I2F_DECLARE

#define I2F_TEXT(name) #name
#define I2F_NAME(name) I2F_TEXT(name)
#define I2F_ENTRY(type, name) name,
extern const KernelTable kKernels;
const KernelTable kKernels = {I2F_NAME(I2F_TIER), I2F_KERNELS(I2F_ENTRY)};

}  // namespace i2f::I2F_TIER
