// The values of a reference label map that mean something to a kernel.
#pragma once

#include <cstdint>

namespace i2f {

constexpr uint8_t kPossibleBackground = 1;
constexpr uint8_t kUnknown = 2;
constexpr uint8_t kLargestLabel = 4;

}  // namespace i2f
