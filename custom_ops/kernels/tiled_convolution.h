// 3x3 convolutions of maps in bfloat16 on a matrix unit.
//
// A row of a map lies in memory as bfloat16 numbers behind a pixel of zeros, and a tile of x is
// read from there as it is: one of its rows has the numbers of the pixels that one or several
// pixels of the result see, as far as it reaches; the next begins as much later as that result
// does. So a convolution is a product for each of the three rows that it sees. What a row of a tile
// holds beyond those pixels meets zeros among the weights.
#pragma once

#include "kernels/bfloat16.h"
#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/tiles.h"

#ifdef I2F_TILES
namespace i2f::I2F_TIER {

// Weights of a product: `outputs` columns, a multiple of kTile, from `inputs` numbers of each of
// three rows. Columns lie in panels; in each, tiles of the first row's inputs come first.
struct TiledWeights {
  TiledWeights(int64_t inputs, int64_t outputs)
      : outputs(outputs),
        columns(outputs % (2 * kTile) == 0 ? 2 : 1),
        steps(ceil_div(inputs, kDepth)),
        words(3 * steps * kTile * outputs) {}

  // weight(row, input, output) is a number; input may lie behind the last one.
  template <class Weight>
  void pack(const Weight& weight, uint32_t* to) const {
    const int64_t panel = columns * kTile;
    for (int64_t first = 0; first < outputs; first += panel) {
      for (int64_t row = 0; row < 3; ++row) {
        for (int64_t k = 0; k < steps * kTile; ++k) {
          for (int64_t n = first; n < first + panel; ++n) {
            *to++ = bfloat16_of(weight(row, 2 * k, n)) | bfloat16_of(weight(row, 2 * k + 1, n))
                                                             << 16;
          }
        }
      }
    }
  }

  int64_t outputs;
  int64_t columns;  // tiles of a panel
  int64_t steps;    // tiles for each of the three rows
  int64_t words;
};

// Three rows of a map [rows, columns, channels] as bfloat16 numbers, channels being even: each is
// held in the place of one that is three rows away.
struct RoundedRows {
  // Words of a row of which `units` rows of tiles are read, `unit` words from one to the next, from
  // word `start` on, `steps` tiles beside each other.
  static int64_t words(int64_t start, int64_t units, int64_t unit, int64_t steps) {
    return round_up(start + round_up(units, kTile) * unit + steps * kTile, kTile);
  }

  uint32_t* at(int64_t row) const { return memory + (row + 3) % 3 * stride; }

  void round(int64_t row) const {
    uint32_t* to = at(row);
    const int64_t numbers = columns * channels, before = channels / 2;
    for (int64_t i = 0; i < before; ++i) to[i] = 0;
    const float* from = x + row * numbers;
    to += before;
    const int64_t whole = numbers / kDepth * kDepth;
    for (int64_t i = 0; i < whole; i += kDepth) {
      store(to + i / 2, bfloat16_pairs(load(from + i), load(from + i + kLanes)));
    }
    for (int64_t i = whole; i < numbers; i += 2) {
      to[i / 2] = bfloat16_of(from[i]) | bfloat16_of(from[i + 1]) << 16;
    }
    for (int64_t i = numbers / 2; i < stride - before; ++i) to[i] = 0;
  }

  const float* x;
  int64_t rows, columns, channels;
  int64_t stride;  // words
  uint32_t* memory = nullptr;
};

// Calls run(tiles, row, around) for each of `height` rows of a convolution that begins at every
// `step`-th row, 1 or 2, of a map: `around` are the three rows that it sees, nullptr where there is
// none. A task has bands of `band` rows; `x` is without memory.
template <class Run>
inline void convolve_rows(RoundedRows x, int64_t step, int64_t height, int64_t band,
                          bool past_caches, const Memory& memory, const Parallel& parallel,
                          const Run& run) {
  for_blocks(ceil_div(height, band), 3 * x.stride, memory, parallel,
             [&](int64_t block, float* scratch) {
               const int64_t begin = block * band, end = min(height, begin + band);
               RoundedRows held = x;
               held.memory = reinterpret_cast<uint32_t*>(scratch);
               Tiles tiles;
               for (int64_t row = begin; row < end; ++row) {
                 const uint32_t* around[3];
                 for (int64_t i = 0; i < 3; ++i) {
                   const int64_t r = step * row - 1 + i;
                   const bool inside = r >= 0 && r < x.rows;
                   around[i] = inside ? held.at(r) : nullptr;
                   if (inside && (i >= 3 - step || row == begin)) held.round(r);
                 }
                 run(tiles, row, around);
               }
               if (past_caches) end_of_stream();
             });
}

// Which numbers come out of a row of tiles, and where they go.
struct TiledOutput {
  // The number of values that are wanted of outputs [n, n + kLanes) of unit u.
  int64_t count(int64_t u, int64_t n) const { return min(width - n, total - u * stride - n); }

