// The table of one tier; compiled once a tier.

#include "kernels/kernels.h"

#define I2F_DECLARE(type, name) type name;
#ifdef I2F_BASE_TIER
namespace i2f::I2F_BASE_TIER {
I2F_KERNELS(I2F_DECLARE)
}
#endif

namespace i2f::I2F_TIER {

#ifdef I2F_BASE_TIER
#define I2F_SHARE(type, name) using I2F_BASE_TIER::name;
I2F_KERNELS(I2F_SHARE)
#undef I2F_SHARE
#else
I2F_KERNELS(I2F_DECLARE)
#endif
I2F_NARROW_KERNELS(I2F_DECLARE)
#undef I2F_DECLARE

#define I2F_TEXT(name) #name
#define I2F_NAME(name) I2F_TEXT(name)
#define I2F_ENTRY(type, name) name,
extern const KernelTable kKernels;
const KernelTable kKernels = {I2F_NAME(I2F_TIER),
                              I2F_KERNELS(I2F_ENTRY) I2F_NARROW_KERNELS(I2F_ENTRY)};

}  // namespace i2f::I2F_TIER
