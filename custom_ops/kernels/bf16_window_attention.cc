// Bf16WindowAttention on a matrix unit. A task is one head of one window. Its keys and values are
// rounded to tiles that stay in the second cache; then, for 32 queries at a time and some hundred
// keys, the logits, their weights and the weighted values are each a product or a pass in the first
// cache. While a task computes, what the next one reads is on its way.
//
// A pair of factors in a word: of the logits, neighbouring channels; of the values, keys 16 apart,
// so that the weights of two tiles of logits make a tile of words where they stand.

#include "kernels/tile_rows.h"
#include "kernels/window_attention.h"

#ifdef I2F_TILES
#include "kernels/blocks.h"
#include "kernels/math.h"
#include "kernels/rotary.h"
#include "kernels/windows.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = 2 * kTile;           // queries at a time: two tiles
constexpr int64_t kGroup = 2 * kTile;      // factors of a row of a tile: channels, or keys
constexpr int64_t kChunk = 256;            // keys at a time: logits stay in the first cache
constexpr int64_t kLargeResult = 1 << 20;  // numbers of a result that leaves the caches

constexpr int64_t kLower = kChunk * kTile;  // from the first tile of logits to the other queries'

// Weights are relative to the largest logit of the first keys, unless another is kFar above it. So
// they reach 2^kMost. Sums of products with numbers below kSmall are finite, and so are sums of
// products of two of those.
constexpr float kFar = 59.75f, kMost = 60.0f, kSmall = 0x1p55f;
constexpr float kLowest = -__FLT_MAX__;  // the largest logit before any is known
constexpr float kInfinity = __builtin_inff();

// The bfloat16 number nearest to 2^x times 181/128, in the lower half of each word; what stands
// above is of no meaning. For x of 60 to -126; what lies below counts as -126. Before it is rounded
// the number has a relative error of at most 2.9e-6.
//
// x = n + f with a whole n, |f| <= 1/2: a polynomial gives 181/128 2^f, which lies between 1 and 2
// but for that error. So bfloat16 numbers are multiples of 2^-7 there, and a last term that is
// 3 2^15 larger rounds to them. 181/128 is itself one, which the sum needs.
inline VecWord exp2_to_bfloat16(Vec x) {
  constexpr float kFactors[] = {0x1.43cf5ep-4f, 0x1.5bde74p-2f, 0x1.f5d26ap-1f,
                                0x1.8p16f + 181.0f / 128.0f};
  const Vec kShift = broadcast(0x1.8p23f + 126.0f);  // adding it rounds to an integer
  x = clamp_min_bits(x, -126.0f);
  const Vec shifted = x + kShift;
  const Vec f = x - (shifted - kShift);
  Vec p = broadcast(0x1.bc07f6p-7f);
#pragma GCC unroll 4
  for (const float factor : kFactors) p = p * f + broadcast(factor);
  return (VecWord)p + ((VecWord)shifted << 7);  // 128 to 256, and n + 126 in the exponent
}

// Two halves of words as words.
inline VecWord word_of(VecWord low, VecWord high) { return (low & 0xffff) | high << 16; }

// Weights of two tiles' rows of logits, which lie one tile behind the other.
inline VecWord weights_of(const float* logits, Vec top) {
  const Vec low = clamp_max_bits(load(logits) - top, kMost);
  const Vec high = clamp_max_bits(load(logits + kWords) - top, kMost);
  return word_of(exp2_to_bfloat16(low), exp2_to_bfloat16(high));
}

// The places of a rectangle, row by row.
struct Places {
  int64_t left, right, row, column;

  Places(int64_t first_row, int64_t first_column, int64_t columns)
      : left(first_column), right(first_column + columns), row(first_row), column(first_column) {}
  void next() {
    if (++column == right) column = left, ++row;
  }
};

