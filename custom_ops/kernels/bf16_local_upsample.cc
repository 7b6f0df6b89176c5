// A stage of local upsampling on a matrix unit: the tap maps (kernels/upsample_by_taps.h) are
// products of bfloat16 numbers. A tile of pixels is converted once and meets one panel of (tap,
// output channel) after the other; sums go from the tiles to where the maps lie.

#include "kernels/bf16_local_upsample.h"

#include "kernels/bfloat16.h"
#include "kernels/tiles.h"
#include "kernels/upsample_by_taps.h"

namespace i2f::I2F_TIER {
#ifdef I2F_TILES
namespace {

bool serves(int64_t in, int64_t out) { return in % kDepth == 0 && out % kTile == 0; }

// Where the packed parameters lie, in words: the norm's, what the sums start from, and for each
// tile of columns the weights.
struct Layout {
  Layout(int64_t in, int64_t out)
      : columns(kTaps * out),
        steps(in / kDepth),
        starts(2 * norm_period(in)),
        weights(starts + columns),
        total(weights + columns * in / 2) {}

  int64_t columns;  // (tap, output channel)
  int64_t steps;    // tiles of inputs
  int64_t starts, weights, total;
};

struct TapMaps {
  static constexpr int kPixels = 2 * kTile;

  Layout layout;
  const uint32_t* packed;

  int64_t scratch_floats() const { return kPixels * layout.steps * kTile + kTile * kTile; }

  void make(const Stage& stage, int64_t begin, int64_t end, float* scratch) const {
    auto* x = reinterpret_cast<uint32_t*>(scratch);
    float* rest = scratch + kPixels * layout.steps * kTile;
    const int64_t half = kTile * layout.steps * kTile;  // words of the pixels of a tile
    Tiles tiles;
    for (int64_t pixel = begin; pixel < end;) {
      Part upper = part(stage, pixel, end);
      Part lower = part(stage, pixel + upper.count, end);
      convert(stage, upper, x);
      if (lower.count > 0) convert(stage, lower, x + half);
      upper.rest = lower.rest = rest;
      for (int64_t n = 0; n < layout.columns; n += 2 * kTile) {
        const bool both = n + kTile < layout.columns;
        multiply(tiles, x, half, n, both);
        keep<0>(tiles, stage, upper, n);
        if (both) keep<1>(tiles, stage, upper, n + kTile);
        if (lower.count == 0) continue;
        keep<2>(tiles, stage, lower, n);
        if (both) keep<3>(tiles, stage, lower, n + kTile);
      }
      pixel += upper.count + lower.count;
    }
  }

 private:
  // Up to kTile pixels beside each other.
  struct Part {
    int64_t first, count;
    float* rest;  // [kTile, kTile], for sums of which some have no pixel
  };

  static Part part(const Stage& stage, int64_t first, int64_t end) {
    const int64_t left_of_row = stage.columns - first % stage.columns;
    return {first, max(0, min(kTile, min(left_of_row, end - first))), nullptr};
  }

  // Normed pixels of a part, tile behind tile; what lies behind the last pixel is left as it is.
  void convert(const Stage& stage, const Part& part, uint32_t* x) const {
    const Vec mean = broadcast(stage.mean);
    for (int64_t m = 0; m < part.count; ++m) {
      const float* from = stage.x + (part.first + m) * stage.in;
      for (int64_t k = 0; k < layout.steps; ++k) {
        Vec v[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const int64_t c = k * kDepth + i * kLanes;
          __builtin_prefetch(from + c + stage.ahead());
          v[i] = (load(from + c) - mean) * load(stage.scale + c) + load(stage.shift + c);
        }
        store(x + (k * kTile + m) * kTile, bfloat16_pairs(v[0], v[1]));
      }
    }
  }

