// What linear layers in low precision are made of. A block of rows is converted once, to the
// smallest type that the machine multiplies, and multiplied by one panel of weights after the
// other: the panel stays in the first cache and the block in the second, the weights are read once
// a block. The epilogue (scales, bias, GELU) runs on the sums of a tile before they leave the first
// cache.
//
// Bfloat16 numbers without an instruction of their own are rounded and multiplied as float32.
#pragma once

#include "kernels/bfloat16.h"
#include "kernels/dot.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/linear_block.h"
#include "kernels/math.h"
#include "kernels/reduced_precision_linear.h"
#include "kernels/tiles.h"

namespace i2f::I2F_TIER::reduced_linear {

constexpr int kVectors = 2;                  // of columns of a panel
constexpr int kColumns = kVectors * kLanes;  // of a panel
constexpr int kRows = kTileRows<kVectors>;   // of a tile
constexpr int64_t kBlockWords = 96 << 10;    // of a task's converted rows: half of a second cache
constexpr int64_t kBlockTiles = 10;          // of a block, at most: tasks for many threads

// Where a word holds several factors, they are not neighbours: kLanes words hold kDepth vectors of
// inputs, the first of them in the lowest bits, so that converting needs no shuffles. Behind the
// last input there are zeros up to whole vectors of words.
template <int kDepth>
struct Words {
  static constexpr int kBits = 32 / kDepth;  // of a factor
  static constexpr uint32_t kMask = ~0u >> (32 - kBits);

  static int64_t count(int64_t inputs) { return ceil_div(inputs, kDepth * kLanes) * kLanes; }
  static int64_t index(int64_t k) { return k / (kDepth * kLanes) * kLanes + k % kLanes; }
  static int shift(int64_t k) { return static_cast<int>(k / kLanes % kDepth) * kBits; }

  // The words of a row, a vector of them every `stride` words; factors(vector of inputs) are the
  // factors of each.
  template <class Factors>
  static void convert(const float* x, int64_t inputs, uint32_t* to, int64_t stride,
                      const Factors& factors) {
    for (int64_t k = 0; k < inputs; to += stride) {
      VecWord words{};
#pragma GCC unroll 4
      for (int j = 0; j < kDepth; ++j, k += kLanes) {
        const int64_t left = inputs - k;
        const Vec values = left >= kLanes ? load(x + k)
                           : left > 0     ? load_partial(x + k, static_cast<int>(left))
                                          : Vec{};
        words |= (factors(values) & kMask) << (j * kBits);
      }
      store(to, words);
    }
  }
};

// A LayerNorm over the inputs of a layer.
struct Norm {
  // to [count] = LayerNorm of x [count], with room for whole vectors behind.
  void run(const float* x, int64_t count, float* to) const {
    normalise(x, count, epsilon, to);
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) {
      store(to + c, load(to + c) * load(weight + c) + load(bias + c));
    }
    for (; c < count; ++c) to[c] = to[c] * weight[c] + bias[c];
  }

  const float *weight, *bias;
  float epsilon;
};

// What becomes of a block's sums. `residual` is that of its first row, or null; `large`: results
// leave the caches anyway.
struct After {
  bool gelu = false;
  const float* residual = nullptr;
  bool large = false;
};

// The value of x as it is rounded to float32: no product fuses across.
inline Vec rounded(Vec x) {
#if defined(__x86_64__) && !defined(I2F_EMULATED)
  asm("" : "+v"(x));  // in its register
#else
  asm("" : "+m"(x));
#endif
  return x;
}

// What belongs to a converted row: its scale, and what its sums start from besides a panel's head.
struct RowState {
  float scale;
  int32_t start;
};
constexpr int64_t kStateWords = sizeof(RowState) / sizeof(uint32_t);

inline VecInt absolute_bits(Vec x) { return (VecInt)x & 0x7fffffff; }

// Whole numbers -2^22 <= x <= 2^22, nearest even.
inline VecInt nearest(Vec x) {
  const Vec kShift = broadcast(0x1.8p23f);
  return (VecInt)(rounded(x) + kShift) - (VecInt)kShift;
}

