// Rows of full attention on a matrix unit. Keys and values are rounded to tiles once a call. A task
// has some hundred queries, 32 of which attend to some hundred keys at a time: the unit multiplies
// the keys that come next, and the values that came last, while vectors weigh those between. Logits
// and weights stay in the first cache.
//
// A weight takes a processor's vectors longer than its products take the unit, so that the number
// of their steps decides. They are steps on 16 bits: a logit becomes a whole number, and that the
// weight, which has no more bits.
//
// The tile that sums up a product of keys begins with what turns its logits into those numbers: for
// each query another constant.

#include "kernels/hybrid_attention.h"
#include "kernels/tiles.h"

#ifdef I2F_TILES
#include "kernels/blocks.h"
#include "kernels/math.h"
#include "kernels/rotary.h"
#include "kernels/tile_rows.h"

namespace i2f::I2F_TIER {
namespace {

using Shape = HybridAttentionShape;

constexpr int kRows = 2 * kTile;       // queries at a time: two tiles
constexpr int64_t kGroup = 2 * kTile;  // factors of a row of a tile: channels, or keys
constexpr int kStep = 2;               // groups of keys that are weighed together
constexpr int64_t kChunk = 512;        // keys whose weights and products are summed by themselves
constexpr int64_t kTaskRows = 256;     // queries of a task, which read a chunk one by one
constexpr int64_t kEnoughTasks = 32;   // below which their keys are split
constexpr int64_t kConvertKeys = 256;  // of a task that rounds them
constexpr int64_t kMaxWidth = 128;     // of a head

// A logit, in units of ln 2, times kUnit: a bfloat16 number has 7 bits behind its first one, and
// those behind them are for rounding.
constexpr int kFractionBits = 10;
constexpr float kUnit = 1 << kFractionBits;
// A weight's exponent bits are the whole part of its number, so that weights are 2^-126 to 2^-64.
// The largest logit of the first keys gets kFirst; what would get more than 63 moves all of them.
constexpr float kFirst = 39;
constexpr float kTooMuch = 0x1.8p-64f;  // a sum of weights below it has none that is too large
// Weights are small: values become as large, so that products are what they would be without.
constexpr float kValueScale = 0x1p64f;
constexpr float kMostValue = 0x1p60f;    // of values that stay finite
constexpr float kLeastValue = 0x1p-40f;  // of the largest one: products of small values become 0
// Whatever a logit is, the numbers above have to be below 2^31.
constexpr float kMostLogit = 0x1p28f;

// Bfloat16 numbers that are nearly proportional to 2^(x / kUnit), x a number of 16 bits, where x is
// at least kUnit; a subnormal one or 0 below. The common factor is 0.998 2^-127. Their relative
// error is at most 0.0048, and 0.00168 in the root mean square; that of the nearest bfloat16
// numbers would be 0.0039 and 0.00166.
//
// With the fraction f of x / kUnit, 2^f is 1 + f - f (1 - f) k, where k is nearly linear in f, and
// 1 + f is what the bits of a floating point number say of themselves. Both numbers in k are those
// of the least error in the root mean square, with all that is cut off taken into account.
inline VecHalves exp2_to_bfloat16(VecHalves x) {
  constexpr uint16_t kConstant = 306, kSlope = 92;
  const VecHalves f = x << (16 - kFractionBits);  // times 2^16
  const VecHalves k = multiply_high(f, VecHalves{} + kSlope) + kConstant;
  const VecHalves bend = multiply_high(multiply_high(f, -f), k);
  return subtract_down_to_zero(x, bend) >> (kFractionBits - 7);
}

// Which two keys of a group, 0 to 31, word `word` of a row of weights has; the second one is next
// to it (round_to_halves).
constexpr int first_key(int word) { return word % 4 / 2 * kTile + word / 4 * 4 + word % 2 * 2; }

// The largest magnitude of numbers, as bits: NaN above Inf above numbers.
class Largest {
 public:
  void see(Vec x) {
    const VecInt magnitude = (VecInt)x & INT32_MAX;
    bits_ = magnitude > bits_ ? magnitude : bits_;
  }
  float value() const {
    int32_t most = 0;
    for (int i = 0; i < kLanes; ++i) most = bits_[i] > most ? bits_[i] : most;
    return ((Vec)(VecInt{} + most))[0];
  }