// The largest magnitude of numbers, with NaN above Inf above numbers, or of the finite ones alone.
template <bool kFinite>
class Largest {
 public:
  void see(Vec x) {
    const VecInt magnitude = (VecInt)(((VecWord)x & 0x7fffffff) + kOffset);
    bits_ = magnitude > bits_ ? magnitude : bits_;
  }
  bool below(float bound) const {
    return !any(bits_ >= (VecInt)((VecWord)broadcast(bound) + kOffset));
  }

 private:
  static constexpr uint32_t kOffset = kFinite ? 0x00800000 : 0;  // makes others negative
  VecInt bits_{};
};

constexpr uint32_t kOnes = 0x3f803f80;  // two ones in bfloat16

// What 32 queries know of their softmax so far; a lane is a query of the first or second tile.
struct State {
  Vec top[2];     // the logit whose weight is 181/128: the largest, or one near it
  Vec total[2];   // of the weights, as they are rounded
  Vec broken[2];  // NaN where a logit was NaN or Inf, else 0
};

// The memory of a task, in the order of its use. A tile lies behind the other.
struct Workspace {
  uint32_t* keys;     // tiles [slots / 16][groups]: pairs of channels down, keys across
  uint32_t* values;   // tiles [slots / 32][2 groups]: pairs of keys down, channels across
  uint32_t* queries;  // tiles [2][groups]
  float* logits;      // tiles [2][kChunk / 16]
  uint32_t* weights;  // tiles [2][kChunk / 32]
  float* sums;        // [32][32 groups]: weighted values

  static int64_t words(int64_t slots, int64_t groups) {
    return 2 * of_slots(slots, groups) + 2 * groups * kWords + kRows * kChunk + kRows * kChunk / 2 +
           kRows * kGroup * groups;
  }
  Workspace(float* memory, int64_t slots, int64_t groups) {
    keys = reinterpret_cast<uint32_t*>(memory);
    values = keys + of_slots(slots, groups);
    queries = values + of_slots(slots, groups);
    logits = reinterpret_cast<float*>(queries + 2 * groups * kWords);
    weights = reinterpret_cast<uint32_t*>(logits + kRows * kChunk);
    sums = reinterpret_cast<float*>(weights + kRows * kChunk / 2);
  }

 private:
  static int64_t of_slots(int64_t slots, int64_t groups) {
    return round_up(slots, kGroup) * groups * kTile;
  }
};

struct WindowAttention {
  const WindowAttentionShape& shape;
  const float* qkv;
  const float* padding;
  float* out;
  bool past_caches;
  RotaryTable rotary;
  Windows windows{shape};
  int64_t slots = shape.side * shape.side;
  int64_t width = shape.heads * shape.head_width;
  int64_t groups = ceil_div(shape.head_width, kGroup);  // of a head's channels
  float scale = static_cast<float>(kLog2E / __builtin_sqrt(static_cast<double>(shape.head_width)));

