// The list of edge tokens, as the operators that read it check it.
#pragma once

#include "ops/operator.h"

namespace i2f {

// Input `index`: strictly ascending token indices in [0, tokens).
inline Tensor<int64_t> edge_tokens(const KernelContext& context, size_t index, int64_t tokens) {
  auto edge = context.get<int64_t>(index, "edge_tokens", {"E"});
  int64_t previous = -1;
  for (int64_t i = 0; i < edge.dim(0); ++i) {
    const int64_t token = edge.data[i];
    if (token <= previous || token >= tokens) {
      throw OperatorError("expected edge_tokens strictly ascending in [0, " +
                          std::to_string(tokens) + "), got " + std::to_string(token) +
                          (i > 0 ? " after " + std::to_string(previous) : ""));
    }
    previous = token;
  }
  return edge;
}

}  // namespace i2f
