// A stage of local upsampling with any number of output channels (kernels/upsample_by_taps.h).

#include "kernels/upsample_by_taps.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kPanel = 3;  // vectors of a panel of weights

// Panels of three vectors of columns (tap, output channel).
struct Panels {
  Panels(int64_t in, int64_t out)
      : count(ceil_div(kTaps * out, kPanel * kLanes)), floats(panel_floats<kPanel>(in)) {}

  int64_t count, floats;  // and floats of each
};

// Norms whole pixels, `count` floats.
void norm(const UpsampleStage& stage, const float* x, int64_t count, float* to) {
  const Vec mean = broadcast(stage.mean);
  const UpsampleStage local = stage;  // which stores through `to` leave alone
  int64_t at = 0, i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __builtin_prefetch(x + i + local.ahead());
    store(to + i, (load(x + i) - mean) * load(local.scale + at) + load(local.shift + at));
    at = at + kLanes == local.period ? 0 : at + kLanes;
  }
  for (; i < count; ++i, ++at) to[i] = (x[i] - local.mean) * local.scale[at] + local.shift[at];
}

// Where column `column` of the packed panels, a tap's output channel, belongs from its pixel on.
int64_t offset_of(const Stage& stage, int64_t column) {
  return column / stage.out * stage.tap + column % stage.out;
}

// Columns [begin, end) of M pixels, from a panel's sums; any number of output channels.
template <int M>
void scatter(const Stage& stage, const Vec (&sums)[M][kPanel], int64_t begin, int64_t end,
             float* const* to) {
  for (int64_t column = begin; column < end;) {
    const int64_t count = min(stage.out - column % stage.out, end - column);
    const int64_t offset = offset_of(stage, column);
    for (int m = 0; m < M; ++m) {
      const float* from = reinterpret_cast<const float*>(sums[m]) + (column - begin);
      for (int64_t i = 0; i < count; ++i) to[m][offset + i] = from[i];
    }
    column += count;
  }
}

// What makes the tap maps.
struct TapMaps {
  static constexpr int kPixels = kTileRows<kPanel>;

  Panels panels;
  int64_t in;
  const float* packed;

  int64_t scratch_floats() const { return kPixels * in; }

  void make(const Stage& stage, int64_t begin, int64_t end, float* tile) const {
    const bool whole = stage.out % kLanes == 0;  // then 9 Co columns fill the panels
    for_parts(begin, end, kPixels, [&](int64_t first, int64_t last) {
      norm(stage, stage.x + first * stage.in, (last - first) * stage.in, tile);
      with_rows<kPixels>(last - first, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float* rows[M];
        float* to[M];
        for (int m = 0; m < M; ++m) {
          rows[m] = tile + m * stage.in;
          to[m] = stage.pixel(first + m);
        }
        for (int64_t p = 0; p < panels.count; ++p) {
          Vec sums[M][kPanel];
          multiply<M, kPanel>(rows, packed + p * panels.floats, stage.in, sums);
          const int64_t column = p * kPanel * kLanes;
          if (!whole) {
            Vec results[M][kPanel];
            copy<M, kPanel>(sums, results);
            scatter<M>(stage, results, column, min(column + kPanel * kLanes, kTaps * stage.out),
                       to);
            continue;
          }
          int64_t offset[kPanel];
          for (int n = 0; n < kPanel; ++n) offset[n] = offset_of(stage, column + n * kLanes);
#pragma GCC unroll 32
          for (int m = 0; m < M; ++m) {
#pragma GCC unroll 32
            for (int n = 0; n < kPanel; ++n) store(to[m] + offset[n], sums[m][n]);
          }
        }
      });
    });
  }
};

}  // namespace

size_t packed_many_channels_size(int64_t in, int64_t out) {
  const Panels panels(in, out);
  return static_cast<size_t>(panels.count * panels.floats);
}

void pack_many_channels(const UpsampleWeights& weights, float* packed) {
  const int64_t in = weights.in_channels, out = weights.out_channels;
  const Panels panels(in, out);
  constexpr int64_t width = kPanel * kLanes;
  for (int64_t column = 0; column < panels.count * width; ++column) {
    float* to = packed + column / width * panels.floats + column % width;
    const int64_t tap = column / out, channel = column % out;
    const bool inside = tap < kTaps;
    to[0] = tap == kCentre ? weights.conv_bias[channel] : 0;
    for (int64_t k = 0; k < in; ++k) {
      to[(k + 1) * width] = inside ? weights.conv_weight[(channel * in + k) * kTaps + tap] : 0;
    }
  }
}

void upsample_many_channels(const UpsampleStage& stage, const EdgeFeatures& edge_features,
                            const float* packed, bool activate, float* y, const Memory& memory,
                            const Parallel& parallel) {
  const TapMaps maps{Panels(stage.in, stage.out), stage.in, packed};
  upsample_by_taps(stage, edge_features, maps, activate, y, memory, parallel);
}

}  // namespace i2f::I2F_TIER
