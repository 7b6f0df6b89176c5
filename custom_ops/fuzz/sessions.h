// Cases run by onnxruntime, in memory in which misuse shows.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/case.h"

namespace i2f::fuzz {

// What no call of an operator may do.
class Finding : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Loads the onnxruntime that the environment variable ONNXRUNTIME_LIBRARY names and registers the
// operators. Throws std::runtime_error.
void start();

struct Way {
  bool constants;      // the weights are part of the model, or fed
  bool threads;        // on two threads, or one
  unsigned char fill;  // bytes of uninitialised memory
};

struct Result {
  std::string error;  // empty: the operator succeeded
  std::vector<int64_t> dims;
  std::vector<char> data;
};

// Throws Finding when the inputs were written to or memory was left behind. Each tensor and each
// piece of scratch is a block of its own of exactly its size, between bytes that the sanitizer
// guards.
Result run(const Case& c, Way way);

}  // namespace i2f::fuzz
