// Both rules ask what the 7x7 windows of a token's pixels hold, and reflection at the box border
// adds no label that such a window lacks. Together these windows are one rectangle, the token and 3
// pixels around it, clipped to the box:
//   released: some window holds a label other than 0  <=>  the rectangle does.
//   exact:    some window holds two labels  <=>  two neighbours in the rectangle differ (every such
//   pair lies in the window of
//             one of the token's pixels)  <=>  its smallest and largest label differ. What remains
//             is an unknown pixel in a rectangle of one label: that label is 2.
// So the smallest and largest label of each rectangle decide, and those are separable.

#include "kernels/edge_tokens.h"

namespace i2f::I2F_TIER {

namespace {

constexpr int64_t kReach = 3;  // of a 7x7 window
constexpr int64_t kStrip = 2 * kMaxEdgePatch;

// The smallest label of each column, and the smallest complement: of the largest label.
struct Range {
  uint8_t low[kStrip + 2 * kReach], high[kStrip + 2 * kReach];
};

inline uint8_t min(uint8_t a, uint8_t b) { return a < b ? a : b; }
inline uint8_t max(uint8_t a, uint8_t b) { return a > b ? a : b; }

// to[x] = the smaller one of from[x] and from[x + step].
void pair_up(const uint8_t* __restrict from, int64_t step, int64_t count, uint8_t* __restrict to) {
  for (int64_t x = 0; x < count; ++x) to[x] = min(from[x], from[x + step]);
}

// The smallest of each `window` neighbours among the `count` of `from`, which is overwritten; the
// result lies in `from` or in `spare`. Windows double until two of them cover the one asked for.
const uint8_t* smallest_of_windows(uint8_t* from, int64_t count, int64_t window, uint8_t* spare) {
  for (int64_t width = 1; width < window;) {
    const int64_t step = width <= window - width ? width : window - width;
    width += step;
    pair_up(from, step, count - width + 1, spare);
    uint8_t* const result = spare;
    spare = from;
    from = result;
  }
  return from;
}

// Takes columns [left, right) of rows [top, bottom) into account, four rows at a time; a row may
// count twice.
void reduce_rows(const uint8_t* labels, int64_t side, int64_t left, int64_t top, int64_t right,
                 int64_t bottom, uint8_t* __restrict low, uint8_t* __restrict high) {
  const int64_t width = right - left;
  for (int64_t y = top; y < bottom; y += 4) {
    const uint8_t* row[4];
    for (int64_t i = 0; i < 4; ++i) {
      row[i] = labels + (y + i < bottom ? y + i : bottom - 1) * side + left;
    }
    const uint8_t *a = row[0], *b = row[1], *c = row[2], *d = row[3];
    for (int64_t x = 0; x < width; ++x) {
      const uint8_t least = min(min(a[x], b[x]), min(c[x], d[x]));
      const uint8_t most = max(max(a[x], b[x]), max(c[x], d[x]));
      low[x] = min(least, low[x]);
      high[x] = min(static_cast<uint8_t>(~most), high[x]);
    }
  }
}

}  // namespace

uint8_t edge_tokens(const uint8_t* labels, int64_t height, int64_t width, int64_t patch,
                    EdgeRule rule, const int64_t* box, const Parallel& parallel, uint8_t* flags) {
  const int64_t left = box[0], top = box[1], right = box[2], bottom = box[3];
  const int64_t grid = width / patch;
  for (int64_t i = 0; i < height / patch * grid; ++i) flags[i] = 0;

  // A map without columns has no tokens in its rows.
  const auto rows = static_cast<size_t>(right > left ? (bottom - top) / patch : 0);
  const int64_t step = kStrip / patch * patch;
  // A task is a row of tokens. Its largest label goes into its first flag, which is read and mended
  // below.
  const auto token_row = [&](size_t task) {
    const int64_t y = top + static_cast<int64_t>(task) * patch;
    const int64_t above = y - kReach < top ? top : y - kReach;
    const int64_t below = y + patch + kReach > bottom ? bottom : y + patch + kReach;
    uint8_t* row_flags = flags + y / patch * grid;
    uint8_t largest = 0;
    Range range;
    for (int64_t x = left; x < right; x += step) {
      const int64_t end = x + step < right ? x + step : right;
      const int64_t from = x - kReach < left ? left : x - kReach;
      const int64_t to = end + kReach > right ? right : end + kReach;
      // Columns outside the box stay at values that decide nothing.
      for (uint8_t& v : range.low) v = 255;
      for (uint8_t& v : range.high) v = 255;
      reduce_rows(labels, width, from, above, to, below, range.low + (from - x + kReach),
                  range.high + (from - x + kReach));
      const int64_t count = end - x + 2 * kReach, window = patch + 2 * kReach;
      uint8_t spare[kStrip + 2 * kReach], other_spare[kStrip + 2 * kReach];
      const uint8_t* lows = smallest_of_windows(range.low, count, window, spare);
      const uint8_t* highs = smallest_of_windows(range.high, count, window, other_spare);
      for (int64_t token = x; token < end; token += patch) {
        const uint8_t low = lows[token - x], high = static_cast<uint8_t>(~highs[token - x]);
        const bool edge = rule == EdgeRule::kReleased ? high > 0 : high > low || low == kUnknown;
        row_flags[token / patch] = edge ? 1 : 0;
        largest = high > largest ? high : largest;
      }
    }
    // Above kLargestLabel the flags are void, so one of them may carry the news.
    if (largest > kLargestLabel) row_flags[left / patch] = largest;
  };
  parallel_for(parallel, rows, token_row);

  uint8_t largest = 0;
  for (size_t i = 0; i < rows; ++i) {
    const uint8_t flag = flags[(top / patch + static_cast<int64_t>(i)) * grid + left / patch];
    largest = flag > largest ? flag : largest;
  }
  return largest;
}

}  // namespace i2f::I2F_TIER