struct Int8 {
  using Dot = Int8Dot;
  using Weights = Int8LinearWeights;
  static constexpr int kHead = 3;  // of a panel: what sums start from, scales, biases
  static constexpr int64_t kRunWords = INT64_MAX / 2;  // of a sum: all of it, as it is exact

  static uint32_t weight(const Weights& weights, int64_t at) {
    return static_cast<uint32_t>(weights.weight[at] + Dot::kWeightOffset);
  }
  // Row `n` of the weights, in lane j of the head.
  static void pack_head(const Weights& weights, int64_t inputs, int64_t n, int64_t j,
                        uint32_t* head) {
    int32_t sum = 0;
    for (int64_t k = 0; k < inputs; ++k) sum += weights.weight[n * inputs + k];
    // x w = (x + offset) w - offset w; a sum of bytes times 128 wraps as the sums it goes into. An
    // offset of the weights is taken away with each row's start instead.
    head[j] = 0u - static_cast<uint32_t>(sum) * static_cast<uint32_t>(Dot::kOffset);
    __builtin_memcpy(head + kColumns + j, weights.scale + n, sizeof(float));
    __builtin_memcpy(head + 2 * kColumns + j, weights.bias + n, sizeof(float));
  }
  static VecInt start(const uint32_t* head) { return (VecInt)load(head); }
  static VecInt plus(VecInt x, VecInt y) { return (VecInt)((VecWord)x + (VecWord)y); }
#ifdef I2F_TILES
  template <int kSums, int kX, int kW>
  static void add(Tiles& tiles) {
    tiles.add_bytes<kSums, kX, kW>();
  }
#endif

  // Converts a row to factors, with zeros behind; its scale is NaN where a value is not finite.
  // Values below 2^-100 all through count as 0: 127 / peak stays finite.
  static RowState convert(const float* x, int64_t inputs, uint32_t* to, int64_t stride) {
    const int64_t whole = inputs / kLanes * kLanes;
    const int rest = static_cast<int>(inputs - whole);
    VecInt highest = absolute_bits(load_partial(x + whole, rest));
    for (int64_t k = 0; k < whole; k += kLanes) {
      const VecInt bits = absolute_bits(load(x + k));
      highest = bits > highest ? bits : highest;  // as floats, with NaN above Inf above numbers
    }
    int32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits = highest[i] > bits ? highest[i] : bits;
    float peak;
    __builtin_memcpy(&peak, &bits, sizeof peak);
    const bool finite = bits < 0x7f800000;
    const float inverse = finite && peak >= 0x1p-100f ? 127.0f / peak : 0.0f;
    VecWord sum{};  // wraps where a value is not finite and its code is any number
    Words<Dot::kDepth>::convert(x, inputs, to, stride, [&](Vec values) {
      const VecInt codes = nearest(values * inverse);
      if (Dot::kWeightOffset != 0) sum += (VecWord)codes;
      return (VecWord)(codes + Dot::kOffset);
    });
    uint32_t total = 0;
    for (int i = 0; i < kLanes; ++i) total += sum[i];
    // x w = x (w + offset) - offset x
    const uint32_t start = 0u - total * static_cast<uint32_t>(Dot::kWeightOffset);
    return {finite ? peak / 127.0f : __builtin_nanf(""), static_cast<int32_t>(start)};
  }
  static Vec finish(VecInt sums, const uint32_t* head, RowState row) {
    const VecInt whole = (VecInt)((VecWord)sums + static_cast<uint32_t>(row.start));
    const Vec scaled = __builtin_convertvector(whole, Vec) * (Vec)load(head + kColumns);
    return rounded(scaled * row.scale) + (Vec)load(head + 2 * kColumns);
  }
};

#ifdef I2F_BFLOAT16_DOTS
struct Bf16 {
  using Dot = Bf16Dot;
  using Weights = Bf16LinearWeights;
  static constexpr int kHead = 1;  // of a panel: biases, which sums start from
#ifdef I2F_TILES
  static constexpr int64_t kRunWords = 2048;  // a tile adds 16 words at a time
#else
  static constexpr int64_t kRunWords = Dot::kRun / Dot::kDepth;
#endif