  float* to;
  int64_t stride;    // from a unit's numbers to those of the next
  int64_t width;     // numbers of a unit that are wanted
  int64_t total;     // numbers behind `to` that units may write
  bool past_caches;  // vectors are whole and aligned
};

// What is added to sums: numbers of the first unit, the last one and those between, `outputs` each.
// A single unit is a first one.
struct TiledOffsets {
  const float *first, *between, *last;
};

// `units` rows of tiles, `unit` words from one to the next, from word `start` of the three rows
// `around` on, times `weights` and plus `offsets`. Rows that are nullptr count as zeros. Whole
// tiles are read.
template <int kColumns>
inline void multiply_tiles(Tiles& tiles, const TiledWeights& layout, const uint32_t* weights,
                           const uint32_t* const (&around)[3], int64_t start, int64_t units,
                           int64_t unit, const TiledOffsets& offsets, const TiledOutput& out) {
  constexpr int64_t kHeight = 4 / kColumns, kUnits = kHeight * kTile, kPanel = kColumns * kTile;
  alignas(64) float sums[kUnits][kPanel];
  auto* words = reinterpret_cast<uint32_t*>(sums);
  for (int64_t u = 0; u < units; u += kUnits) {
    const int64_t count = min(kUnits, units - u), height = ceil_div(count, kTile);
    for (int64_t n = 0; n < layout.outputs; n += kPanel) {
      tiles.zero<0>();
      tiles.zero<1>();
      tiles.zero<2>();
      tiles.zero<3>();
      for (int i = 0; i < 3; ++i) {
        if (around[i] == nullptr) continue;
        const uint32_t* x = around[i] + start + u * unit;
        const uint32_t* w = weights + (3 * n + i * kPanel) * layout.steps * kTile;
        for (int64_t k = 0; k < layout.steps; ++k, x += kTile, w += kTile * kPanel) {
          tiles.load<6>(w, kPanel);
          tiles.load<4>(x, unit);
          tiles.add_bfloat16<0, 4, 6>();
          if constexpr (kColumns == 1) {
            if (height < 2) continue;
            tiles.load<5>(x + kTile * unit, unit);
            tiles.add_bfloat16<1, 5, 6>();
            if (height < 3) continue;
            tiles.load<4>(x + 2 * kTile * unit, unit);
            tiles.add_bfloat16<2, 4, 6>();
            if (height < 4) continue;
            tiles.load<5>(x + 3 * kTile * unit, unit);
            tiles.add_bfloat16<3, 5, 6>();
          } else {
            tiles.load<7>(w + kTile, kPanel);
            tiles.add_bfloat16<1, 4, 7>();
            if (height < 2) continue;
            tiles.load<5>(x + kTile * unit, unit);
            tiles.add_bfloat16<2, 5, 6>();
            tiles.add_bfloat16<3, 5, 7>();
          }
        }
      }
      constexpr int64_t kBelow = kTile * kPanel;
      tiles.store<0>(words, kPanel);
      tiles.store<1>(words + (kColumns == 1 ? kBelow : kTile), kPanel);
      tiles.store<2>(words + (kColumns == 1 ? 2 * kBelow : kBelow), kPanel);
      tiles.store<3>(words + (kColumns == 1 ? 3 * kBelow : kBelow + kTile), kPanel);
      for (int64_t m = 0; m < count; ++m) {
        const int64_t at = u + m;
        const float* offset = at == 0           ? offsets.first
                              : at == units - 1 ? offsets.last
                                                : offsets.between;
#pragma GCC unroll 2
        for (int64_t j = 0; j < kPanel; j += kLanes) {
          const Vec v = load(sums[m] + j) + load(offset + n + j);
          float* to = out.to + at * out.stride + n + j;
          const int64_t left = out.count(at, n + j);
          if (left >= kLanes) {
            out.past_caches ? stream(to, v) : store(to, v);
          } else if (left > 0) {
            store_partial(to, v, static_cast<int>(left));
          }
        }
      }
    }
  }
}

inline void multiply_tiles(Tiles& tiles, const TiledWeights& layout, const uint32_t* weights,
                           const uint32_t* const (&around)[3], int64_t start, int64_t units,
                           int64_t unit, const TiledOffsets& offsets, const TiledOutput& out) {
  (layout.columns == 1 ? multiply_tiles<1> : multiply_tiles<2>)(tiles, layout, weights, around,
                                                                start, units, unit, offsets, out);
}

constexpr int64_t kLargeMap = 1 << 20;  // numbers of a map that leaves the caches

// Whether whole vectors of a large map may go past the caches.
inline bool goes_past_caches(const float* map, int64_t numbers, int64_t of_row) {
  return numbers >= kLargeMap && of_row % kLanes == 0 &&
         reinterpret_cast<uintptr_t>(map) % sizeof(Vec) == 0;
}

// How many pixels of a result with so many channels a row of a tile makes; 0 where none.
inline int64_t pixels_of_unit(int64_t channels) {
  if (channels % kTile == 0) return 1;
  return channels < kTile && kTile % channels == 0 ? kTile / channels : 0;
}

}  // namespace i2f::I2F_TIER
#endif
