// Linear layers in low precision. A task converts a block of rows once, to the smallest type that
// the machine multiplies, and multiplies it by one panel of weights after the other: the panel
// stays in the first cache and the block in the second, the weights are read once a block. The
// epilogue (scales, bias, GELU) runs on the sums of a tile before they leave the first cache.

#include "kernels/reduced_precision_linear.h"

#include "kernels/dot.h"
#include "kernels/gemm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kVectors = 2;                  // of columns of a panel
constexpr int kColumns = kVectors * kLanes;  // of a panel
constexpr int kRows = kTileRows<kVectors>;   // of a tile
constexpr int64_t kBlockWords = 96 << 10;    // of a task's converted rows: half of a second cache
constexpr int64_t kBlockTiles = 10;          // of a block, at most: tasks for many threads
constexpr int64_t kMaxTasks = 64;            // bounds the scratch

// A vector of the factors of kLanes words' worth of lanes.
template <class Factor>
using Factors __attribute__((vector_size(kLanes * sizeof(Factor)))) = Factor;

// The value of x as the register that the compiler would compute it in: no product fuses across.
inline Vec rounded(Vec x) {
  asm("" : "+m"(x));
  return x;
}

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
    return static_cast<uint32_t>(int32_t{weights.weight[at]});
  }
  // Row `n` of the weights, in lane j of the head.
  static void pack_head(const Weights& weights, int64_t inputs, int64_t n, int64_t j,
                        uint32_t* head) {
    int32_t sum = 0;
    for (int64_t k = 0; k < inputs; ++k) sum += weights.weight[n * inputs + k];
    // x w = (x + offset) w - offset w; a sum of bytes times 128 wraps as the sums it goes into.
    head[j] = 0u - static_cast<uint32_t>(sum) * static_cast<uint32_t>(Dot::kOffset);
    __builtin_memcpy(head + kColumns + j, weights.scale + n, sizeof(float));
    __builtin_memcpy(head + 2 * kColumns + j, weights.bias + n, sizeof(float));
  }
  static VecInt start(const uint32_t* head) { return (VecInt)load(head); }

  // Converts a row to factors, with zeros behind; returns its scale, NaN where a value is not
  // finite. Values below 2^-100 all through count as 0: 127 / peak stays finite.
  static float convert(const float* x, int64_t inputs, Dot::Factor* to, int64_t padded) {
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
    int64_t k = 0;
    for (; k < whole; k += kLanes) put(nearest(load(x + k) * inverse), to + k);
    if (k < padded) put(nearest(load_partial(x + k, rest) * inverse), to + k);
    return finite ? peak / 127.0f : __builtin_nanf("");
  }
  static void put(VecInt x, Dot::Factor* to) {
    const auto converted = __builtin_convertvector(x + Dot::kOffset, Factors<Dot::Factor>);
    __builtin_memcpy(to, &converted, sizeof converted);  // of no alignment
  }

  static Vec finish(VecInt sums, const uint32_t* head, float scale) {
    const Vec scaled = __builtin_convertvector(sums, Vec) * (Vec)load(head + kColumns);
    return rounded(scaled * scale) + (Vec)load(head + 2 * kColumns);
  }
};

struct Bf16 {
  using Dot = Bf16Dot;
  using Weights = Bf16LinearWeights;
  static constexpr int kHead = 1;  // of a panel: biases, which sums start from
  static constexpr int64_t kRunWords = Dot::kRun / Dot::kDepth;
  static constexpr int kShift = Dot::kDepth == 1 ? 0 : 16;  // of a bfloat16 in a float

  static uint32_t weight(const Weights& weights, int64_t at) {
    return static_cast<uint32_t>(weights.weight[at]) << 16 >> kShift;
  }
  static void pack_head(const Weights& weights, int64_t, int64_t n, int64_t j, uint32_t* head) {
    __builtin_memcpy(head + j, weights.bias + n, sizeof(float));
  }
  static Vec start(const uint32_t* head) { return (Vec)load(head); }