  static uint32_t weight(const Weights& weights, int64_t at) { return weights.weight[at]; }
  static void pack_head(const Weights& weights, int64_t, int64_t n, int64_t j, uint32_t* head) {
    __builtin_memcpy(head + j, weights.bias + n, sizeof(float));
  }
  static Vec start(const uint32_t* head) { return (Vec)load(head); }
  static Vec plus(Vec x, Vec y) { return x + y; }
#ifdef I2F_TILES
  template <int kSums, int kX, int kW>
  static void add(Tiles& tiles) {
    tiles.add_bfloat16<kSums, kX, kW>();
  }
#endif

  static RowState convert(const float* x, int64_t inputs, uint32_t* to, int64_t stride) {
    Words<Dot::kDepth>::convert(x, inputs, to, stride, [](Vec x) { return to_bfloat16(x) >> 16; });
    return {1.0f, 0};
  }
  static Vec finish(Vec sums, const uint32_t*, RowState) { return sums; }
};
#endif

// What comes after the sums of `rows` rows: `columns` are left of the layer, `stride` its outputs,
// of which `residual`, unless it is null, has as many. One function for tiles of every height: the
// compiler may fuse a product and a sum here or not, but always alike. kPastCaches: vectors of
// `out` are whole and aligned.
template <class P, bool kGelu, bool kPastCaches>
__attribute__((noinline)) void finish(const typename P::Dot::Sums (*sums)[kVectors], int64_t rows,
                                      const uint32_t* head, const RowState* states, int64_t columns,
                                      int64_t stride, const float* residual, float* out) {
#pragma GCC unroll 1
  for (int64_t m = 0; m < rows; ++m, out += stride) {
#pragma GCC unroll 1
    for (int n = 0; n < kVectors; ++n) {
      Vec y = P::finish(sums[m][n], head + n * kLanes, states[m]);
      if constexpr (kGelu) y = gelu(y);
      const int64_t left = columns - n * kLanes;
      if (residual != nullptr) {
        const float* plus = residual + m * stride + n * kLanes;
        if (left >= kLanes) {
          y = load(plus) + y;
        } else if (left > 0) {
          y = load_partial(plus, static_cast<int>(left)) + y;
        }
      }
      if (kPastCaches) {
        if (left > 0) stream(out + n * kLanes, y);
      } else if (left >= kLanes) {
        store(out + n * kLanes, y);
      } else if (left > 0) {
        store_partial(out + n * kLanes, y, static_cast<int>(left));
      }
    }
  }
}

template <class P>
class Linear {
 public:
  using Dot = typename P::Dot;
  using Sums = typename Dot::Sums;

  Linear(const LinearSizes& sizes, const void* packed)
      : sizes_(sizes),
        words_(Words<Dot::kDepth>::count(sizes.inputs)),
        panels_(ceil_div(sizes.outputs, kColumns)),
        packed_(static_cast<const uint32_t*>(packed)) {}

  size_t packed_bytes() const {
    return static_cast<size_t>(panels_ * panel_words()) * sizeof(uint32_t);
  }

  void pack(const typename P::Weights& weights, void* to_panels) const {
    auto* packed = static_cast<uint32_t*>(to_panels);
    using Factors = Words<Dot::kDepth>;
    for (int64_t i = 0; i < panels_ * panel_words(); ++i) packed[i] = 0;
    for (int64_t n = 0; n < sizes_.outputs; ++n) {
      uint32_t* head = packed + n / kColumns * panel_words();
      P::pack_head(weights, sizes_.inputs, n, n % kColumns, head);
      uint32_t* to = head + P::kHead * kColumns + n % kColumns;
      for (int64_t k = 0; k < sizes_.inputs; ++k) {
        const uint32_t factor = P::weight(weights, n * sizes_.inputs + k) & Factors::kMask;
        to[Factors::index(k) * kColumns] |= factor << Factors::shift(k);
      }
    }
  }

