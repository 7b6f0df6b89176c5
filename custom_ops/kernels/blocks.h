// Work cut into many blocks, and working memory that stays with the thread that uses it.
#pragma once

#include "kernels/gemm.h"
#include "kernels/memory.h"
#include "kernels/parallel.h"

namespace i2f::I2F_TIER {

constexpr int64_t kMaxTasks = 64;  // so many threads find work

// Calls body(block, scratch) once for every block in [0, blocks); `scratch` is memory of `floats`
// floats that no other block uses at the time. A task takes one block after the other, so that a
// thread keeps its scratch, and its cache, to the end.
template <class Body>
inline void for_blocks(int64_t blocks, int64_t floats, const Memory& memory,
                       const Parallel& parallel, const Body& body) {
  const int64_t tasks = min(blocks, kMaxTasks);
  const int64_t stride = ceil_div(floats, 16) * 16;
  float* all = take<float>(memory, tasks * stride);
  int64_t next = 0;
  parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t scratch) {
    for (;;) {
      const int64_t block = __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
      if (block >= blocks) return;
      body(block, all + static_cast<int64_t>(scratch) * stride);
    }
  });
}

}  // namespace i2f::I2F_TIER
