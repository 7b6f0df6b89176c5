#pragma once

#include <cstdint>

#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f {

constexpr int kMaxPromptLevels = 10;         // convolutions; a token is 2**levels pixels wide
constexpr int64_t kMaxPromptSide = 1 << 16;  // pixels; level maps are indexed with 32 bits

// Widths of the prompt network: channels[0] of the label table, channels[i + 1] out of convolution
// i; 1 at least.
struct PromptShape {
  int levels;
  int64_t channels[kMaxPromptLevels + 1];
};

// Its parameters: table [5, channels[0]], weight[i] [channels[i + 1], channels[i], 3, 3], bias[i]
// [channels[i + 1]].
struct PromptWeights {
  PromptShape shape;
  const float* table;
  const float* weight[kMaxPromptLevels];
  const float* bias[kMaxPromptLevels];
};

// Floats of the packed form of weights of this shape, which only the tier that packed them
// understands.
using PromptPackedSizeKernel = int64_t(const PromptShape& shape);

// Writes that form to `packed`, aligned to a cache line. Reads the weights once; any values.
using PromptPackKernel = void(const PromptWeights& weights, float* packed);

// tokens[t] = embedding[t] + prompt(t) for every token of a label map [height, width]
// (OPERATORS.md, PromptEmbedding). `box` is what label_box gives, or the whole map; both sides are
// at most kMaxPromptSide and multiples of the token's 2**levels pixels; embedding and tokens are
// [height / 2**levels, width / 2**levels, channels[levels]]. Returns the largest label of the box;
// nothing was written when it is above kLargestLabel.
using PromptEmbeddingKernel = uint8_t(const uint8_t* labels, int64_t height, int64_t width,
                                      const int64_t* box, const float* embedding,
                                      const PromptShape& shape, const float* packed,
                                      const Parallel& parallel, const Memory& memory,
                                      float* tokens);

}  // namespace i2f