  // The layer of a block of rows: the most of one when there are `rows` in all, the words of memory
  // that one takes, and its results. row(r) is row r of the block as the layer takes it, whole
  // until the next one is asked for; rows are asked for once, in order.
  static constexpr bool kRowsOnce = true;
  int64_t block_rows(int64_t) const {
    return kRows * max(1, min(kBlockTiles, kBlockWords / words_ / kRows));
  }
  int64_t block_words(int64_t block) const {
    const int64_t tiles = ceil_div(block, kRows);
    return tiles * (tile_words() + kStateWords * kRows) + kRows * words_;
  }
  template <class Rows>
  void run_block(const Rows& row, int64_t count, const After& after, float* out,
                 uint32_t* own) const {
    // Tiles, the rows of one on their way there, and what belongs to all rows.
    const int64_t tiles = ceil_div(count, kRows);
    uint32_t* converted = own + tiles * tile_words();
    auto* states = reinterpret_cast<RowState*>(converted + kRows * words_);
    uint32_t* tile = own;
    for (int64_t first = 0; first < count; first += kRows, tile += tile_words()) {
      const int64_t height = min(kRows, count - first);
      for (int64_t r = 0; r < height; ++r) {
        states[first + r] =
            P::convert(row(first + r), sizes_.inputs, converted + r * words_, kLanes);
      }
      lay_out(converted, height, tile);
    }
    multiply_block(count, own, states, after, out);
  }

 private:
  // A tile is its number of steps, and for each step a word of every row. Where sums of pairs are
  // limited, a step also says which word of the panel it meets: a word whose pairs may pass the
  // limit is two steps, each with half of its factors.
  static constexpr bool kSplits = Dot::kMaxPair > 0;
  static constexpr int kStep = kRows + (kSplits ? 1 : 0);  // words of a step

  int64_t panel_words() const { return (P::kHead + words_) * kColumns; }
  int64_t tile_words() const { return 1 + words_ * kStep * (kSplits ? 2 : 1); }

  // `count` converted rows to a tile. Rows that are not there are 0.
  void lay_out(const uint32_t* rows, int64_t count, uint32_t* tile) const {
    uint32_t* to = tile + 1;
    for (int64_t begin = 0; begin < words_; begin += kLanes) {
      VecInt far{};  // whether a word's pairs pass the limit in one of the rows
      for (int64_t r = 0; r < count && kSplits; ++r) {
        far |= pairs_are_far(load(rows + r * words_ + begin));
      }
      for (int64_t k = begin; k < begin + kLanes; ++k) {
        uint32_t words[kRows];
        for (int64_t r = 0; r < kRows; ++r) words[r] = r < count ? rows[r * words_ + k] : 0;
        if (kSplits && far[k - begin] != 0) {
          uint32_t halves[kRows];
          for (int r = 0; r < kRows; ++r) {
            halves[r] = half_of_bytes(words[r]);
            words[r] = other_half_of_bytes(words[r]);
          }
          to = put_step(halves, k, to);
        }
        to = put_step(words, k, to);
      }
    }
    tile[0] = static_cast<uint32_t>((to - tile - 1) / kStep);
  }

  static uint32_t* put_step(const uint32_t (&words)[kRows], int64_t k, uint32_t* to) {
    for (int r = 0; r < kRows; ++r) to[r] = words[r];
    if (kSplits) to[kRows] = static_cast<uint32_t>(k * kColumns);
    return to + kStep;
  }

  // -1 in lanes whose first or last two signed bytes add up to more than the limit, either way.
  static VecInt pairs_are_far(VecWord x) {
    const auto byte = [x](int i) { return (VecInt)(x << (24 - 8 * i)) >> 24; };
    const VecInt low = byte(0) + byte(1), high = byte(2) + byte(3);
    const VecInt limit = VecInt{} + Dot::kMaxPair;
    return (low > limit) | (low < -limit) | (high > limit) | (high < -limit);
  }

  // Each of four signed bytes halved and rounded down; what is left of it.
  static uint32_t half_of_bytes(uint32_t x) { return (x >> 1 & 0x7f7f7f7f) | (x & 0x80808080); }
  static uint32_t other_half_of_bytes(uint32_t x) {
    const uint32_t half = half_of_bytes(x);
    return ((half & 0x7f7f7f7f) + (x & 0x01010101)) ^ (half & 0x80808080);
  }