 private:
  VecInt bits_{};
};

// The memory of 32 queries of a task, and what they know of their softmax so far.
struct Queries {
  uint32_t* rows;  // tiles [2][groups]: rotated and scaled
  float* start;    // tiles [2]: what sums of products begin with, the same for all keys
  float* sums;     // [32][head_width]: weighted values
  float* totals;   // [32]: of weights
};

// The memory of a task.
struct Workspace {
  static int64_t of_queries(int64_t groups) {
    return (2 * groups + 2) * kWords + kRows * groups * kGroup + kRows;
  }
  static int64_t words(int64_t groups) {
    return kTaskRows / kRows * of_queries(groups) + 2 * kStep * 4 * kWords +
           2 * kStep * 2 * kWords + groups * 4 * kWords;
  }
  Workspace(float* memory, int64_t groups) : groups(groups), first(memory) {
    logits = memory + kTaskRows / kRows * of_queries(groups);
    weights = reinterpret_cast<uint32_t*>(logits + 2 * kStep * 4 * kWords);
    products = reinterpret_cast<float*>(weights + 2 * kStep * 2 * kWords);
  }
  Queries queries(int64_t index) const {
    float* at = first + index * of_queries(groups);
    Queries q{};
    q.rows = reinterpret_cast<uint32_t*>(at);
    q.start = at + 2 * groups * kWords;
    q.sums = q.start + 2 * kWords;
    q.totals = q.sums + kRows * groups * kGroup;
    return q;
  }

  int64_t groups;
  float* first;
  float* logits;      // tiles [2][2: queries][kStep][2: keys]; the first two are used by turns
  uint32_t* weights;  // tiles [2][2: queries][kStep]
  float* products;    // tiles [groups][2: queries][2: channels]: a chunk's weighted values
};

struct FullRows {
  const Shape& shape;
  const float* qkv;
  const int64_t* tokens;
  int64_t count;
  float* out;
  RotaryTable rotary;
  int64_t width = shape.width(), groups = shape.head_width / kGroup;
  int64_t key_groups = ceil_div(shape.tokens, kGroup);
  int64_t blocks = ceil_div(count, kTaskRows);
  int64_t split_groups = 0, splits = 0;  // of the keys
  VecWord tail{};                        // which weights of the last group are of keys
  float largest_key = 0;
  uint32_t* keys = nullptr;    // tiles [heads][key_groups][2][groups]: pairs of channels down
  uint32_t* values = nullptr;  // tiles [heads][key_groups][groups][2]: pairs of keys down
  float* partials = nullptr;   // [heads][splits][count][partial_floats]: sums, total, bound
  uint8_t* is_left = nullptr;  // [count]

  int64_t partial_floats() const { return shape.head_width + kTile; }

  void plan(const Memory& memory) {
    const int64_t chunks = ceil_div(key_groups, kChunk / kGroup);
    splits = min(chunks, ceil_div(kEnoughTasks, blocks * shape.heads));
    split_groups = ceil_div(chunks, splits) * (kChunk / kGroup);
    splits = ceil_div(key_groups, split_groups);
    keys = take<uint32_t>(memory, shape.heads * key_groups * 2 * groups * kWords);
    values = take<uint32_t>(memory, shape.heads * key_groups * 2 * groups * kWords);
    if (splits > 1) {
      partials = take<float>(memory, shape.heads * splits * count * partial_floats());
    }
    is_left = take<uint8_t>(memory, count);
    __builtin_memset(is_left, 0, static_cast<size_t>(count));
    const int64_t behind = shape.tokens - (key_groups - 1) * kGroup;
    for (int word = 0; word < kTile; ++word) {
      const int key = first_key(word);
      tail[word] = (key < behind ? 0xffffu : 0) | (key + 1 < behind ? 0xffff0000u : 0);
    }
  }