  // Sums of both parts for the tiles of columns n and, if there are two, n + kTile: tiles 0 to 3.
  void multiply(Tiles& tiles, const uint32_t* x, int64_t half, int64_t n, bool both) const {
    const uint32_t* start = packed + layout.starts + n;
    const int64_t of_column = layout.steps * kTile * kTile;
    const uint32_t* w = packed + layout.weights + n / kTile * of_column;
    tiles.load<0>(start, 0);  // the same row for every pixel
    tiles.load<2>(start, 0);
    if (both) tiles.load<1>(start + kTile, 0), tiles.load<3>(start + kTile, 0);
    for (int64_t k = 0; k < layout.steps; ++k) {
      const int64_t at = k * kTile * kTile;
      tiles.load<4>(x + at, kTile);
      tiles.load<5>(x + half + at, kTile);
      tiles.load<6>(w + at, kTile);
      tiles.add_bfloat16<0, 4, 6>();
      tiles.add_bfloat16<2, 5, 6>();
      if (!both) continue;
      tiles.load<7>(w + of_column + at, kTile);
      tiles.add_bfloat16<1, 4, 7>();
      tiles.add_bfloat16<3, 5, 7>();
    }
  }

  // Writes the sums of a part for columns [n, n + kTile), all of one tap.
  template <int kSums>
  void keep(Tiles& tiles, const Stage& stage, const Part& part, int64_t n) const {
    float* to = stage.pixel(part.first) + n / stage.out * stage.tap + n % stage.out;
    if (part.count == kTile) {
      tiles.store<kSums>(reinterpret_cast<uint32_t*>(to), stage.out);
      return;
    }
    tiles.store<kSums>(reinterpret_cast<uint32_t*>(part.rest), kTile);
    for (int64_t m = 0; m < part.count; ++m) {
      store(to + m * stage.out, load(part.rest + m * kTile));
    }
  }
};

}  // namespace
#endif

size_t packed_bf16_upsample_size([[maybe_unused]] int64_t in_channels,
                                 [[maybe_unused]] int64_t out_channels) {
#ifdef I2F_TILES
  if (serves(in_channels, out_channels)) {
    return static_cast<size_t>(Layout(in_channels, out_channels).total) * sizeof(uint32_t);
  }
#endif
  return 0;
}

void pack_bf16_upsample([[maybe_unused]] const UpsampleWeights& weights,
                        [[maybe_unused]] void* packed) {
#ifdef I2F_TILES
  const int64_t in = weights.in_channels, out = weights.out_channels;
  const Layout layout(in, out);
  auto* words = static_cast<uint32_t*>(packed);
  float* starts = pack_norm(weights, static_cast<float*>(packed));
  for (int64_t n = 0; n < layout.columns; ++n) {
    const int64_t tap = n / out, channel = n % out;
    starts[n] = tap == kCentre ? weights.conv_bias[channel] : 0.0f;
    uint32_t* to = words + layout.weights + n / kTile * in / 2 * kTile + n % kTile;
    for (int64_t k = 0; k < in / 2; ++k) {
      const auto factor = [&](int64_t input) {
        return bfloat16_of(weights.conv_weight[(channel * in + input) * kTaps + tap]);
      };
      to[k * kTile] = factor(2 * k) | factor(2 * k + 1) << 16;
    }
  }
#endif
}

void bf16_local_upsample([[maybe_unused]] const float* x, [[maybe_unused]] int64_t rows,
                         [[maybe_unused]] int64_t columns, [[maybe_unused]] int64_t in_channels,
                         [[maybe_unused]] int64_t out_channels,
                         [[maybe_unused]] const EdgeFeatures& edge_features,
                         [[maybe_unused]] const void* packed, [[maybe_unused]] float epsilon,
                         [[maybe_unused]] bool activate, [[maybe_unused]] float* y,
                         [[maybe_unused]] const Memory& memory,
                         [[maybe_unused]] const Parallel& parallel) {
#ifdef I2F_TILES
  float* scale = take<float>(memory, norm_period(in_channels));
  const UpsampleStage stage =
      normed_stage(x, rows, columns, in_channels, out_channels, static_cast<const float*>(packed),
                   epsilon, scale, memory, parallel);
  const TapMaps maps{Layout(in_channels, out_channels), static_cast<const uint32_t*>(packed)};
  upsample_by_taps(stage, edge_features, maps, activate, y, memory, parallel);
#endif
}

}  // namespace i2f::I2F_TIER
