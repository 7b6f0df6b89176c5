// How a kernel whose needs depend on its input gets memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace i2f {

// Lends memory for the length of one call, uninitialised and aligned for any vector. `take` throws
// when there is none: a kernel owns nothing that would need to be given back.
struct Memory {
  void* lender;
  void* (*take)(void* lender, size_t count, size_t size);
};

template <class T>  // static: each tier has its own
static inline T* take(const Memory& memory, int64_t count) {
  return static_cast<T*>(memory.take(memory.lender, static_cast<size_t>(count), sizeof(T)));
}

}  // namespace i2f
