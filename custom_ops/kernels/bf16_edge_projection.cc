// EdgeProjection in bfloat16 on a matrix unit (tiled_convolution.h).
//
// Where edge_projection.cc sums nine maps, here each result is a convolution of its own, with the
// taps that it has: the weight of a tap is W_tap L. Border terms above and below a token's row
// leave out rows of taps. Those on its left and right see one column of pixels: a row of a tile is
// a token there. What the lateral bias adds, W_tap b for each tap inside the map, is added to the
// sums in float32.

#include "kernels/bf16_edge_projection.h"

#include "kernels/tiled_convolution.h"

namespace i2f::I2F_TIER {
#ifdef I2F_TILES
namespace {

constexpr int64_t kBand = 16;  // rows of a block
constexpr int kTaps = 9;
constexpr int kAll = 7, kAbove = 1, kBelow = 4;  // rows of taps, a bit each

// The packed parameters, in words: what the lateral bias adds by tap [kTaps, out]; weights of all
// taps; those of the left and right column of taps.
struct Layout {
  Layout(int64_t in, int64_t out)
      : pixels(pixels_of_unit(out)),
        map((pixels + 2) * in, max(out, kTile)),
        column(in, round_up(out, kTile)),
        of_map(round_up(kTaps * out, kTile)),
        of_columns(of_map + map.words),
        words(of_columns + 2 * column.words) {}

  static bool serves(int64_t in, int64_t out) { return in % 2 == 0 && pixels_of_unit(out) > 0; }

  int64_t pixels;  // that a row of a tile makes
  TiledWeights map, column;
  int64_t of_map, of_columns, words;
};

// What the lateral bias adds to the sums of some rows of taps, in [first, between, last] units.
class Offsets {
 public:
  Offsets(const Layout& layout, const float* by_tap, int64_t out, int64_t side, int64_t grid,
          const Memory& memory)
      : map_(layout.map.outputs),
        column_(layout.column.outputs),
        floats_(take<float>(memory, 8 * set())) {
    const int64_t units = ceil_div(side, layout.pixels), last_pixel = (side - 1) % layout.pixels;
    for (int rows = 0; rows <= kAll; ++rows) {
      const auto sum = [&](int64_t channel, int64_t left, int64_t right) {
        float total = 0;
        for (int64_t tap = 0; channel < out && tap < kTaps; ++tap) {
          const bool taken = (rows >> tap / 3 & 1) != 0 && left <= tap % 3 && tap % 3 < right;
          if (taken) total += by_tap[tap * out + channel];
        }
        return total;
      };
      float* to = floats_ + rows * set();
      for (int64_t place = 0; place < 3; ++place) {
        const bool first = place == 0, last = place == 2 || (first && units == 1);
        for (int64_t n = 0; n < map_; ++n) {
          const int64_t pixel = n / out % layout.pixels;
          *to++ = sum(n % out, first && pixel == 0 ? 1 : 0, last && pixel == last_pixel ? 2 : 3);
        }
      }
      for (int64_t tap = 0; tap < 3; tap += 2) {
        for (int64_t place = 0; place < 3; ++place) {
          const bool first = place == 0, last = place == 2 || (first && grid == 1);
          const bool outside = tap == 0 ? first : last;
          for (int64_t n = 0; n < column_; ++n) *to++ = outside ? 0 : sum(n, tap, tap + 1);
        }
      }
    }
  }

  TiledOffsets of_map(int rows) const { return three(rows * set(), map_); }
  TiledOffsets of_column(int rows, bool right) const {
    return three(rows * set() + 3 * map_ + (right ? 3 * column_ : 0), column_);
  }

 private:
  int64_t set() const { return 3 * map_ + 6 * column_; }
  TiledOffsets three(int64_t at, int64_t outputs) const {
    const float* first = floats_ + at;
    return {first, first + outputs, first + 2 * outputs};
  }

  int64_t map_, column_;  // outputs
  float* floats_;
};

struct Projection {
  const Layout& layout;
  const Offsets& offsets;
  const uint32_t* packed;
  int64_t side, grid, in, out;
  EdgeTerms to;
  bool past_caches;

  int64_t unit() const { return layout.pixels * in / 2; }
  int64_t token() const { return side / grid * in / 2; }  // words
  int64_t behind_token() const { return token() + in / 2; }
  int64_t units() const { return ceil_div(side, layout.pixels); }
  int64_t row_words() const {
    return max(RoundedRows::words(0, units(), unit(), layout.map.steps),
               RoundedRows::words(behind_token(), grid, token(), layout.column.steps));
  }

  // Row y of all results.
  void run(Tiles& tiles, int64_t y, const uint32_t* const (&around)[3]) const {
    const int64_t s = side / grid, token_row = y / s, of_row = side * out;
    map(tiles, kAll, around, to.edge + y * of_row, past_caches);
    for (const bool right : {false, true}) {
      const int64_t plane = 2 + right;
      column(tiles, kAll, right, around, to.border + (plane * grid * side + y) * out, of_row);
    }
    for (const bool below : {false, true}) {
      if (y % s != (below ? s - 1 : 0)) continue;
      const int rows = below ? kBelow : kAbove;
      map(tiles, rows, around, to.border + (below * grid + token_row) * of_row, false);
      for (const bool right : {false, true}) {
        const int64_t plane = 2 * below + right;
        column(tiles, rows, right, around, to.corner + (plane * grid + token_row) * grid * out,
               out);
      }
    }
  }