  static float convert(const float* x, int64_t inputs, Dot::Factor* to, int64_t padded) {
    const int64_t whole = inputs / kLanes * kLanes;
    int64_t k = 0;
    for (; k < whole; k += kLanes) put(load(x + k), to + k);
    if (k < padded) put(load_partial(x + k, static_cast<int>(inputs - k)), to + k);
    return 1.0f;
  }
  // Rounds to the nearest even; a NaN stays one.
  static void put(Vec x, Dot::Factor* to) {
    const VecWord bits = (VecWord)x;
    VecWord near = bits + 0x7fff + (bits >> 16 & 1);
    near = (VecInt)(bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : near;
    near = (near & 0xffff0000) >> kShift;
    const auto converted = __builtin_convertvector(near, Factors<Dot::Factor>);
    __builtin_memcpy(to, &converted, sizeof converted);  // of no alignment
  }

  static Vec finish(Vec sums, const uint32_t*, float) { return sums; }
};

template <class P>
class Linear {
 public:
  using Dot = typename P::Dot;
  using Sums = typename Dot::Sums;
  using Factor = typename Dot::Factor;

  Linear(const LinearSizes& sizes, const void* packed)
      : sizes_(sizes),
        words_(ceil_div(sizes.inputs, Dot::kDepth)),
        panels_(ceil_div(sizes.outputs, kColumns)),
        packed_(static_cast<const uint32_t*>(packed)) {}

  size_t packed_bytes() const {
    return static_cast<size_t>(panels_ * panel_words()) * sizeof(uint32_t);
  }

  void pack(const typename P::Weights& weights, uint32_t* packed) const {
    constexpr int kBits = 32 / Dot::kDepth;
    constexpr uint32_t kMask = ~0u >> (32 - kBits);
    for (int64_t i = 0; i < panels_ * panel_words(); ++i) packed[i] = 0;
    for (int64_t n = 0; n < sizes_.outputs; ++n) {
      uint32_t* head = packed + n / kColumns * panel_words();
      P::pack_head(weights, sizes_.inputs, n, n % kColumns, head);
      uint32_t* to = head + P::kHead * kColumns + n % kColumns;
      for (int64_t k = 0; k < sizes_.inputs; ++k) {
        const uint32_t factor = P::weight(weights, n * sizes_.inputs + k) & kMask;
        to[k / Dot::kDepth * kColumns] |= factor << (k % Dot::kDepth * kBits);
      }
    }
  }

  void run(const float* x, int64_t rows, bool gelu, float* out, const Memory& memory,
           const Parallel& parallel) const {
    if (rows == 0) return;
    const int64_t most = kBlockWords / words_ / kRows;
    const int64_t block = kRows * max(1, min(kBlockTiles, most));
    const int64_t tasks = min(kMaxTasks, ceil_div(rows, block));
    const int64_t tiles = ceil_div(min(rows, block), kRows);
    // Of a task: converted rows, tile by tile, then a row on its way there.
    const int64_t row_words = ceil_div(words_ * Dot::kDepth, kLanes) * kLanes;
    const int64_t task_words = tiles * kRows * words_ + row_words;
    uint32_t* words = take<uint32_t>(memory, tasks * task_words);
    float* scales = take<float>(memory, tasks * tiles * kRows);
    parallel_for(parallel, static_cast<size_t>(tasks), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      uint32_t* own = words + i * task_words;
      for_parts(rows * i / tasks, rows * (i + 1) / tasks, block, [&](int64_t first, int64_t last) {
        convert(x, first, last, own, own + tiles * kRows * words_, scales + i * tiles * kRows);
        multiply_block(first, last, own, scales + i * tiles * kRows, gelu, out);
      });
    });
  }

 private:
  int64_t panel_words() const { return (P::kHead + words_) * kColumns; }

  // Rows [first, last) to tiles of words [words_][kRows].
  void convert(const float* x, int64_t first, int64_t last, uint32_t* tiles, uint32_t* row,
               float* scales) const {
    for (int64_t r = 0; r < last - first; ++r) {
      scales[r] = P::convert(x + (first + r) * sizes_.inputs, sizes_.inputs,
                             reinterpret_cast<Factor*>(row), words_ * Dot::kDepth);
      uint32_t* to = tiles + r / kRows * kRows * words_ + r % kRows;
      for (int64_t k = 0; k < words_; ++k) to[k * kRows] = row[k];
    }
  }

