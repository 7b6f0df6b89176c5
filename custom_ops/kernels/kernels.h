// Every kernel of the library, and the table of one tier's kernels that the operators call through.
#pragma once

#include "kernels/canny_maps.h"
#include "kernels/cycle_scan.h"
#include "kernels/edge_block.h"
#include "kernels/edge_downsample.h"
#include "kernels/edge_projection.h"
#include "kernels/edge_stem.h"
#include "kernels/edge_tokens.h"
#include "kernels/hybrid_attention.h"
#include "kernels/hybrid_experts.h"
#include "kernels/label_box.h"
#include "kernels/linear.h"
#include "kernels/local_upsample.h"
#include "kernels/narrow_linear.h"
#include "kernels/prompt_embedding.h"
#include "kernels/token_box.h"
#include "kernels/window_attention.h"

namespace i2f {

// Every kernel, one line each: its contract's function type and its name.
#define I2F_KERNELS(X)                                           \
  X(CannyMapsKernel, canny_maps)                                 \
  X(CycleScanKernel, cycle_scan)                                 \
  X(PackedEdgeBlockSizeKernel, packed_edge_block_size)           \
  X(PackEdgeBlockKernel, pack_edge_block)                        \
  X(EdgeBlockKernel, edge_block)                                 \
  X(PackedEdgeDownsampleSizeKernel, packed_edge_downsample_size) \
  X(PackEdgeDownsampleKernel, pack_edge_downsample)              \
  X(EdgeDownsampleKernel, edge_downsample)                       \
  X(PackedEdgeProjectionSizeKernel, packed_edge_projection_size) \
  X(PackEdgeProjectionKernel, pack_edge_projection)              \
  X(EdgeProjectionKernel, edge_projection)                       \
  X(EdgeStemKernel, edge_stem)                                   \
  X(EdgeTokensKernel, edge_tokens)                               \
  X(HybridAttentionKernel, hybrid_attention)                     \
  X(FullAttentionKernel, full_attention)                         \
  X(PackedExpertsSizeKernel, packed_experts_size)                \
  X(PackExpertsKernel, pack_experts)                             \
  X(HybridExpertsKernel, hybrid_experts)                         \
  X(LabelBoxKernel, label_box)                                   \
  X(PackedLinearSizeKernel, packed_linear_size)                  \
  X(PackLinearKernel, pack_linear)                               \
  X(NormLinearKernel, norm_linear)                               \
  X(LinearAddKernel, linear_add)                                 \
  X(PackedUpsampleSizeKernel, packed_upsample_size)              \
  X(PackUpsampleKernel, pack_upsample)                           \
  X(LocalUpsampleKernel, local_upsample)                         \
  X(PromptEmbeddingKernel, prompt_embedding)                     \
  X(PromptPackKernel, prompt_pack)                               \
  X(PromptPackedSizeKernel, prompt_packed_size)                  \
  X(TokenBoxKernel, token_box)                                   \
  X(WindowAttentionKernel, window_attention)

// Kernels of narrow numbers, for which some machines have instructions: a tier with such
// instructions has its own of these, and shares the others with the tier it builds upon.
#define I2F_NARROW_KERNELS(X)                            \
  X(PackedInt8LinearSizeKernel, packed_int8_linear_size) \
  X(PackInt8LinearKernel, pack_int8_linear)              \
  X(Int8LinearKernel, int8_linear)                       \
  X(PackedBf16LinearSizeKernel, packed_bf16_linear_size) \
  X(PackBf16LinearKernel, pack_bf16_linear)              \
  X(Bf16LinearKernel, bf16_linear)

struct KernelTable {
  const char* tier;
#define I2F_ENTRY(type, name) type* name;
  I2F_KERNELS(I2F_ENTRY)
  I2F_NARROW_KERNELS(I2F_ENTRY)
#undef I2F_ENTRY
};

}  // namespace i2f
