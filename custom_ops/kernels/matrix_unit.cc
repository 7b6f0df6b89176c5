// Before a matrix unit is used: has the system granted it, and does it compute what kernels expect?

#include "kernels/matrix_unit.h"

#include "kernels/tiles.h"
#include "kernels/tiles_agree.h"

namespace i2f::I2F_TIER {

const char* matrix_unit_obstacle([[maybe_unused]] bool (*granted)()) {
#if defined(I2F_TILES) && !defined(I2F_EMULATED)
  if (!granted()) return "the operating system does not grant this process AMX tiles";
  if (!tiles_agree<Tiles>(1)) return "its AMX tiles compute otherwise than Intel's manual says";
#endif
  return nullptr;
}

}  // namespace i2f::I2F_TIER