  void multiply_block(int64_t first, int64_t last, const uint32_t* tiles, const float* scales,
                      bool gelu, float* out) const {
    for (int64_t p = 0; p < panels_; ++p) {
      const uint32_t* panel = packed_ + p * panel_words();
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t rows = min(kRows, last - row);
        const uint32_t* x = tiles + (row - first) * words_;
        Sums sums[kRows][kVectors];
        with_rows<kRows>(
            rows, [&](auto height) { multiply_tile<decltype(height)::kCount>(x, panel, sums); });
        float* to = out + row * sizes_.outputs + p * kColumns;
        const auto finish = gelu ? &Linear::finish<true> : &Linear::finish<false>;
        (this->*finish)(sums, rows, panel, scales + (row - first), sizes_.outputs - p * kColumns,
                        to);
      }
    }
  }

  template <int M>
  void multiply_tile(const uint32_t* x, const uint32_t* panel, Sums (&to)[kRows][kVectors]) const {
    const uint32_t* factors = panel + P::kHead * kColumns;
    for (int64_t begin = 0; begin < words_; begin += P::kRunWords) {
      const int64_t end = min(words_, begin + P::kRunWords);
      Sums sums[M][kVectors];
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
        for (int n = 0; n < kVectors; ++n) {
          sums[m][n] = begin == 0 ? P::start(panel + n * kLanes) : Sums{};
        }
      }
      for (int64_t k = begin; k < end; ++k, factors += kColumns, x += kRows) {
        VecWord column[kVectors];
#pragma GCC unroll 32
        for (int n = 0; n < kVectors; ++n) column[n] = load(factors + n * kLanes);
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
          to[m][n] = begin == 0 ? sums[m][n] : to[m][n] + sums[m][n];
        }
      }
    }
  }

  // One function for tiles of every height: the compiler may fuse a product and a sum here or not,
  // but always alike.
  template <bool kGelu>
  __attribute__((noinline)) void finish(const Sums (&sums)[kRows][kVectors], int64_t rows,
                                        const uint32_t* head, const float* scales, int64_t columns,
                                        float* out) const {
#pragma GCC unroll 1
    for (int64_t m = 0; m < rows; ++m, out += sizes_.outputs) {
#pragma GCC unroll 1
      for (int n = 0; n < kVectors; ++n) {
        Vec y = P::finish(sums[m][n], head + n * kLanes, scales[m]);
        if constexpr (kGelu) y = gelu(y);
        const int64_t left = columns - n * kLanes;
        if (left >= kLanes) {
          store(out + n * kLanes, y);
        } else if (left > 0) {
          store_partial(out + n * kLanes, y, static_cast<int>(left));
        }
      }
    }
  }

  LinearSizes sizes_;
  int64_t words_;  // of a converted row
  int64_t panels_;
  const uint32_t* packed_;
};

}  // namespace

size_t packed_int8_linear_size(const LinearSizes& sizes) {
  return Linear<Int8>(sizes, nullptr).packed_bytes();
}

void pack_int8_linear(const LinearSizes& sizes, const Int8LinearWeights& weights, void* packed) {
  Linear<Int8>(sizes, nullptr).pack(weights, static_cast<uint32_t*>(packed));
}

void int8_linear(const float* x, int64_t rows, const LinearSizes& sizes, const void* packed,
                 bool gelu, float* out, const Memory& memory, const Parallel& parallel) {
  Linear<Int8>(sizes, packed).run(x, rows, gelu, out, memory, parallel);
}

size_t packed_bf16_linear_size(const LinearSizes& sizes) {
  return Linear<Bf16>(sizes, nullptr).packed_bytes();
}

void pack_bf16_linear(const LinearSizes& sizes, const Bf16LinearWeights& weights, void* packed) {
  Linear<Bf16>(sizes, nullptr).pack(weights, static_cast<uint32_t*>(packed));
}

void bf16_linear(const float* x, int64_t rows, const LinearSizes& sizes, const void* packed,
                 bool gelu, float* out, const Memory& memory, const Parallel& parallel) {
  Linear<Bf16>(sizes, packed).run(x, rows, gelu, out, memory, parallel);
}

}  // namespace i2f::I2F_TIER
