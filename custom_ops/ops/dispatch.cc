#include "ops/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/matrix_unit.h"
#include "ops/calibration.h"
#include "ops/cpu_features.h"

namespace i2f {

I2F_TIERS(I2F_DECLARE_OF_TIER, MatrixUnitObstacleKernel, matrix_unit_obstacle)

namespace {

// So many times as fast must a lower tier be to be taken for a higher one: what two kernels of
// about the same speed measure changes from process to process, and the choice must not.
constexpr float kClearly = 1.15f;

struct Choices {
  Choice of[kProducts];
};

// The tier that INTER2FORMER_TIER names, or kTierCount where it names none.
size_t named_tier() {
  const char* variable = std::getenv("INTER2FORMER_TIER");
  const std::string wanted = variable == nullptr ? "" : variable;
  if (wanted.empty()) return kTierCount;
  std::string available, reason;
  for (size_t i = 0; i < kTierCount; ++i) {
    const char* wrong = obstacle(i);
    if (wanted == kTiers[i]) {
      if (wrong == nullptr) return i;
      reason = *wrong == '\0' ? ", which this machine lacks"
                              : ", which is not used: " + std::string(wrong);
    }
    if (wrong == nullptr) available += (available.empty() ? "" : ", ") + std::string(kTiers[i]);
  }
  throw std::runtime_error("INTER2FORMER_TIER: expected one of " + available + ", got " + wanted +
                           reason);
}

bool has_own_kernels(Product product, size_t tier) {
#define I2F_HAS_NO_BASE(tier, base, ...) std::strcmp(#tier, #base) == 0,
  static const bool has_no_base[] = {I2F_TIERS(I2F_HAS_NO_BASE)};
  return product != Product::kFloat32 || has_no_base[tier];
}

Choice measured(Product product) {
  Choice choice{};
  bool candidates[kTierCount];
  for (size_t i = 0; i < kTierCount; ++i) {
    candidates[i] = runs_here(i) && has_own_kernels(product, i);
  }
  measure_rates(product, candidates, choice.rates);
  for (size_t i = 0; i < kTierCount; ++i) {
    if (candidates[i]) choice.tier = i;
  }
  float best = kClearly * choice.rates[choice.tier];
  for (size_t i = 0; i < kTierCount; ++i) {
    if (choice.rates[i] <= best) continue;
    best = choice.rates[i];
    choice.tier = i;
  }
  return choice;
}

Choices choose() {
  Choices choices{};
  const size_t named = named_tier();
  for (size_t product = 0; product < kProducts; ++product) {
    choices.of[product] =
        named < kTierCount ? Choice{named, {}} : measured(static_cast<Product>(product));
  }
  return choices;
}

}  // namespace

const char* obstacle(size_t tier) {
#define I2F_OBSTACLE(tier, base, has, ...) \
  (has) ? tier::matrix_unit_obstacle(cpu_grants_tiles) : "",
  static const char* const obstacles[] = {I2F_TIERS(I2F_OBSTACLE)};
  return obstacles[tier];
}

const Choice& choice(Product product) {
  static const Choices choices = choose();
  return choices.of[static_cast<size_t>(product)];
}

}  // namespace i2f
