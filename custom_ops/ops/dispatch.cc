#include "ops/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "ops/cpu_features.h"

namespace i2f {
namespace {

#define I2F_RUNS_HERE(tier, base, runs_here, ...) runs_here,

size_t choose() {
  const bool runs_here[] = {I2F_TIERS(I2F_RUNS_HERE)};
  const char* variable = std::getenv("INTER2FORMER_TIER");
  const std::string wanted = variable == nullptr ? "" : variable;
  constexpr size_t kNone = ~size_t{0};
  size_t best = kNone;
  std::string available;
  bool known = false;
  for (size_t i = 0; i < std::size(kTiers); ++i) {
    known = known || wanted == kTiers[i];
    if (!runs_here[i]) continue;
    if (wanted.empty() || wanted == kTiers[i]) best = i;
    available += (available.empty() ? "" : ", ") + std::string(kTiers[i]);
  }
  if (best == kNone) {
    throw std::runtime_error("INTER2FORMER_TIER: expected one of " + available + ", got " + wanted +
                             (known ? ", which this machine lacks" : ""));
  }
  return best;
}

}  // namespace

size_t chosen_tier() {
  static const size_t chosen = choose();
  return chosen;
}

}  // namespace i2f