 private:
  // The convolution of a row of the map, with some rows of taps.
  void map(Tiles& tiles, int rows, const uint32_t* const (&around)[3], float* result,
           bool past) const {
    const Chosen chosen(rows, around);
    const int64_t width = layout.map.outputs;
    multiply_tiles(tiles, layout.map, packed + layout.of_map, chosen.around, 0, units(), unit(),
                   offsets.of_map(chosen.rows), {result, width, width, side * out, past});
  }

  // The same on the left or right of each token, with the taps that are outside of it; results are
  // `stride` numbers apart.
  void column(Tiles& tiles, int rows, bool right, const uint32_t* const (&around)[3], float* result,
              int64_t stride) const {
    const Chosen chosen(rows, around);
    const uint32_t* weights = packed + layout.of_columns + (right ? layout.column.words : 0);
    multiply_tiles(tiles, layout.column, weights, chosen.around, right ? behind_token() : 0, grid,
                   token(), offsets.of_column(chosen.rows, right),
                   {result, stride, out, grid * stride, false});
  }

  // Those of three rows that are inside the map and taken.
  struct Chosen {
    Chosen(int taken, const uint32_t* const (&given)[3]) : rows(0) {
      for (int i = 0; i < 3; ++i) {
        around[i] = (taken >> i & 1) != 0 ? given[i] : nullptr;
        if (around[i] != nullptr) rows |= 1 << i;
      }
    }
    const uint32_t* around[3];
    int rows;
  };
};

}  // namespace
#endif

size_t packed_bf16_edge_projection_size([[maybe_unused]] int64_t in_channels,
                                        [[maybe_unused]] int64_t out_channels) {
#ifdef I2F_TILES
  if (Layout::serves(in_channels, out_channels)) {
    return static_cast<size_t>(Layout(in_channels, out_channels).words) * sizeof(uint32_t);
  }
#endif
  return 0;
}

void pack_bf16_edge_projection([[maybe_unused]] const EdgeProjectionWeights& weights,
                               [[maybe_unused]] void* packed) {
#ifdef I2F_TILES
  const int64_t in = weights.in_channels, middle = weights.middle_channels;
  const int64_t out = weights.out_channels;
  const Layout layout(in, out);
  // W_tap v of an output, v being `stride` numbers apart.
  const auto product = [&](int64_t tap, int64_t output, const float* v, int64_t stride) {
    double sum = 0;
    for (int64_t m = 0; m < middle; ++m) {
      const double w = weights.conv_weight[(output * middle + m) * kTaps + tap];
      sum += w * v[m * stride];
    }
    return static_cast<float>(sum);
  };
  auto* bias = static_cast<float*>(packed);
  for (int64_t i = 0; i < layout.of_map; ++i) {
    bias[i] = i < kTaps * out ? product(i / out, i % out, weights.lateral_bias, 1) : 0.0f;
  }
  auto* words = static_cast<uint32_t*>(packed);
  const auto tap_weight = [&](int64_t row, int64_t column, int64_t input, int64_t output) {
    return product(3 * row + column, output, weights.lateral_weight + input, in);
  };
  const auto of_map = [&](int64_t row, int64_t input, int64_t output) {
    const int64_t column = input / in - output / out;  // the pixel that is seen, from the first
    if (column < 0 || column > 2) return 0.0f;
    return tap_weight(row, column, input % in, output % out);
  };
  layout.map.pack(of_map, words + layout.of_map);
  for (const int64_t column : {0, 2}) {
    const auto of_column = [&](int64_t row, int64_t input, int64_t output) {
      if (input >= in || output >= out) return 0.0f;
      return tap_weight(row, column, input, output);
    };
    layout.column.pack(of_column,
                       words + layout.of_columns + (column == 0 ? 0 : layout.column.words));
  }
#endif
}

void bf16_edge_projection([[maybe_unused]] const float* x, [[maybe_unused]] int64_t side,
                          [[maybe_unused]] int64_t grid, [[maybe_unused]] int64_t in_channels,
                          [[maybe_unused]] int64_t out_channels,
                          [[maybe_unused]] const void* packed,
                          [[maybe_unused]] const EdgeTerms& terms,
                          [[maybe_unused]] const Memory& memory,
                          [[maybe_unused]] const Parallel& parallel) {
#ifdef I2F_TILES
  const Layout layout(in_channels, out_channels);
  const int64_t of_row = side * out_channels;
  const Offsets offsets(layout, static_cast<const float*>(packed), out_channels, side, grid,
                        memory);
  const Projection projection{
      layout,       offsets, static_cast<const uint32_t*>(packed),
      side,         grid,    in_channels,
      out_channels, terms,   goes_past_caches(terms.edge, side * of_row, of_row)};
  convolve_rows({x, side, side, in_channels, projection.row_words()}, 1, side, kBand,
                projection.past_caches, memory, parallel,
                [&](Tiles& tiles, int64_t y, const uint32_t* const(&around)[3]) {
                  projection.run(tiles, y, around);
                });
#endif
}

}  // namespace i2f::I2F_TIER
