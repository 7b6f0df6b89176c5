// A residual block of the edge network on a matrix unit, by the plain formula on bfloat16 numbers.
//
// A row of the map, normalised and activated, lies in memory as bfloat16 numbers between pixels of
// zeros, and a tile of x is read from there as it is: from one of its rows to the next are
// the numbers of a pixel, and a row holds those of the pixels around it, as far as it reaches. So
// a convolution is a product for each of the three rows that it sees, of 3 C inputs.
//
// Few channels would leave most columns of a tile empty. There a row of a tile makes 16 numbers of
// several pixels from those and a pixel on either side, with zeros among the weights.

#include "kernels/bf16_edge_block.h"

#include "kernels/bfloat16.h"
#include "kernels/blocks.h"
#include "kernels/math.h"
#include "kernels/moments.h"
#include "kernels/tiles.h"

namespace i2f::I2F_TIER {
#ifdef I2F_TILES
namespace {

// How a block with so many channels is multiplied, and where its packed parameters lie, in words.
struct Layout {
  explicit Layout(int64_t channels)
      : few_channels(channels <= kTile),
        unit(few_channels ? kTile : channels),
        outputs(few_channels ? kTile : channels),
        steps(ceil_div(few_channels ? kTile + 2 * channels : 3 * channels, kDepth)),
        half(3 * outputs + 3 * steps * kTile * outputs) {}

  static bool serves(int64_t channels) {
    return channels % kDepth == 0 || (channels <= kTile && kTile % channels == 0 && channels > 1);
  }

  bool few_channels;
  int64_t unit;     // numbers of a map from one row of a tile to the next
  int64_t outputs;  // that a row of a tile leads to
  int64_t steps;    // tiles of x for each row of the map
  int64_t half;     // norm's scale and shift, bias, weights
};

struct Norm {
  float mean;
  const float *scale, *shift;  // of outputs
};

// One half of a block: norm, SiLU, convolution.
template <bool kFewChannels>
struct Convolution {
  static constexpr int kColumns = kFewChannels ? 1 : 2;    // tiles of sums beside each other
  static constexpr int kHeight = kFewChannels ? 4 : 2;     // and below each other
  static constexpr int kPanel = kColumns * kTile;          // outputs
  static constexpr int64_t kUnits = kHeight * kTile;       // made together
  static constexpr int64_t kBand = kFewChannels ? 32 : 8;  // rows of a block
  static constexpr int64_t kHeldWords = 128 << 10;         // of activated rows, about

  Convolution(const float* x, int64_t rows, int64_t columns, int64_t channels, const Layout& layout,
              const uint32_t* packed, const Norm& norm, const float* residual, float* y)
      : x(x),
        rows(rows),
        layout(layout),
        norm(norm),
        bias(packed + 2 * layout.outputs),
        weights(packed + 3 * layout.outputs),
        residual(residual),
        y(y),
        pad(channels),
        numbers(columns * channels),
        units(ceil_div(numbers, layout.unit)),
        stride(round_up(units, kUnits) * layout.unit / 2 + layout.steps * kTile),
        together(max(1, min(kBand, kHeldWords / stride - 2))),
        past_caches(rows * numbers >= kLargeMap && numbers % kLanes == 0 &&
                    reinterpret_cast<uintptr_t>(y) % sizeof(Vec) == 0) {}

  int64_t blocks() const { return ceil_div(rows, kBand); }
  int64_t scratch_words() const { return (together + 2) * stride; }

