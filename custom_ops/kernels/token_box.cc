#include "kernels/token_box.h"

namespace i2f::I2F_TIER {

void token_box(const float* map, int64_t height, int64_t width, float threshold, int64_t* box) {
  int64_t left = width, top = height, right = 0, bottom = 0;
  for (int64_t y = 0; y < height && width > 0; ++y) {
    const float* row = map + y * width;
    int64_t first = 0;
    while (first < width && !(row[first] > threshold)) ++first;
    if (first == width) continue;
    int64_t last = width - 1;
    while (!(row[last] > threshold)) --last;
    left = first < left ? first : left;
    right = last + 1 > right ? last + 1 : right;
    top = y < top ? y : top;
    bottom = y + 1;
  }
  const bool none = bottom == 0;
  box[0] = none ? 0 : left;
  box[1] = none ? 0 : top;
  box[2] = none ? width : right;
  box[3] = none ? height : bottom;
}

}  // namespace i2f::I2F_TIER
