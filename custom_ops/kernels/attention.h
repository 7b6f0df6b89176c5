// What the contracts of the attention kernels share.
#pragma once

#include <cstdint>

namespace i2f {

constexpr int64_t kMaxHeadWidth = 256;  // channels of a head: a tile of queries stays on the stack

}  // namespace i2f