  void multiply_block(int64_t count, const uint32_t* tiles, const RowState* states,
                      const After& after, float* out) const {
    for (int64_t p = 0; p < panels_; ++p) {
      const uint32_t* panel = packed_ + p * panel_words();
      const uint32_t* tile = tiles;
      for (int64_t row = 0; row < count; row += kRows, tile += tile_words()) {
        const int64_t rows = min(kRows, count - row);
        Sums sums[kRows][kVectors];
        with_rows<kRows>(
            rows, [&](auto height) { multiply_tile<decltype(height)::kCount>(tile, panel, sums); });
        const int64_t at = row * sizes_.outputs + p * kColumns;
        (after.gelu
             ? finish<P, true, false>
             : finish<P, false, false>)(sums, rows, panel, states + row,
                                        sizes_.outputs - p * kColumns, sizes_.outputs,
                                        after.residual == nullptr ? nullptr : after.residual + at,
                                        out + at);
      }
    }
  }

  template <int M>
  void multiply_tile(const uint32_t* tile, const uint32_t* panel,
                     Sums (&to)[kRows][kVectors]) const {
    const uint32_t* factors = panel + P::kHead * kColumns;
    const int64_t steps = tile[0];
    const uint32_t* x = tile + 1;
    for (int64_t begin = 0; begin < steps; begin += P::kRunWords) {
      const int64_t end = min(steps, begin + P::kRunWords);
      Sums sums[M][kVectors];
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
        for (int n = 0; n < kVectors; ++n) {
          sums[m][n] = begin == 0 ? P::start(panel + n * kLanes) : Sums{};
        }
      }
      for (int64_t k = begin; k < end; ++k, x += kStep) {
        const uint32_t* from = factors + (kSplits ? x[kStep - 1] : k * kColumns);
        VecWord column[kVectors];
#pragma GCC unroll 32
        for (int n = 0; n < kVectors; ++n) column[n] = load(from + n * kLanes);
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
          const VecWord row = x[m] - VecWord{};
#pragma GCC unroll 32
          for (int n = 0; n < kVectors; ++n) sums[m][n] = Dot::add(sums[m][n], row, column[n]);
        }
      }
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
        for (int n = 0; n < kVectors; ++n) {
          to[m][n] = begin == 0 ? sums[m][n] : P::plus(to[m][n], sums[m][n]);
        }
      }
    }
  }

  LinearSizes sizes_;
  int64_t words_;  // of a converted row
  int64_t panels_;
  const uint32_t* packed_;
};

#ifdef I2F_TILES
// What the products to come read first, a part at each step: requests that come all at once take
// the places that loads from the second cache need.
struct Ahead {
  const uint32_t* next;
  int64_t words;  // of a step

  Ahead(const uint32_t* from, int64_t all, int64_t steps)
      : next(from), words(ceil_div(all, steps * kTile) * kTile) {}
  void fetch() {
    for (int64_t i = 0; i < words; i += kTile) __builtin_prefetch(next + i, 0, 2);
    next += words;
  }
};

// The layer on a matrix unit: four tiles of sums, of 32 rows and the columns of a panel. Converted
// rows lie tile behind tile, panels as Linear packs them. For bfloat16 numbers the order of the
// sums is that of Tiles::add_bfloat16, 16 words at a time.
//
// The unit is so fast that memory decides. The converted rows of a task fit into a second cache of
// 2 MiB, where the next panel is on its way while one is in use. Results that do not fit go past
// the caches.
template <class P>
class TiledLinear {
 public:
  using Sums = typename P::Dot::Sums;
  using Finish = decltype(finish<P, false, false>);

  TiledLinear(const LinearSizes& sizes, const void* packed)
      : sizes_(sizes),
        layout_(sizes, packed),
        words_(Words<P::Dot::kDepth>::count(sizes.inputs)),
        panels_(ceil_div(sizes.outputs, kColumns)),
        packed_(static_cast<const uint32_t*>(packed)) {}

  size_t packed_bytes() const { return layout_.packed_bytes(); }

