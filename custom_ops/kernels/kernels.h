// Every kernel of the library, and the table of one tier's kernels that the operators call through.
#pragma once

#include "kernels/edge_tokens.h"
#include "kernels/hybrid_attention.h"
#include "kernels/hybrid_experts.h"
#include "kernels/label_box.h"
#include "kernels/linear.h"
#include "kernels/local_upsample.h"
#include "kernels/prompt_embedding.h"
#include "kernels/token_box.h"
#include "kernels/window_attention.h"

namespace i2f {

// Every kernel, one line each: its contract's function type and its name.
#define I2F_KERNELS(X)                              \
  X(EdgeTokensKernel, edge_tokens)                  \
  X(HybridAttentionKernel, hybrid_attention)        \
  X(PackedExpertsSizeKernel, packed_experts_size)   \
  X(PackExpertsKernel, pack_experts)                \
  X(HybridExpertsKernel, hybrid_experts)            \
  X(LabelBoxKernel, label_box)                      \
  X(PackedLinearSizeKernel, packed_linear_size)     \
  X(PackLinearKernel, pack_linear)                  \
  X(NormLinearKernel, norm_linear)                  \
  X(LinearAddKernel, linear_add)                    \
  X(PackedUpsampleSizeKernel, packed_upsample_size) \
  X(PackUpsampleKernel, pack_upsample)              \
  X(LocalUpsampleKernel, local_upsample)            \
  X(PromptEmbeddingKernel, prompt_embedding)        \
  X(PromptPackKernel, prompt_pack)                  \
  X(PromptPackedSizeKernel, prompt_packed_size)     \
  X(TokenBoxKernel, token_box)                      \
  X(WindowAttentionKernel, window_attention)

struct KernelTable {
  const char* tier;
#define I2F_ENTRY(type, name) type* name;
  I2F_KERNELS(I2F_ENTRY)
#undef I2F_ENTRY
};

}  // namespace i2f