  // Makes block `block` of the result; its moments, if they are asked for.
  void run(int64_t block, uint32_t* scratch, Moments* moments) const {
    const int64_t begin = block * kBand, end = min(rows, begin + kBand);
    if (moments != nullptr) *moments = {};
    Tiles tiles;
    for (int64_t row = begin; row < end; row += together) {
      const int64_t last = min(end, row + together);
      for (int64_t r = row == begin ? row - 1 : row + 1; r <= last; ++r) {
        activate(r, held(scratch, r));
      }
      for (int64_t n = 0; n < layout.outputs; n += kPanel) {
        LaneMoments lanes[kColumns];
        for (int64_t r = row; r < last; ++r) {
          const uint32_t* around[3];
          for (int i = 0; i < 3; ++i) around[i] = held(scratch, r - 1 + i);
          for (int64_t u = 0; u < units; u += kUnits) {
            alignas(64) uint32_t sums[kUnits][kPanel];
            multiply(tiles, around, u * layout.unit / 2, n, sums);
            finish(sums, r, u, n, moments == nullptr ? nullptr : lanes, moments);
          }
        }
        if (moments == nullptr) continue;
        for (const LaneMoments& of : lanes) {
          if (of.vectors > 0) moments->add(of.moments(kLanes));
        }
      }
    }
    if (past_caches) end_of_stream();
  }

 private:
  static constexpr int64_t kLargeMap = 1 << 20;  // numbers of a map that leaves the caches

  uint32_t* held(uint32_t* scratch, int64_t row) const {
    return scratch + (row + together + 2) % (together + 2) * stride;
  }

  // Row `row`, normalised and activated, between pixels of zeros; rows beside the map are zeros.
  void activate(int64_t row, uint32_t* to) const {
    const int64_t before = pad / 2, behind = before + ceil_div(numbers, kDepth) * kTile;
    for (int64_t i = 0; i < before; ++i) to[i] = 0;
    const bool inside = row >= 0 && row < rows;
    const int64_t from_zero = inside ? behind : before;
    for (int64_t i = from_zero; i < stride; ++i) to[i] = 0;
    if (!inside) return;
    const float* from = x + row * numbers;
    const int64_t whole = numbers / kDepth * kDepth;
    to += before;
    for (int64_t i = 0; i < whole;) {
      for (int64_t c = 0; c < (kFewChannels ? kDepth : layout.outputs); c += kDepth) {
        const int64_t second = kFewChannels ? 0 : c + kLanes;
        const Vec low = activated(load(from + i), kFewChannels ? 0 : c);
        store(to, bfloat16_pairs(low, activated(load(from + i + kLanes), second)));
        i += kDepth;
        to += kTile;
      }
    }
    if (whole == numbers) return;  // as always with many channels
    float last[kDepth] = {};
    for (int64_t i = whole; i < numbers; i += kLanes) {
      const int left = static_cast<int>(min(kLanes, numbers - i));
      store_partial(last + (i - whole), activated(load_partial(from + i, left), 0), left);
    }
    store(to, bfloat16_pairs(load(last), load(last + kLanes)));
  }

  Vec activated(Vec v, int64_t channel) const {
    const Vec scale = load(norm.scale + channel), shift = load(norm.shift + channel);
    return silu((v - broadcast(norm.mean)) * scale + shift);
  }

  // The sums of kUnits units from word `first` of the rows on, outputs [n, n + kPanel).
  void multiply(Tiles& tiles, const uint32_t* const (&around)[3], int64_t first, int64_t n,
                uint32_t (&sums)[kUnits][kPanel]) const {
    const int64_t unit = layout.unit / 2;
    const uint32_t* w = weights + n * 3 * layout.steps * kTile;
    tiles.zero<0>();
    tiles.zero<1>();
    tiles.zero<2>();
    tiles.zero<3>();
    for (int i = 0; i < 3; ++i) {
      const uint32_t* rows_of_x = around[i] + first;
      for (int64_t k = 0; k < layout.steps; ++k, rows_of_x += kTile, w += kTile * kPanel) {
        if constexpr (kFewChannels) {
          tiles.load<6>(w, kPanel);
          tiles.load<4>(rows_of_x, unit);
          tiles.add_bfloat16<0, 4, 6>();
          tiles.load<5>(rows_of_x + kTile * unit, unit);
          tiles.add_bfloat16<1, 5, 6>();
          tiles.load<4>(rows_of_x + 2 * kTile * unit, unit);
          tiles.add_bfloat16<2, 4, 6>();
          tiles.load<5>(rows_of_x + 3 * kTile * unit, unit);
          tiles.add_bfloat16<3, 5, 6>();
        } else {
          tiles.load<6>(w, kPanel);
          tiles.load<7>(w + kTile, kPanel);
          tiles.load<4>(rows_of_x, unit);
          tiles.add_bfloat16<0, 4, 6>();
          tiles.add_bfloat16<1, 4, 7>();
          tiles.load<5>(rows_of_x + kTile * unit, unit);
          tiles.add_bfloat16<2, 5, 6>();
          tiles.add_bfloat16<3, 5, 7>();
        }
      }
    }
    if constexpr (kFewChannels) {
      tiles.store<0>(sums[0], kPanel);
      tiles.store<1>(sums[kTile], kPanel);
      tiles.store<2>(sums[2 * kTile], kPanel);
      tiles.store<3>(sums[3 * kTile], kPanel);
    } else {
      tiles.store<0>(sums[0], kPanel);
      tiles.store<1>(sums[0] + kTile, kPanel);
      tiles.store<2>(sums[kTile], kPanel);
      tiles.store<3>(sums[kTile] + kTile, kPanel);
    }
  }