  void run(const Memory& memory, const Parallel& parallel) const {
    const int64_t blocks = windows.count() * shape.heads, tasks = min(blocks, kMaxTasks);
    const int64_t words = Workspace::words(slots, groups);
    float* all = take<float>(memory, tasks * words);
    int64_t next = 0;
    parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
      const auto take_block = [&] {
        return __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
      };
      const Workspace own(all + static_cast<int64_t>(task) * words, slots, groups);
      Tiles tiles;  // those of the thread that runs this task
      for (int64_t block = take_block(); block < blocks;) {
        const int64_t after = take_block();
        Ahead ahead(*this, after < blocks ? after : block);
        attend(tiles, windows[block / shape.heads], block % shape.heads, own, ahead);
        block = after;
      }
      if (past_caches) end_of_stream();
    });
  }

 private:
  // Brings the head of the window that comes next to the second cache, some slots at a time.
  class Ahead {
   public:
    Ahead(const WindowAttention& call, int64_t block)
        : call_(call),
          window_(call.windows[block / call.shape.heads]),
          place_(window_.row, window_.column, call.shape.side),
          left_(call.slots) {
      at_ = block % call.shape.heads * call.shape.head_width;
    }
    void fetch(int64_t count) {
      for (const int64_t end = max(0, left_ - count); left_ > end; --left_, place_.next()) {
        const int64_t token = window_.token_of_slot(place_.row, place_.column);
        if (token < 0) continue;
        const float* from = call_.qkv + 3 * token * call_.width + at_;
        for (int part = 0; part < 3; ++part, from += call_.width) {
          for (int64_t c = 0; c < call_.shape.head_width; c += 16) {
            __builtin_prefetch(from + c, 0, 2);
          }
        }
      }
    }

   private:
    const WindowAttention& call_;
    Window window_;
    Places place_;
    int64_t left_, at_;  // slots; where the head begins
  };

  // ---- Rounding.

  // All slots' keys and values to tiles. Behind the last slot, and the last channel, there are
  // zeros. Whether keys, and finite values, are below kSmall.
  bool round_keys(const Window& w, int64_t head, const Workspace& own) const {
    alignas(64) float row[kMaxHeadWidth] = {};
    alignas(64) uint32_t words[kTile][kMaxHeadWidth / 2];
    Largest<false> largest;
    Largest<true> largest_value;
    const int64_t key = width + head * shape.head_width, value = key + width;
    const int64_t channels = kGroup * groups;
    Places place(w.row, w.column, shape.side);
    for (int64_t first = 0; first < slots; first += kGroup) {
      const float* of_slots[kGroup];
      for (int64_t i = 0; i < kGroup; ++i) {
        uint32_t* to = words[i % kTile];
        if (first + i < slots) {
          const int64_t token = w.token_of_slot(place.row, place.column);
          of_slots[i] = token >= 0 ? qkv + 3 * width * token : padding;
          rotary.rotate(of_slots[i] + key, place.row, place.column, row);
          round_row(row, groups, 1.0f, to, kTile, largest);
          place.next();
        } else {
          of_slots[i] = nullptr;
          for (int64_t g = 0; g < groups; ++g) store(to + g * kTile, VecWord{});
        }
        if (i % kTile < kTile - 1) continue;
        uint32_t* tile = own.keys + (first + i) / kTile * groups * kWords;
        for (int64_t g = 0; g < groups; ++g, tile += kWords) {
          transpose_to_tile(words[0] + g * kTile, kMaxHeadWidth / 2, tile);
        }
      }
      for (int64_t i = 0; i < kTile; ++i) {
        uint32_t* to = own.values + first / kGroup * 2 * groups * kWords + i * kTile;
        for (int64_t c = 0; c < channels; c += kTile, to += kWords) {
          const Vec low = load_value(of_slots[i], value, c);
          const Vec high = load_value(of_slots[i + kTile], value, c);
          largest_value.see(low);
          largest_value.see(high);
          store(to, bfloat16_pairs(zip_low<1>(low, high), zip_high<1>(low, high)));
        }
      }
    }
    return largest.below(kSmall) && largest_value.below(kSmall);
  }

  // 16 channels of a slot's value.
  Vec load_value(const float* slot, int64_t value, int64_t channel) const {
    const int64_t left = shape.head_width - channel;
    if (slot == nullptr || left <= 0) return Vec{};
    const float* from = slot + value + channel;
    return left >= kTile ? load(from) : load_partial(from, static_cast<int>(left));
  }

  // The rotated queries of a window, `count` from a place of its map on, to two tiles of rows; the
  // rest is 0. Whether they are below kSmall.
  bool round_queries(const Window& w, int64_t head, Places place, int64_t count,
                     const Workspace& own) const {
    alignas(64) float row[kMaxHeadWidth] = {};
    Largest<false> largest;
    for (int64_t i = 0; i < kRows; ++i) {
      uint32_t* to = own.queries + i / kTile * groups * kWords + i % kTile * kTile;
      if (i < count) {
        rotary.rotate(qkv + 3 * width * w.token(place.row, place.column) + head * shape.head_width,
                      place.row + w.map->offset, place.column + w.map->offset, row);
        round_row(row, groups, scale, to, kWords, largest);
        place.next();
      } else {
        for (int64_t g = 0; g < groups; ++g) store(to + g * kWords, VecWord{});
      }
    }
    return largest.below(kSmall);
  }

  // ---- Attention.

  // A window's queries, 32 at a time. Before the unit takes what the processor's vectors have
  // written, or they take its sums, there is other work to do: neither waits for the other.
  void attend(Tiles& tiles, const Window& w, int64_t head, const Workspace& own,
              Ahead& ahead) const {
    const bool keys_are_small = round_keys(w, head, own);
    const int64_t count = w.count();
    const int64_t slots_a_row = ceil_div(slots, round_up(count, kRows));
    const auto height = [count](int64_t first) { return min(kRows, count - first); };
    Places place(w.top, w.left, w.right - w.left);
    bool queries_are_small = round_queries(w, head, place, height(0), own);
    const auto begin = [&](int64_t first) {
      const bool at_once = keys_are_small && queries_are_small && slots <= kChunk;
      if (at_once) {
        with_tiles(height(first), [&](auto n) {
          multiply_keys<decltype(n)::kCount>(tiles, own.keys, own.queries, own.logits);
        });
      }
      return at_once;
    };
    bool at_once = begin(0);
    for (int64_t first = 0; first < count; first += kRows) {
      State state{};
      with_tiles(height(first), [&](auto n) {
        constexpr int kTiles = decltype(n)::kCount;
        at_once = at_once && weigh_at_once<kTiles>(tiles, own, state, ahead, slots_a_row);
        if (!at_once) {
          attend_to_all<kTiles>(tiles, keys_are_small, queries_are_small, own, state, ahead,
                                slots_a_row);
        }
      });
      const Places written = place;
      const int64_t next = first + kRows;
      if (next < count) {
        for (int64_t i = 0; i < kRows; ++i) place.next();
        queries_are_small = round_queries(w, head, place, height(next), own);
      }
      if (at_once) {
        with_tiles(height(first), [&](auto n) {
          multiply_values<decltype(n)::kCount>(tiles, 0, ceil_div(slots, kGroup), own);
        });
      }
      if (next < count) at_once = begin(next);
      write(w, head, written, height(first), own, state);
    }
  }

  // Calls body with a type whose kCount is the number of tiles that hold so many rows.
  template <class Body>
  static void with_tiles(int64_t rows, const Body& body) {
    with_rows<2>(ceil_div(rows, kTile), body);
  }

  // keys_are_small says so of values, too. A row's result depends on keys, values and that row
  // alone.
  template <int kTiles>
  void attend_to_all(Tiles& tiles, bool keys_are_small, bool queries_are_small,
                     const Workspace& own, State& state, Ahead& ahead, int64_t slots_a_row) const {
    for (int r = 0; r < kTiles; ++r) {
      state.top[r] = broadcast(kLowest);
      state.total[r] = Vec{};
    }
    for (int64_t at = 0; at < slots; at += kChunk) {
      attend_to<kTiles>(tiles, at, keys_are_small, queries_are_small, own, state, ahead,
                        slots_a_row);
    }
  }

  // Weights in the usual case, one chunk of small numbers, where the unit has multiplied the first
  // 32 keys: it multiplies the next ones while the last ones are weighed. So the largest logit is
  // not known when weights are computed, only that of the first 32 keys, which takes its place.
  // False where one is so much larger that this fails.
  template <int kTiles>
  bool weigh_at_once(Tiles& tiles, const Workspace& own, State& state, Ahead& ahead,
                     int64_t slots_a_row) const {
    const int64_t blocks = ceil_div(slots, kGroup);
    alignas(64) float tops[kTiles][kTile];
    Vec totals[kTiles][kTile];
    for (int64_t b = 0; b < blocks; ++b) {
      float* logits = own.logits + b % 2 * 2 * kWords;
      if (b + 1 < blocks) {
        multiply_keys<kTiles>(tiles, own.keys + (b + 1) * 2 * groups * kWords, own.queries,
                              own.logits + (b + 1) % 2 * 2 * kWords);
      }
      if ((b + 1) * kGroup > slots) mask<kTiles>(logits, slots - b * kGroup);
      if (b == 0) {
        for (int r = 0; r < kTiles; ++r) {
          state.top[r] = find_top(logits + r * kLower, 2);
          store(tops[r], state.top[r]);
          for (Vec& total : totals[r]) total = Vec{};
        }
      }
      ahead.fetch(4 * slots_a_row);
      for (int r = 0; r < kTiles; ++r) {
        uint32_t* to = own.weights + (r * (kChunk / kGroup) + b) * kWords;
        const float* row = logits + r * kLower;
        for (int i = 0; i < kTile; ++i, row += kTile, to += kTile) {
          const VecWord words = weights_of(row, broadcast(tops[r][i]));
          store(to, words);
          totals[r][i] = Bf16Dot::add(totals[r][i], words, VecWord{} + kOnes);
        }
      }
    }
    bool fits = true;
    for (int r = 0; r < kTiles; ++r) {
      state.total[r] = sums_of_rows(totals[r]);
      fits = fits && !any(state.total[r] >= broadcast(0x1p60f));
    }
    return fits;
  }

  // The keys of a chunk, from slot `at` on.
  template <int kTiles>
  void attend_to(Tiles& tiles, int64_t at, bool keys_are_small, bool queries_are_small,
                 const Workspace& own, State& state, Ahead& ahead, int64_t slots_a_row) const {
    const int64_t keys = min(kChunk, slots - at);
    const int64_t blocks = ceil_div(keys, kGroup) * 2;  // tiles of logits in a row
    for (int64_t b = 0; b < blocks; b += 2) {
      multiply_keys<kTiles>(tiles, own.keys + (at / kTile + b) * groups * kWords, own.queries,
                            own.logits + b * kWords);
    }
    if (keys % kGroup != 0) {
      mask<kTiles>(own.logits + (blocks - 2) * kWords, keys - (blocks - 2) * kTile);
    }
    for (int r = 0; r < kTiles; ++r) {
      float* logits = own.logits + r * kLower;
      const Vec before = state.top[r];
      if (!keys_are_small || !queries_are_small) state.broken[r] += find_broken(logits, blocks);
      const Vec largest = find_top(logits, blocks);
      if (at == 0 && keys_are_small) {  // as attend_at_once, where that is near enough
        const Vec first = find_top(logits, 2);
        state.top[r] = largest - first > broadcast(kFar) ? largest : first;
      } else {
        state.top[r] = larger(largest, before);
      }
      if (at > 0) {
        const Vec factor = exp2_nonpositive(before - state.top[r]);
        state.total[r] *= factor;
        scale_sums(own.sums + r * kTile * kGroup * groups, factor);
      }
      uint32_t* weights = own.weights + r * (kChunk / kGroup) * kWords;
      state.total[r] += weigh(logits, blocks, state.top[r], weights, ahead, slots_a_row);
    }
    multiply_values<kTiles>(tiles, at, blocks / 2, own);
  }

  // Logits of 32 keys: two tiles of the first 16 queries, and kLower behind them of the others.
  template <int kTiles>
  void multiply_keys(Tiles& tiles, const uint32_t* keys, const uint32_t* queries,
                     float* logits) const {
    const uint32_t* lower = queries + groups * kWords;
    tiles.zero<0>();
    tiles.zero<1>();
    if (kTiles == 2) tiles.zero<2>(), tiles.zero<3>();
    for (int64_t g = 0; g < groups; ++g) {
      tiles.load<6>(keys + g * kWords, kTile);
      tiles.load<7>(keys + (groups + g) * kWords, kTile);
      tiles.load<4>(queries + g * kWords, kTile);
      tiles.add_bfloat16<0, 4, 6>();
      tiles.add_bfloat16<1, 4, 7>();
      if (kTiles == 1) continue;
      tiles.load<5>(lower + g * kWords, kTile);
      tiles.add_bfloat16<2, 5, 6>();
      tiles.add_bfloat16<3, 5, 7>();
    }
    auto* to = reinterpret_cast<uint32_t*>(logits);
    tiles.store<0>(to, kTile);
    tiles.store<1>(to + kWords, kTile);
    if (kTiles == 1) return;
    tiles.store<2>(to + kLower, kTile);
    tiles.store<3>(to + kLower + kWords, kTile);
  }

  template <int kTiles>
  void multiply_values(Tiles& tiles, int64_t at, int64_t blocks, const Workspace& own) const {
    const int64_t channels = kGroup * groups;
    const uint32_t* lower = own.weights + (kChunk / kGroup) * kWords;
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t* values = own.values + (at / kGroup * 2 * groups + 2 * g) * kWords;
      tiles.zero<0>();
      tiles.zero<1>();
      if (kTiles == 2) tiles.zero<2>(), tiles.zero<3>();
      for (int64_t b = 0; b < blocks; ++b, values += 2 * groups * kWords) {
        tiles.load<6>(values, kTile);
        tiles.load<7>(values + kWords, kTile);
        tiles.load<4>(own.weights + b * kWords, kTile);
        tiles.add_bfloat16<0, 4, 6>();
        tiles.add_bfloat16<1, 4, 7>();
        if (kTiles == 1) continue;
        tiles.load<5>(lower + b * kWords, kTile);
        tiles.add_bfloat16<2, 5, 6>();
        tiles.add_bfloat16<3, 5, 7>();
      }
      float* sums = own.sums + g * kGroup;
      alignas(64) float of_chunk[kRows * kGroup];
      auto* to = reinterpret_cast<uint32_t*>(at == 0 ? sums : of_chunk);
      const int64_t stride = at == 0 ? channels : kGroup;
      tiles.store<0>(to, stride);
      tiles.store<1>(to + kTile, stride);
      if (kTiles == 2) {
        tiles.store<2>(to + kTile * stride, stride);
        tiles.store<3>(to + kTile * stride + kTile, stride);
      }
      if (at == 0) continue;
      for (int64_t i = 0; i < kTiles * kTile; ++i) {
        for (int64_t c = 0; c < kGroup; c += kTile) {
          float* sum = sums + i * channels + c;
          store(sum, load(sum) + load(of_chunk + i * kGroup + c));
        }
      }
    }
  }

  // Of logits of 32 keys, those of all but the first `keys` to the lowest number.
  template <int kTiles>
  static void mask(float* logits, int64_t keys) {
    for (int64_t b = 0; b < 2; ++b) {
      VecInt behind{};
      for (int j = 0; j < kLanes; ++j) behind[j] = b * kTile + j >= keys ? -1 : 0;
      for (int64_t i = 0; i < kTiles * kTile; ++i) {
        float* row = logits + b * kWords + i / kTile * kLower + i % kTile * kTile;
        store(row, behind ? broadcast(kLowest) : load(row));
      }
    }
  }

  // The largest logit of each row; some number where there is a NaN.
  static Vec find_top(const float* logits, int64_t blocks) {
    Vec largest[kTile];
#pragma GCC unroll 16
    for (int i = 0; i < kTile; ++i) largest[i] = load(logits + i * kTile);
    for (int64_t b = 1; b < blocks; ++b) {
      const float* tile = logits + b * kWords;
#pragma GCC unroll 16
      for (int i = 0; i < kTile; ++i) largest[i] = larger(load(tile + i * kTile), largest[i]);
    }
    return largest_of_rows(largest);
  }

  // NaN for rows with a NaN or +Inf, 0 for others.
  static Vec find_broken(const float* logits, int64_t blocks) {
    Vec broken[kTile] = {};
    for (int64_t b = 0; b < blocks; ++b) {
      for (int i = 0; i < kTile; ++i) {
        const Vec x = load(logits + b * kWords + i * kTile);
        broken[i] = x < broadcast(kInfinity) ? broken[i] : broadcast(__builtin_nanf(""));
      }
    }
    return sums_of_rows(broken);
  }

  // The weights of a tile of rows, and their sums.
  Vec weigh(const float* logits, int64_t blocks, Vec top, uint32_t* weights, Ahead& ahead,
            int64_t slots_a_row) const {
    alignas(64) float tops[kTile];
    store(tops, top);
    Vec totals[kTile];
    const VecWord ones = VecWord{} + kOnes;
    for (int i = 0; i < kTile; ++i) {
      ahead.fetch(slots_a_row);
      const Vec of_row = broadcast(tops[i]);
      const float* row = logits + i * kTile;
      uint32_t* to = weights + i * kTile;
      Vec total{};
      for (int64_t b = 0; b < blocks; b += 2, row += 2 * kWords, to += kWords) {
        const VecWord words = weights_of(row, of_row);
        store(to, words);
        total = Bf16Dot::add(total, words, ones);
      }
      totals[i] = total;
    }
    return sums_of_rows(totals);
  }

  void scale_sums(float* sums, Vec factor) const {
    for (int i = 0; i < kTile; ++i) {
      float* row = sums + i * kGroup * groups;
      for (int64_t c = 0; c < kGroup * groups; c += kTile)
        store(row + c, load(row + c) * factor[i]);
    }
  }

  // The first `count` queries' results, from a place of the map on.
  void write(const Window& w, int64_t head, Places place, int64_t count, const Workspace& own,
             const State& state) const {
    alignas(64) float factors[kRows];
    for (int r = 0; r < 2; ++r) {
      const Vec factor = broadcast(1.0f) / state.total[r] + state.broken[r];
      store(factors + r * kTile,
            state.top[r] > broadcast(kLowest) ? factor : broadcast(__builtin_nanf("")));
    }
    for (int64_t i = 0; i < count; ++i, place.next()) {
      const float* row = own.sums + i * kGroup * groups;
      float* to = out + width * w.token(place.row, place.column) + head * shape.head_width;
      for (int64_t c = 0; c < shape.head_width; c += kTile) {
        const Vec result = load(row + c) * factors[i];
        const int64_t left = shape.head_width - c;
        if (past_caches) {
          stream(to + c, result);
        } else if (left >= kTile) {
          store(to + c, result);
        } else {
          store_partial(to + c, result, static_cast<int>(left));
        }
      }
    }
  }
};

void tiled_window_attention(const WindowAttentionShape& shape, const float* qkv,
                            const float* padding, float* out, const Memory& memory,
                            const Parallel& parallel) {
  if (shape.images == 0) return;
  const Windows windows(shape);
  const int64_t positions = windows.positions(), width = shape.heads * shape.head_width;
  const RotaryTable rotary{take<float>(memory, positions * shape.head_width), shape.head_width};
  rotary.make(positions);
  const bool past_caches = shape.images * windows.tokens_in_image * width >= kLargeResult &&
                           shape.head_width % kTile == 0 &&
                           reinterpret_cast<uintptr_t>(out) % sizeof(Vec) == 0;
  WindowAttention{shape, qkv, padding, out, past_caches, rotary}.run(memory, parallel);
}

}  // namespace

WindowAttentionKernel* bf16_window_attention() { return tiled_window_attention; }

}  // namespace i2f::I2F_TIER

#else

namespace i2f::I2F_TIER {

WindowAttentionKernel* bf16_window_attention() { return nullptr; }

}  // namespace i2f::I2F_TIER
#endif
