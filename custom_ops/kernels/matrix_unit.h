#pragma once

namespace i2f {

// What keeps the tier from its processor's matrix unit, in words, or nullptr: also where it has
// none. granted() asks the operating system for the unit.
using MatrixUnitObstacleKernel = const char*(bool (*granted)());

}  // namespace i2f