  void pack(const typename P::Weights& weights, void* to_panels) const {
    layout_.pack(weights, to_panels);
  }

  // As those of Linear.
  static constexpr bool kRowsOnce = true;
  int64_t block_rows(int64_t) const {
    return kSquare * max(1, min(kMaxSquares, kBlockOfTiles / words_ / kSquare));
  }
  int64_t block_words(int64_t block) const {
    return ceil_div(block, kTile) * kTile * (words_ + kStateWords);
  }
  template <class Rows>
  void run_block(const Rows& row, int64_t count, const After& after, float* out,
                 uint32_t* own) const {
    const bool past_caches = after.large && reinterpret_cast<uintptr_t>(out) % sizeof(Vec) == 0 &&
                             sizes_.outputs % kLanes == 0;
    const int64_t height = ceil_div(count, kTile) * kTile;
    auto* states = reinterpret_cast<RowState*>(own + height * words_);
    for (int64_t r = 0; r < height; ++r) {
      uint32_t* to = own + r / kTile * kTile * words_ + r % kTile * kTile;
      if (r < count) {
        states[r] = P::convert(row(r), sizes_.inputs, to, kWords);
      } else {  // the rest of the last tile
        for (int64_t k = 0; k < words_; k += kTile, to += kWords) store(to, VecWord{});
      }
    }
    Tiles tiles;
    multiply_block(tiles, count, own, states, after, past_caches, out);
    if (past_caches) end_of_stream();
  }

 private:
  static constexpr int kSquare = 2 * kTile;            // rows of four tiles of sums
  static constexpr int64_t kBlockOfTiles = 192 << 10;  // words of converted rows, at most
  static constexpr int64_t kMaxSquares = 9;  // of a block, at most: 4352 rows are 16 tasks

  int64_t panel_words() const { return (P::kHead + words_) * kColumns; }

  // A square of sums that becomes results while the unit is at the next one.
  struct Square {
    Sums (*sums)[kVectors];  // without what they start from, if they are of one run
    int64_t rows, done;      // of its rows, `done` are results
    const uint32_t* panel;
    const RowState* states;
    int64_t columns;
    const float* residual;
    float* out;
  };

  void multiply_block(Tiles& tiles, int64_t count, const uint32_t* x, const RowState* states,
                      const After& after, bool past_caches, float* out) const {
    const int64_t steps = ceil_div(count, kSquare) * words_ / kTile;
    Finish* const finish_rows =
        past_caches ? (after.gelu ? finish<P, true, true> : finish<P, false, true>)
                    : (after.gelu ? finish<P, true, false> : finish<P, false, false>);
    Sums sums[2][kSquare][kVectors];
    int turn = 0;
    Square last{};
    for (int64_t p = 0; p < panels_; ++p) {
      const uint32_t* panel = packed_ + p * panel_words();
      // Behind the last panel comes the first one again, for the next rows.
      Ahead ahead(p + 1 < panels_ ? panel + panel_words() : packed_, panel_words(), steps);
      for (int64_t first = 0; first < count; first += kSquare, turn ^= 1) {
        const int64_t at = first * sizes_.outputs + p * kColumns;
        const Square square{sums[turn],
                            min(kSquare, count - first),
                            0,
                            panel,
                            states + first,
                            sizes_.outputs - p * kColumns,
                            after.residual == nullptr ? nullptr : after.residual + at,
                            out + at};
        for (int64_t m = 0; m < square.rows && square.residual != nullptr; ++m) {
          const float* from = square.residual + m * sizes_.outputs;
          for (int64_t n = 0; n < kColumns; n += kTile) __builtin_prefetch(from + n);
        }
        const uint32_t* rows = x + first * words_;
        if (square.rows > kTile) {
          multiply<true>(tiles, rows, square, last, finish_rows, ahead);
        } else {
          multiply<false>(tiles, rows, square, last, finish_rows, ahead);
        }
        last = square;
      }
    }
    finish_until(last.rows, last, finish_rows);
  }

  bool one_run() const { return words_ <= P::kRunWords; }

