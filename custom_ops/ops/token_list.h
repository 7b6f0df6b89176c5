// Lists of tokens, as the operators that read them check them.
#pragma once

#include "ops/operator.h"

namespace i2f {

// Input `index`: strictly ascending token indices in [0, tokens).
inline Tensor<int64_t> token_list(const KernelContext& context, size_t index, const char* name,
                                  const char* count, int64_t tokens) {
  auto list = context.get<int64_t>(index, name, {count});
  int64_t previous = -1;
  for (int64_t i = 0; i < list.dim(0); ++i) {
    const int64_t token = list.data[i];
    if (token <= previous || token >= tokens) {
      throw OperatorError("expected " + std::string(name) + " strictly ascending in [0, " +
                          std::to_string(tokens) + "), got " + std::to_string(token) +
                          (i > 0 ? " after " + std::to_string(previous) : ""));
    }
    previous = token;
  }
  return list;
}

inline Tensor<int64_t> edge_tokens(const KernelContext& context, size_t index, int64_t tokens) {
  return token_list(context, index, "edge_tokens", "E", tokens);
}

}  // namespace i2f
