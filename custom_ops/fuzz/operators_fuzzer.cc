// Feeds every operator random shapes, labels, boxes, indices, attributes and values, through
// onnxruntime. An operator may refuse with a status of its own. It may not crash, hang, touch
// memory that is not its own, leave any behind, refuse what its contract allows, or give results
// that depend on what was in memory before, on threads, or on whether weights are constant.
//
// INTER2FORMER_TIER names the kernels; of a tier that shares most of them with another, only the
// operators that it has kernels of its own for are run. --seeds=DIR writes a first corpus, prints
// "all" or "reduced" for the operators of the tier, and ends the program. At the end it says how
// many valid calls each operator had; scripts/fuzz runs it all.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <random>
#include <string>

#include "fuzz/case.h"
#include "fuzz/sessions.h"
#include "ops/operator.h"

namespace i2f::fuzz {
namespace {

constexpr int kSeedsOfAnOperator = 8, kSeedBytes = 256, kTries = 50000;

// Random inputs, of which each operator gets a few valid ones: so all are run, however short the
// time.
void write_seeds(const std::string& folder, Operators operators) {
  std::mt19937 random;
  std::map<std::string, int> written;
  for (int i = 0; i < kTries; ++i) {
    std::string bytes;
    for (int at = 0; at < kSeedBytes; ++at) bytes.push_back(static_cast<char>(random()));
    const Case c = decode(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), operators);
    if (!c.valid || written[c.op] == kSeedsOfAnOperator) continue;
    std::ofstream file(folder + "/" + c.op + std::to_string(written[c.op]++), std::ios::binary);
    file << bytes;
  }
}

void expect(bool ok, const std::string& what) {
  if (!ok) throw Finding(what);
}

// Bits, not values: a NaN is the same NaN.
void expect_same(const Result& result, const Result& first, const std::string& with) {
  expect(result.error.empty() == first.error.empty(),
         "success or failure differs with " + with + ": " + result.error + first.error);
  expect(result.dims == first.dims && result.data == first.data, "the result differs with " + with);
}

// A tier with a base shares all kernels with it but those of reduced precision.
Operators operators_of_tier() {
#define I2F_HAS_A_BASE(tier, base, ...) std::strcmp(#tier, #base) != 0,
  const bool has_a_base[] = {I2F_TIERS(I2F_HAS_A_BASE)};
#undef I2F_HAS_A_BASE
  return has_a_base[choice(Product::kInt8).tier] ? Operators::kReducedPrecision : Operators::kAll;
}

// The operators that need a valid call: all that the library holds, so that none is forgotten here.
std::vector<std::string> must_run(Operators which) {
  if (which == Operators::kReducedPrecision) return names(which);
  std::vector<std::string> all;
  for (const OperatorSpec& spec : Registration::all()) {
    if (std::strcmp(spec.name, "OperatorInfo") != 0) all.emplace_back(spec.name);
  }
  return all;
}

std::map<std::string, int>& valid_calls() {
  static std::map<std::string, int> calls;
  return calls;
}

// Ends the process here, before the destructors of onnxruntime's statics, which its background
// thread may still read: the sanitizer would call that a finding of ours.
void print_calls_and_end(int status, void*) {
  for (const auto& [op, calls] : valid_calls()) {
    std::fprintf(stderr, "calls: %s %d\n", op.c_str(), calls);
  }
  std::fflush(nullptr);
  std::_Exit(status);
}

void test(const Case& c) {
  const Result first = run(c, {false, false, 0xff});  // NaN, -1
  expect(first.error.empty() || !c.valid, "a valid call failed: " + first.error);
  expect(first.error.empty() || first.error.find("[" + c.op + "] expected ") != std::string::npos,
         "an error is not the operator's own: " + first.error);
  valid_calls()[c.op] += first.error.empty() ? 1 : 0;
  expect_same(run(c, {false, true, 0x3f}), first, "threads or other memory");
  if (c.constants) {
    expect_same(run(c, {true, false, 0x3f}), first, "constant weights or other memory");
  }
}

}  // namespace
}  // namespace i2f::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace i2f::fuzz;
  constexpr const char kFlag[] = "--seeds=";
  try {
    const Operators operators = operators_of_tier();
    for (int i = 1; i < *argc; ++i) {
      if (std::strncmp((*argv)[i], kFlag, std::strlen(kFlag)) != 0) continue;
      write_seeds((*argv)[i] + std::strlen(kFlag), operators);
      std::puts(operators == Operators::kAll ? "all" : "reduced");
      std::exit(0);  // before onnxruntime has threads that would outlive what they read
    }
    start();
    for (const std::string& op : must_run(operators)) valid_calls()[op] = 0;
    on_exit(print_calls_and_end, nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const i2f::fuzz::Operators operators = i2f::fuzz::operators_of_tier();
  const i2f::fuzz::Case c = i2f::fuzz::decode(data, size, operators);
  try {
    i2f::fuzz::test(c);
  } catch (const i2f::fuzz::Finding& finding) {
    std::fprintf(stderr, "Finding: %s\n%s\n", finding.what(), c.text().c_str());
    std::abort();
  }
  return 0;
}
