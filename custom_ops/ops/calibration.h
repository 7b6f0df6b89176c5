// How fast the tiers are here.
#pragma once

#include "ops/dispatch.h"

namespace i2f {

// The rate of each candidate in a linear layer of that product, on one thread: see Choice. Takes
// some milliseconds.
void measure_rates(Product product, const bool (&candidates)[kTierCount],
                   float (&rates)[kTierCount]);

}  // namespace i2f