  void rotate(const float* x, int64_t token, float* y) const {
    rotary.rotate(x, token / shape.grid_width, token % shape.grid_width, y);
  }

  // ---- Rounding.

  int64_t conversions() const { return ceil_div(shape.tokens, kConvertKeys); }

  // Keys and values of a task to tiles. Behind the last one it is repeated.
  void convert(int64_t task, float* most_key, float* most_value) const {
    alignas(64) float row[kMaxWidth];
    alignas(64) uint32_t words[kTile][kMaxWidth / 2];
    Largest key_size, value_size;
    const int64_t end = min(key_groups, (task + 1) * (kConvertKeys / kGroup));
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t at = width + head * shape.head_width;
      for (int64_t g = task * (kConvertKeys / kGroup); g < end; ++g) {
        const auto key = [&](int64_t i) {
          return qkv + 3 * width * min(g * kGroup + i, shape.tokens - 1) + at;
        };
        uint32_t* tile = keys + (head * key_groups + g) * 2 * groups * kWords;
        for (int64_t half = 0; half < 2; ++half) {
          for (int64_t i = 0; i < kTile; ++i) {
            const int64_t token = min(g * kGroup + half * kTile + i, shape.tokens - 1);
            rotate(qkv + 3 * width * token + at, token, row);
            round_row(row, groups, 1.0f, words[i], kTile, key_size);
          }
          for (int64_t c = 0; c < groups; ++c, tile += kWords) {
            transpose_to_tile(words[0] + c * kTile, kMaxWidth / 2, tile);
          }
        }
        tile = values + (head * key_groups + g) * 2 * groups * kWords;
        for (int word = 0; word < kTile; ++word, tile += kTile) {
          const float* first = key(first_key(word)) + width;
          const float* second = key(first_key(word) + 1) + width;
          for (int64_t c = 0; c < 2 * groups; ++c) {
            const Vec low = load(first + c * kTile), high = load(second + c * kTile);
            value_size.see(low);
            value_size.see(high);
            store(tile + c * kWords, bfloat16_pairs(zip_low<1>(low, high) * kValueScale,
                                                    zip_high<1>(low, high) * kValueScale));
          }
        }
      }
    }
    *most_key = key_size.value();
    *most_value = value_size.value();
  }

  // Queries [first, first + 32) of a head; those behind the last one, and those that are left, are
  // zeros.
  void round_queries(int64_t head, int64_t first, const Queries& q) const {
    alignas(64) float row[kMaxWidth];
    const double scale = kUnit * kLog2E / __builtin_sqrt(static_cast<double>(shape.head_width));
    float most = kMostLogit / (static_cast<float>(shape.head_width) * largest_key);
    most = most < kMostLogit ? most : kMostLogit;
    for (int64_t i = 0; i < kRows; ++i) {
      uint32_t* to = q.rows + i / kTile * groups * kWords + i % kTile * kTile;
      if (first + i < count) {
        const int64_t token = tokens[first + i];
        Largest largest;
        rotate(qkv + 3 * width * token + head * shape.head_width, token, row);
        round_row(row, groups, static_cast<float>(scale), to, kWords, largest);
        if (largest.value() <= most) continue;
        __atomic_store_n(is_left + first + i, uint8_t{1}, __ATOMIC_RELAXED);  // heads may meet
      }
      for (int64_t g = 0; g < groups; ++g) store(to + g * kWords, VecWord{});
    }
  }

  // ---- Attention.

  int64_t attend_tasks() const { return shape.heads * blocks * splits; }