  // Writes what becomes of the sums of units [u, u + kUnits) of row `row`, outputs [n, n + kPanel).
  // Whole vectors go into the moments of their lanes, others into `rest`; neither where there is no
  // `lanes`.
  void finish(const uint32_t (&sums)[kUnits][kPanel], int64_t row, int64_t u, int64_t n,
              LaneMoments* lanes, Moments* rest) const {
    const int64_t count = min(kUnits, units - u);
#pragma GCC unroll 2
    for (int j = 0; j < kColumns; ++j) {
      const Vec offset = (Vec)load(bias + n + j * kLanes);
      for (int64_t m = 0; m < count; ++m) {
        const int64_t in_row = (u + m) * layout.unit + n + j * kLanes, left = numbers - in_row;
        const int64_t at = row * numbers + in_row;
        Vec v = (Vec)load(sums[m] + j * kLanes) + offset;
        if (kFewChannels && left < kLanes) {
          const int some = static_cast<int>(left);
          if (residual != nullptr) v += load_partial(residual + at, some);
          store_partial(y + at, v, some);
          for (int i = 0; lanes != nullptr && i < some; ++i) rest->add({v[i], 0, 1});
          continue;
        }
        if (residual != nullptr) v += load(residual + at);
        past_caches ? stream(y + at, v) : store(y + at, v);
        if (lanes != nullptr) lanes[j].add(v);
      }
      if (lanes != nullptr) lanes[j].end_tile();
    }
  }

