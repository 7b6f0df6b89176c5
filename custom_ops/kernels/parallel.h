// How a kernel runs on several threads without knowing whose they are.
#pragma once

#include <cstddef>

namespace i2f {

// A borrowed thread pool: `run` calls `task(user, i)` once for every i in [0, count), in any order,
// on any of its threads, and returns when all are done. Work is cut into tasks by the problem
// alone, never by the number of threads, and a task writes only what is its own: results do not
// depend on the thread count.
struct Parallel {
  void* pool;
  void (*run)(void* pool, size_t count, void (*task)(void* user, size_t index), void* user);
};

template <class Body>
inline void parallel_for(const Parallel& parallel, size_t count, const Body& body) {
  if (count == 1) return body(size_t{0});
  parallel.run(
      parallel.pool, count,
      [](void* user, size_t index) { (*static_cast<const Body*>(user))(index); },
      const_cast<Body*>(&body));
}

}  // namespace i2f