  void attend(int64_t task, float* scratch) const {
    const int64_t block = task % blocks, split = task / blocks % splits;
    const int64_t head = task / blocks / splits;
    const int64_t first_row = block * kTaskRows, end_row = min(count, first_row + kTaskRows);
    const int64_t begin = split * split_groups, end = min(key_groups, begin + split_groups);
    const Workspace own(scratch, groups);
    Tiles tiles;  // those of the thread that runs this task
    for (int64_t row = first_row; row < end_row; row += kRows) {
      const Queries q = own.queries((row - first_row) / kRows);
      round_queries(head, row, q);
      __builtin_memset(q.sums, 0, static_cast<size_t>(kRows * shape.head_width) * sizeof(float));
      __builtin_memset(q.totals, 0, kRows * sizeof(float));
    }
    for (int64_t g = begin; g < end; g += kChunk / kGroup) {
      const int64_t next = min(end, g + kChunk / kGroup);
      for (int64_t row = first_row; row < end_row; row += kRows) {
        const Queries q = own.queries((row - first_row) / kRows);
        if (g == begin) {
          start_at(largest_logits<0>(tiles, head, g, g + 1, own, q), 0, q);
          start_at(largest_logits<1>(tiles, head, g, g + 1, own, q), 1, q);
        }
        while (!add_chunk(tiles, head, g, next, own, q)) raise(tiles, head, g, next, own, q);
      }
    }
    for (int64_t row = first_row; row < end_row; row += kRows) {
      const Queries q = own.queries((row - first_row) / kRows);
      for (int64_t i = 0; i < min(kRows, end_row - row); ++i) {
        if (splits > 1) {
          keep(head, split, row + i, q, i);
        } else {
          write(head, row + i, q.sums + i * shape.head_width, kValueFactor / q.totals[i]);
        }
      }
    }
  }

  // Adds the weights and weighted values of the keys of groups [begin, end). Changes nothing and
  // returns false where a weight is too large.
  bool add_chunk(Tiles& tiles, int64_t head, int64_t begin, int64_t end, const Workspace& own,
                 const Queries& q) const {
    alignas(64) Vec totals[2][kTile] = {};
    const bool few_tiles = groups == 1;  // of sums of products, which stay with the unit
    if (few_tiles) {
      tiles.zero<0>();
      tiles.zero<1>();
      tiles.zero<2>();
      tiles.zero<3>();
    } else {
      __builtin_memset(own.products, 0, static_cast<size_t>(groups * 4 * kWords) * sizeof(float));
    }
    multiply_keys(tiles, head, begin, min(kStep, end - begin), own.logits, q);
    int turn = 0;
    for (int64_t g = begin; g < end; g += kStep, turn ^= 1) {
      const int64_t next = g + kStep;
      float* logits = own.logits + turn * kLogitTiles * kWords;
      uint32_t* weights = own.weights + turn * kWeightTiles * kWords;
      if (next < end) {
        multiply_keys(tiles, head, next, min(kStep, end - next),
                      own.logits + (turn ^ 1) * kLogitTiles * kWords, q);
      }
      if (g > begin) {
        multiply_values(tiles, head, g - kStep, kStep,
                        own.weights + (turn ^ 1) * kWeightTiles * kWords, own, few_tiles);
      }
      if (next < key_groups) {
        weigh<kStep, false>(logits, weights, totals);
      } else if (next == key_groups) {
        weigh<kStep, true>(logits, weights, totals);
      } else {
        weigh<1, true>(logits, weights, totals);
      }
    }
    const int64_t rest = (end - begin - 1) % kStep + 1;
    multiply_values(tiles, head, end - rest, rest, own.weights + (turn ^ 1) * kWeightTiles * kWords,
                    own, few_tiles);
    const Vec sums[2] = {sums_of_rows(totals[0]), sums_of_rows(totals[1])};
    if (few_tiles) {
      auto* to = reinterpret_cast<uint32_t*>(own.products);
      tiles.store<0>(to, kTile);
      tiles.store<1>(to + kWords, kTile);
      tiles.store<2>(to + 2 * kWords, kTile);
      tiles.store<3>(to + 3 * kWords, kTile);
    }
    if (any(sums[0] >= broadcast(kTooMuch)) || any(sums[1] >= broadcast(kTooMuch))) return false;
    for (int r = 0; r < 2; ++r) {
      float* total = q.totals + r * kTile;
      store(total, load(total) + sums[r]);
      for (int64_t c = 0; c < 2 * groups; ++c) {
        const float* from = own.products + ((c / 2 * 2 + r) * 2 + c % 2) * kWords;
        float* to = q.sums + r * kTile * shape.head_width + c * kTile;
        for (int i = 0; i < kTile; ++i, from += kTile, to += shape.head_width) {
          store(to, load(to) + load(from));
        }
      }
    }
    return true;
  }

