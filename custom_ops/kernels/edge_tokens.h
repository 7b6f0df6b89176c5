#pragma once

#include <cstdint>

#include "kernels/labels.h"
#include "kernels/parallel.h"

namespace i2f {

enum class EdgeRule { kReleased, kExact };

constexpr int64_t kMaxEdgePatch = 1024;  // a strip of columns holds one token at least

// Marks the edge tokens of a label map [height, width] (OPERATORS.md, EdgeTokens). `box` is what
// label_box gives, `patch` divides both sides and is at most kMaxEdgePatch. Writes `flags`
// [height / patch, width / patch]: 1 for an edge token, else 0. Returns the largest label of the
// box; the flags mean nothing when it is above kLargestLabel.
using EdgeTokensKernel = uint8_t(const uint8_t* labels, int64_t height, int64_t width,
                                 int64_t patch, EdgeRule rule, const int64_t* box,
                                 const Parallel& parallel, uint8_t* flags);

}  // namespace i2f
