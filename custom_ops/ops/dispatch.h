// Which tier of the kernels runs: the best the machine has, or the one that INTER2FORMER_TIER
// names.
#pragma once

#include "kernels/kernels.h"

namespace i2f {

// Chosen once. Throws std::runtime_error when INTER2FORMER_TIER names no tier or one that this
// machine lacks.
const KernelTable& kernels();

}  // namespace i2f