  static constexpr int kLogitTiles = 4 * kStep, kWeightTiles = 2 * kStep;
  static constexpr float kValueFactor = 1 / kValueScale;

  const uint32_t* key_tiles(int64_t head, int64_t group) const {
    return keys + (head * key_groups + group) * 2 * groups * kWords;
  }

  // The numbers of the logits of some groups of keys.
  void multiply_keys(Tiles& tiles, int64_t head, int64_t group, int64_t some, float* logits,
                     const Queries& q) const {
    const auto* start = reinterpret_cast<const uint32_t*>(q.start);
    const uint32_t* key = key_tiles(head, group);
    auto* to = reinterpret_cast<uint32_t*>(logits);
    for (int64_t half = 0; half < 2 * some; ++half, to += kWords) {
      tiles.load<4>(start, kTile);
      tiles.load<5>(start + kWords, kTile);
      for (int64_t g = 0; g < groups; ++g, key += kWords) {
        tiles.load<6>(key, kTile);
        tiles.load<7>(q.rows + g * kWords, kTile);
        tiles.add_bfloat16<4, 7, 6>();
        tiles.load<7>(q.rows + (groups + g) * kWords, kTile);
        tiles.add_bfloat16<5, 7, 6>();
      }
      tiles.store<4>(to, kTile);
      tiles.store<5>(to + 2 * kStep * kWords, kTile);
    }
  }

  // Adds the weighted values of some groups of keys.
  void multiply_values(Tiles& tiles, int64_t head, int64_t group, int64_t some,
                       const uint32_t* weights, const Workspace& own, bool few_tiles) const {
    const uint32_t* from = values + (head * key_groups + group) * 2 * groups * kWords;
    for (int64_t k = 0; k < some; ++k, weights += kWords) {
      for (int64_t g = 0; g < groups; ++g, from += 2 * kWords) {
        auto* sums = reinterpret_cast<uint32_t*>(own.products + g * 4 * kWords);
        if (!few_tiles) {
          tiles.load<0>(sums, kTile);
          tiles.load<1>(sums + kWords, kTile);
          tiles.load<2>(sums + 2 * kWords, kTile);
          tiles.load<3>(sums + 3 * kWords, kTile);
        }
        tiles.load<6>(weights, kTile);
        tiles.load<4>(from, kTile);
        tiles.add_bfloat16<0, 6, 4>();
        tiles.load<5>(from + kWords, kTile);
        tiles.add_bfloat16<1, 6, 5>();
        tiles.load<7>(weights + kStep * kWords, kTile);
        tiles.add_bfloat16<2, 7, 4>();
        tiles.add_bfloat16<3, 7, 5>();
        if (!few_tiles) {
          tiles.store<0>(sums, kTile);
          tiles.store<1>(sums + kWords, kTile);
          tiles.store<2>(sums + 2 * kWords, kTile);
          tiles.store<3>(sums + 3 * kWords, kTile);
        }
      }
    }
  }