  // Makes results of a square's rows before `end`.
  void finish_until(int64_t end, Square& square, Finish* finish_rows) const {
    if (end <= square.done) return;
    const int64_t begin = square.done, at = begin * sizes_.outputs;
    for (int64_t m = begin; m < end && one_run(); ++m) start_row(square, m);
    finish_rows(square.sums + begin, end - begin, square.panel, square.states + begin,
                square.columns, sizes_.outputs,
                square.residual == nullptr ? nullptr : square.residual + at, square.out + at);
    square.done = end;
  }
  static void start_row(const Square& square, int64_t m) {
    for (int n = 0; n < kVectors; ++n) {
      square.sums[m][n] = P::plus(P::start(square.panel + n * kLanes), square.sums[m][n]);
    }
  }

  // The sums of a square. Meanwhile, the rows of the last one become results.
  template <bool kTwo>  // whether there are more rows than a tile has
  void multiply(Tiles& tiles, const uint32_t* rows, const Square& square, Square& last,
                Finish* finish_rows, Ahead& ahead) const {
    const uint32_t* factors = square.panel + P::kHead * kColumns;
    const uint32_t* lower = rows + kTile * words_;
    int64_t finished = 0;
    for (int64_t begin = 0; begin < words_; begin += P::kRunWords) {
      tiles.zero<0>();
      tiles.zero<1>();
      if (kTwo) tiles.zero<2>(), tiles.zero<3>();
      for (int64_t k = begin; k < min(words_, begin + P::kRunWords); k += kTile) {
        ahead.fetch();
        tiles.load<6>(factors + k * kColumns, kColumns);
        tiles.load<7>(factors + k * kColumns + kTile, kColumns);
        tiles.load_once<4>(rows + k * kTile, kTile);
        P::template add<0, 4, 6>(tiles);
        P::template add<1, 4, 7>(tiles);
        if (kTwo) {
          tiles.load_once<5>(lower + k * kTile, kTile);
          P::template add<2, 5, 6>(tiles);
          P::template add<3, 5, 7>(tiles);
        }
        while (finished * words_ < (k + kTile) * last.rows) ++finished;
        finish_until(finished, last, finish_rows);
      }
      if (begin == 0) {
        store_sums<kTwo>(tiles, square.sums);
        continue;
      }
      Sums run[kSquare][kVectors];
      store_sums<kTwo>(tiles, run);
      for (int m = 0; m < (kTwo ? kSquare : kTile); ++m) {
        if (begin == P::kRunWords) start_row(square, m);
        for (int n = 0; n < kVectors; ++n) {
          square.sums[m][n] = P::plus(square.sums[m][n], run[m][n]);
        }
      }
    }
  }
  template <bool kTwo>
  static void store_sums(Tiles& tiles, Sums (*sums)[kVectors]) {
    auto* to = reinterpret_cast<uint32_t*>(sums);
    tiles.store<0>(to, kColumns);
    tiles.store<1>(to + kTile, kColumns);
    if (kTwo) {
      tiles.store<2>(to + kTile * kColumns, kColumns);
      tiles.store<3>(to + kTile * kColumns + kTile, kColumns);
    }
  }

  LinearSizes sizes_;
  Linear<P> layout_;
  int64_t words_;  // of a converted row: whole tiles
  int64_t panels_;
  const uint32_t* packed_;
};
#endif

#ifndef I2F_BFLOAT16_DOTS
// The layer as one of float32 numbers, of rounded rows: as fast as that, with half the digits.
class RoundedLinear {
 public:
  RoundedLinear(const LinearSizes& sizes, const void* packed)
      : sizes_(sizes), packed_(static_cast<const float*>(packed)) {}

  size_t packed_bytes() const { return static_cast<size_t>(panels() * panel()) * sizeof(float); }

  void pack(const Bf16LinearWeights& weights, void* to_panels) const {
    auto* packed = static_cast<float*>(to_panels);
    for (int64_t i = 0; i < panels() * panel(); ++i) packed[i] = 0.0f;
    for (int64_t n = 0; n < sizes_.outputs; ++n) {
      float* to = packed + n / linear_block::kWidth * panel() + n % linear_block::kWidth;
      to[0] = weights.bias[n];
      for (int64_t k = 0; k < sizes_.inputs; ++k) {
        const uint32_t bits = uint32_t{weights.weight[n * sizes_.inputs + k]} << 16;
        __builtin_memcpy(to + (k + 1) * linear_block::kWidth, &bits, sizeof bits);
      }
    }
  }

