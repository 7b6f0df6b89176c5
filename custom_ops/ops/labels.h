// The reference label map, as the operators that read it check it.
#pragma once

#include "kernels/labels.h"
#include "ops/operator.h"

namespace i2f {

struct LabelMap {
  const uint8_t* data;
  int64_t height, width;  // pixels; multiples of `patch`
};

inline LabelMap label_map(const KernelContext& context, size_t index, int64_t patch) {
  const auto labels = context.get<uint8_t>(index, "labels", {"H", "W"});
  const int64_t height = labels.dim(0), width = labels.dim(1);
  expect(height % patch == 0 && width % patch == 0,
         "labels uint8 [H, W], both multiples of " + std::to_string(patch),
         "[" + std::to_string(height) + ", " + std::to_string(width) + "]");
  return {labels.data, height, width};
}

// `largest` is the largest label that a kernel met.
inline void expect_label(uint8_t largest) {
  expect(largest <= kLargestLabel, "labels 0 to 4", std::to_string(largest));
}

}  // namespace i2f