  const float* x;
  int64_t rows;
  const Layout& layout;
  Norm norm;
  const uint32_t *bias, *weights;
  const float* residual;
  float* y;
  int64_t pad;       // numbers of a pixel
  int64_t numbers;   // of a row
  int64_t units;     // of a row
  int64_t stride;    // words of an activated row
  int64_t together;  // rows whose activation is held, but for one before and one behind them
  bool past_caches;
};

template <bool kFewChannels>
void run_half(const Convolution<kFewChannels>& convolution, Moments* moments, const Memory& memory,
              const Parallel& parallel) {
  const int64_t blocks = convolution.blocks();
  Moments* parts = moments == nullptr ? nullptr : take<Moments>(memory, blocks);
  for_blocks(blocks, convolution.scratch_words(), memory, parallel, [&](int64_t b, float* scratch) {
    convolution.run(b, reinterpret_cast<uint32_t*>(scratch),
                    parts == nullptr ? nullptr : parts + b);
  });
  if (moments != nullptr) *moments = sum_of(parts, blocks);
}

template <bool kFewChannels>
void run_block(const float* x, int64_t rows, int64_t columns, int64_t channels,
               const uint32_t* packed, float epsilon, float* y, const Memory& memory,
               const Parallel& parallel) {
  using Half = Convolution<kFewChannels>;
  const Layout layout(channels);
  const int64_t count = rows * columns * channels;
  float* scale = take<float>(memory, layout.outputs);
  float* shift = take<float>(memory, layout.outputs);
  const auto norm = [&](const Moments& moments, const uint32_t* half) {
    const float inverse = moments.inverse_deviation(epsilon);
    for (int64_t i = 0; i < layout.outputs; i += kLanes) {
      store(scale + i, (Vec)load(half + i) * inverse);
      store(shift + i, (Vec)load(half + layout.outputs + i));
    }
    return Norm{static_cast<float>(moments.mean), scale, shift};
  };
  float* hidden = take<float>(memory, count);
  Moments moments = moments_of_all(x, count, memory, parallel);
  const Norm first = norm(moments, packed);
  run_half(Half(x, rows, columns, channels, layout, packed, first, nullptr, hidden), &moments,
           memory, parallel);
  packed += layout.half;
  const Norm second = norm(moments, packed);
  run_half(Half(hidden, rows, columns, channels, layout, packed, second, x, y), nullptr, memory,
           parallel);
}

// The bits of a number.
uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

void pack_half(const EdgeBlockHalf& half, int64_t channels, const Layout& layout,
               uint32_t* packed) {
  for (int64_t i = 0; i < layout.outputs; ++i) {
    packed[i] = bits_of(half.norm_weight[i % channels]);
    packed[layout.outputs + i] = bits_of(half.norm_bias[i % channels]);
    packed[2 * layout.outputs + i] = bits_of(half.conv_bias[i % channels]);
  }
  const int64_t panel = layout.few_channels ? kTile : 2 * kTile;
  uint32_t* to = packed + 3 * layout.outputs;
  for (int64_t first = 0; first < layout.outputs; first += panel) {
    for (int64_t dy = 0; dy < 3; ++dy) {
      for (int64_t k = 0; k < layout.steps * kTile; ++k) {
        for (int64_t n = first; n < first + panel; ++n) {
          uint32_t word = 0;
          for (int64_t i = 0; i < 2; ++i) {
            // Input 2 k + i is a channel of a pixel; output n, of a later one or the same.
            const int64_t input = 2 * k + i, dx = input / channels - n / channels;
            if (dx < 0 || dx > 2) continue;
            const int64_t at = (n % channels * channels + input % channels) * 9 + dy * 3 + dx;
            word |= bfloat16_of(half.conv_weight[at]) << (16 * i);
          }
          *to++ = word;
        }
      }
    }
  }
}

}  // namespace
#endif

size_t packed_bf16_edge_block_size([[maybe_unused]] int64_t channels) {
#ifdef I2F_TILES
  if (Layout::serves(channels)) {
    return static_cast<size_t>(2 * Layout(channels).half) * sizeof(uint32_t);
  }
#endif
  return 0;
}

void pack_bf16_edge_block([[maybe_unused]] const EdgeBlockHalf& first,
                          [[maybe_unused]] const EdgeBlockHalf& second,
                          [[maybe_unused]] int64_t channels, [[maybe_unused]] void* packed) {
#ifdef I2F_TILES
  const Layout layout(channels);
  auto* words = static_cast<uint32_t*>(packed);
  pack_half(first, channels, layout, words);
  pack_half(second, channels, layout, words + layout.half);
#endif
}

void bf16_edge_block([[maybe_unused]] const float* x, [[maybe_unused]] int64_t rows,
                     [[maybe_unused]] int64_t columns, [[maybe_unused]] int64_t channels,
                     [[maybe_unused]] const void* packed, [[maybe_unused]] float epsilon,
                     [[maybe_unused]] float* y, [[maybe_unused]] const Memory& memory,
                     [[maybe_unused]] const Parallel& parallel) {
#ifdef I2F_TILES
  const auto* words = static_cast<const uint32_t*>(packed);
  if (Layout(channels).few_channels) {
    run_block<true>(x, rows, columns, channels, words, epsilon, y, memory, parallel);
  } else {
    run_block<false>(x, rows, columns, channels, words, epsilon, y, memory, parallel);
  }
#endif
}

}  // namespace i2f::I2F_TIER
