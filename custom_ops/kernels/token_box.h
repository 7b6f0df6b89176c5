#pragma once

#include <cstdint>

namespace i2f {

// The tight box of values > threshold (NaN is not) of a map [height, width], row-major, as left,
// top, right, bottom, the last two exclusive; the whole map when there are none. Any size, 0
// included.
using TokenBoxKernel = void(const float* map, int64_t height, int64_t width, float threshold,
                            int64_t* box);

}  // namespace i2f