  // As those of Linear, but that rows are asked for several times.
  static constexpr bool kRowsOnce = false;
  int64_t block_rows(int64_t rows) const { return linear_block::block_rows(rows); }
  int64_t block_words(int64_t block) const { return block * (stride() + sums()); }
  template <class Rows>
  void run_block(const Rows& row, int64_t count, const After& after, float* out,
                 uint32_t* own) const {
    auto* block_sums = reinterpret_cast<float*>(own);
    float* rounded_rows = block_sums + count * sums();
    const auto part = [&](int64_t k, int64_t depth) -> StridedRows {
      for (int64_t i = 0; i < count; ++i) {
        round_row(row(i) + k, depth, rounded_rows + i * stride());
      }
      return {rounded_rows, stride()};
    };
    linear_block::multiply_block(count, sizes_, packed_, block_sums, part,
                                 [out, &after](int64_t at, Vec* v, int64_t outputs) {
                                   if (after.gelu) {
                                     for (int i = 0; i < 2; ++i) v[i] = gelu(v[i]);
                                   }
                                   if (after.residual == nullptr) {
                                     store_pair(out + at, v, outputs);
                                   } else {
                                     store_pair_plus(out + at, v, outputs, after.residual + at);
                                   }
                                 });
  }

 private:
  // Floats of a row's sums, and of a rounded one: rows of many inputs are rounded step by step, as
  // whole ones would lie far apart.
  int64_t sums() const { return min(linear_block::kStep, panels() * linear_block::kWidth); }
  int64_t stride() const {
    return linear_block::row_stride(min(sizes_.inputs, linear_block::kStep));
  }

  int64_t panels() const { return linear_block::panels(sizes_); }
  int64_t panel() const { return panel_floats<2>(sizes_.inputs); }

  static void round_row(const float* x, int64_t count, float* to) {
    int64_t k = 0;
    for (; k + kLanes <= count; k += kLanes) store(to + k, (Vec)to_bfloat16(load(x + k)));
    const int rest = static_cast<int>(count - k);
    if (rest > 0) store(to + k, (Vec)to_bfloat16(load_partial(x + k, rest)));
  }

  LinearSizes sizes_;
  const float* packed_;
};
using Bf16Linear = RoundedLinear;
#elif defined(I2F_TILES)
using Bf16Linear = TiledLinear<Bf16>;
#else
using Bf16Linear = Linear<Bf16>;
#endif
#ifdef I2F_TILES
using Int8Linear = TiledLinear<Int8>;
#else
using Int8Linear = Linear<Int8>;
#endif

// A layer after a LayerNorm: rows are normalised on their way into it, or all of a block before it
// where the layer asks for them again.
template <class Layer>
class NormedLayer {
 public:
  NormedLayer(const Layer& layer, int64_t inputs, const Norm& norm)
      : layer_(layer), norm_(norm), inputs_(inputs), stride_(round_up(inputs, 16)) {}

  // Of memory that a block takes besides the layer's own.
  int64_t block_floats(int64_t block) const { return stride_ * (Layer::kRowsOnce ? 1 : block); }

  void run_block(const float* x, int64_t count, const After& after, float* out, float* normed,
                 uint32_t* own) const {
    const auto norm_to = [&](int64_t r, float* to) {
      norm_.run(x + r * inputs_, inputs_, to);
      return to;
    };
    if (Layer::kRowsOnce) {
      return layer_.run_block([&](int64_t r) { return norm_to(r, normed); }, count, after, out,
                              own);
    }
    for (int64_t r = 0; r < count; ++r) norm_to(r, normed + r * stride_);
    layer_.run_block([&](int64_t r) { return normed + r * stride_; }, count, after, out, own);
  }

 private:
  const Layer& layer_;
  Norm norm_;
  int64_t inputs_, stride_;
};

}  // namespace i2f::I2F_TIER::reduced_linear
