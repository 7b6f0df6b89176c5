#pragma once

#include <cstdint>

namespace i2f {

// The box around the object in a label map [height, width], in pixels: left, top, right, bottom,
// the last two exclusive. The tight box of labels != 1, sides moved outward to multiples of
// `patch`, then expanded by one patch each way and clipped to the map; the whole map when every
// label is 1. `patch` divides both sides. Reads the labels outside the box and about as many at its
// sides, no more.
using LabelBoxKernel = void(const uint8_t* labels, int64_t height, int64_t width, int64_t patch,
                            int64_t* box);

}  // namespace i2f
