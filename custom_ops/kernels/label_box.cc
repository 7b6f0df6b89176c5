#include "kernels/label_box.h"

#include "kernels/labels.h"

namespace i2f::I2F_TIER {

namespace {

// Bytes compared before a look at the outcome: many at first, then fewer where the search ends.
constexpr int64_t kBlock = 256, kSmallBlock = 32;

template <int64_t kBytes>
bool uniform_block(const uint8_t* labels) {
  uint8_t differ = 0;
  for (int64_t i = 0; i < kBytes; ++i) differ |= labels[i] ^ kPossibleBackground;
  return differ == 0;
}

// The first index of [begin, end) with a label != 1, else `end`.
int64_t first_other(const uint8_t* row, int64_t begin, int64_t end) {
  while (end - begin >= kBlock && uniform_block<kBlock>(row + begin)) begin += kBlock;
  while (end - begin >= kSmallBlock && uniform_block<kSmallBlock>(row + begin)) {
    begin += kSmallBlock;
  }
  while (begin < end && row[begin] == kPossibleBackground) ++begin;
  return begin;
}

// One past the last index of [begin, end) with a label != 1, else `begin`.
int64_t past_last_other(const uint8_t* row, int64_t begin, int64_t end) {
  while (end - begin >= kBlock && uniform_block<kBlock>(row + end - kBlock)) end -= kBlock;
  while (end - begin >= kSmallBlock && uniform_block<kSmallBlock>(row + end - kSmallBlock)) {
    end -= kSmallBlock;
  }
  while (begin < end && row[end - 1] == kPossibleBackground) --end;
  return end;
}

}  // namespace

void label_box(const uint8_t* labels, int64_t height, int64_t width, int64_t patch, int64_t* box) {
  const int64_t size = height * width, first = first_other(labels, 0, size);
  if (first == size) {
    box[0] = box[1] = 0;
    box[2] = width;
    box[3] = height;
    return;
  }
  const int64_t top = first / width,
                bottom = (past_last_other(labels, first, size) - 1) / width + 1;
  int64_t left = width, right = 0;
  for (int64_t y = top; y < bottom; ++y) {
    left = first_other(labels + y * width, 0, left);
    right = past_last_other(labels + y * width, right, width);
  }
  const auto low = [patch](int64_t v) { return v < patch ? 0 : v / patch * patch - patch; };
  const auto high = [patch](int64_t v, int64_t end) {
    const int64_t moved = (v + patch - 1) / patch * patch + patch;
    return moved < end ? moved : end;
  };
  box[0] = low(left);
  box[1] = low(top);
  box[2] = high(right, width);
  box[3] = high(bottom, height);
}

}  // namespace i2f::I2F_TIER
