// The reference label map, as the operators that read it check it.
#pragma once

#include "kernels/labels.h"
#include "ops/operator.h"

namespace i2f {

struct LabelMap {
  const uint8_t* data;
  int64_t side;  // pixels; a multiple of `patch`
};

inline LabelMap label_map(const KernelContext& context, size_t index, int64_t patch) {
  const auto labels = context.get<uint8_t>(index, "labels", {"S", "S"});
  const int64_t side = labels.dim(0);
  expect(labels.dim(1) == side && side % patch == 0,
         "labels uint8 [S, S], S a multiple of " + std::to_string(patch),
         "[" + std::to_string(side) + ", " + std::to_string(labels.dim(1)) + "]");
  return {labels.data, side};
}

// `largest` is the largest label that a kernel met.
inline void expect_label(uint8_t largest) {
  expect(largest <= kLargestLabel, "labels 0 to 4", std::to_string(largest));
}

}  // namespace i2f