  // Weights of kGroups groups of keys, of which the last is the last of all where kLast.
  template <int kGroups, bool kLast>
  void weigh(const float* logits, uint32_t* weights, Vec (&totals)[2][kTile]) const {
    const VecWord ones = VecWord{} + 0x3f803f80u;  // two ones in bfloat16
    for (int r = 0; r < 2; ++r) {
      const float* from = logits + r * 2 * kStep * kWords;
      uint32_t* to = weights + r * kStep * kWords;
      for (int i = 0; i < kTile; ++i, from += kTile, to += kTile) {
        Vec total = totals[r][i];
#pragma GCC unroll 4
        for (int k = 0; k < kGroups; ++k) {
          const float* row = from + 2 * k * kWords;
          VecWord words = (VecWord)exp2_to_bfloat16(round_to_halves(load(row), load(row + kWords)));
          if (kLast && k == kGroups - 1) words &= tail;
          store(to + k * kWords, words);
          total = Bf16Dot::add(total, words, ones);
        }
        totals[r][i] = total;
      }
    }
  }

  // ---- The bound of logits.

  // The largest of the keys of groups [begin, end), of the first or second 16 queries.
  template <int kHalf>
  Vec largest_logits(Tiles& tiles, int64_t head, int64_t begin, int64_t end, const Workspace& own,
                     const Queries& q) const {
    Vec largest[kTile];
    for (Vec& row : largest) row = broadcast(-__FLT_MAX__);
    const uint32_t* key = key_tiles(head, begin);
    for (int64_t half = 2 * begin; half < 2 * end; ++half) {
      tiles.zero<4>();
      for (int64_t g = 0; g < groups; ++g, key += kWords) {
        tiles.load<6>(key, kTile);
        tiles.load<7>(q.rows + (kHalf * groups + g) * kWords, kTile);
        tiles.add_bfloat16<4, 7, 6>();
      }
      tiles.store<4>(reinterpret_cast<uint32_t*>(own.logits), kTile);
      for (int i = 0; i < kTile; ++i) largest[i] = larger(load(own.logits + i * kTile), largest[i]);
    }
    return largest_of_rows(largest);
  }

  static void start_at(Vec top, int half, const Queries& q) {
    const Vec start = broadcast(kFirst * kUnit) - top;
    for (int i = 0; i < kTile; ++i) {
      store(q.start + half * kWords + i * kTile, broadcast(start[i]));
    }
  }

  // Moves the bounds of queries that have a larger logit in groups [begin, end).
  void raise(Tiles& tiles, int64_t head, int64_t begin, int64_t end, const Workspace& own,
             const Queries& q) const {
    const Vec tops[2] = {largest_logits<0>(tiles, head, begin, end, own, q),
                         largest_logits<1>(tiles, head, begin, end, own, q)};
    for (int half = 0; half < 2; ++half) {
      Vec before{};
      for (int i = 0; i < kTile; ++i) {
        before[i] = kFirst * kUnit - q.start[half * kWords + i * kTile];
      }
      const Vec top = larger(tops[half], before);
      const Vec factor = exp2_nonpositive((before - top) * (1 / kUnit));
      start_at(top, half, q);
      store(q.totals + half * kTile, load(q.totals + half * kTile) * factor);
      for (int i = 0; i < kTile; ++i) {
        float* sums = q.sums + (half * kTile + i) * shape.head_width;
        for (int64_t c = 0; c < shape.head_width; c += kTile) {
          store(sums + c, load(sums + c) * factor[i]);
        }
      }
    }
  }

  // ---- Results.

  void write(int64_t head, int64_t row, const float* sums, float factor) const {
    float* to = out + width * tokens[row] + head * shape.head_width;
    for (int64_t c = 0; c < shape.head_width; c += kTile) store(to + c, load(sums + c) * factor);
  }

  float* partial(int64_t head, int64_t split, int64_t row) const {
    return partials + ((head * splits + split) * count + row) * partial_floats();
  }

  // Keeps what a split of the keys gave for a query.
  void keep(int64_t head, int64_t split, int64_t row, const Queries& q, int64_t i) const {
    float* to = partial(head, split, row);
    copy_floats(q.sums + i * shape.head_width, shape.head_width, to);
    to[shape.head_width] = q.totals[i];
    to[shape.head_width + 1] = kFirst * kUnit - q.start[i / kTile * kWords + i % kTile * kTile];
  }

  // Joins the splits of some queries, in order.
  void join(int64_t head, int64_t block) const {
    const int64_t end = min(count, (block + 1) * kTaskRows), total_at = shape.head_width;
    for (int64_t row = block * kTaskRows; row < end; ++row) {
      float top = -__FLT_MAX__, total = 0;
      for (int64_t split = 0; split < splits; ++split) {
        const float other = partial(head, split, row)[total_at + 1];
        top = other > top ? other : top;
      }
      Vec sums[kMaxWidth / kTile] = {};
      for (int64_t split = 0; split < splits; ++split) {
        const float* from = partial(head, split, row);
        const Vec factor = exp2_nonpositive(broadcast((from[total_at + 1] - top) * (1 / kUnit)));
        total += from[total_at] * factor[0];
        for (int64_t c = 0; c < 2 * groups; ++c) sums[c] += load(from + c * kTile) * factor;
      }
      alignas(64) float joined[kMaxWidth];
      for (int64_t c = 0; c < 2 * groups; ++c) store(joined + c * kTile, sums[c]);
      write(head, row, joined, kValueFactor / total);
    }
  }

  // ---- The call.

  int64_t run(int64_t* left, const Memory& memory, const Parallel& parallel) {
    float* most = take<float>(memory, 2 * conversions());
    parallel_for(parallel, static_cast<size_t>(conversions()), [&](size_t task) {
      convert(static_cast<int64_t>(task), most + 2 * task, most + 2 * task + 1);
    });
    bool served = true;
    float largest_value = 0;
    for (int64_t i = 0; i < conversions(); ++i) {
      largest_key = most[2 * i] > largest_key ? most[2 * i] : largest_key;
      largest_value = most[2 * i + 1] > largest_value ? most[2 * i + 1] : largest_value;
      served = served && most[2 * i] <= kMostLogit && most[2 * i + 1] <= kMostValue;
    }
    if (!served || largest_value < kLeastValue) {
      for (int64_t i = 0; i < count; ++i) left[i] = tokens[i];
      return count;
    }
    for_blocks(attend_tasks(), Workspace::words(groups), memory, parallel,
               [this](int64_t task, float* scratch) { attend(task, scratch); });
    if (splits > 1) {
      parallel_for(parallel, static_cast<size_t>(shape.heads * blocks), [this](size_t task) {
        join(static_cast<int64_t>(task) / blocks, static_cast<int64_t>(task) % blocks);
      });
    }
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (is_left[i]) left[found++] = tokens[i];
    }
    return found;
  }
};

int64_t full_rows_on_tiles(const Shape& shape, const float* qkv, const int64_t* tokens,
                           int64_t count, float* out, int64_t* left, const Memory& memory,
                           const Parallel& parallel) {
  const int64_t positions = max(shape.tokens / shape.grid_width, shape.grid_width);
  const RotaryTable rotary{take<float>(memory, positions * shape.head_width), shape.head_width};
  rotary.make(positions);
  FullRows call{shape, qkv, tokens, count, out, rotary};
  call.plan(memory);
  return call.run(left, memory, parallel);
}

}  // namespace

FullRowsKernel* bf16_full_rows(int64_t head_width) {
  return head_width % kGroup == 0 && head_width <= kMaxWidth ? full_rows_on_tiles : nullptr;
}

}  // namespace i2f::I2F_TIER

#else

namespace i2f::I2F_TIER {

FullRowsKernel* bf16_full_rows(int64_t) { return nullptr; }

}  // namespace i2f::I2F_TIER
#endif
