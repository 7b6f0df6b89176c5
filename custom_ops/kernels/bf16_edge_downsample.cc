// A 3x3 convolution of stride 2 in bfloat16 on a matrix unit (tiled_convolution.h).

#include "kernels/bf16_edge_downsample.h"

#include "kernels/tiled_convolution.h"

namespace i2f::I2F_TIER {
#ifdef I2F_TILES
namespace {

constexpr int64_t kBand = 8;  // rows of a block

// What a row of a tile makes, and where the packed parameters lie: first what is added to sums.
struct Layout {
  Layout(int64_t in, int64_t out)
      : pixels(pixels_of_unit(out)),
        outputs(max(out, kTile)),
        weights((2 * pixels + 1) * in, outputs) {}

  static bool serves(int64_t in, int64_t out) { return in % 2 == 0 && pixels_of_unit(out) > 0; }
  int64_t words() const { return outputs + weights.words; }

  int64_t pixels;
  int64_t outputs;
  TiledWeights weights;
};

}  // namespace
#endif

size_t packed_bf16_edge_downsample_size([[maybe_unused]] int64_t in_channels,
                                        [[maybe_unused]] int64_t out_channels) {
#ifdef I2F_TILES
  if (Layout::serves(in_channels, out_channels)) {
    const Layout layout(in_channels, out_channels);
    return static_cast<size_t>(layout.words()) * sizeof(uint32_t);
  }
#endif
  return 0;
}

void pack_bf16_edge_downsample([[maybe_unused]] const float* weight,
                               [[maybe_unused]] const float* bias,
                               [[maybe_unused]] int64_t in_channels,
                               [[maybe_unused]] int64_t out_channels,
                               [[maybe_unused]] void* packed) {
#ifdef I2F_TILES
  const Layout layout(in_channels, out_channels);
  auto* offsets = static_cast<float*>(packed);
  for (int64_t i = 0; i < layout.outputs; ++i) offsets[i] = bias[i % out_channels];
  const auto at = [&](int64_t dy, int64_t input, int64_t output) {
    // An output's pixel is twice as far from the first one as the input's.
    const int64_t dx = input / in_channels - 2 * (output / out_channels);
    if (dx < 0 || dx > 2) return 0.0f;
    const int64_t channels = output % out_channels * in_channels + input % in_channels;
    return weight[channels * 9 + 3 * dy + dx];
  };
  layout.weights.pack(at, static_cast<uint32_t*>(packed) + layout.outputs);
#endif
}

void bf16_edge_downsample([[maybe_unused]] const float* x, [[maybe_unused]] int64_t rows,
                          [[maybe_unused]] int64_t columns, [[maybe_unused]] int64_t in_channels,
                          [[maybe_unused]] int64_t out_channels,
                          [[maybe_unused]] const void* packed, [[maybe_unused]] float* y,
                          [[maybe_unused]] const Memory& memory,
                          [[maybe_unused]] const Parallel& parallel) {
#ifdef I2F_TILES
  const Layout layout(in_channels, out_channels);
  const auto* bias = static_cast<const float*>(packed);
  const uint32_t* weights = static_cast<const uint32_t*>(packed) + layout.outputs;
  const int64_t height = (rows + 1) / 2, of_row = (columns + 1) / 2 * out_channels;
  const int64_t units = ceil_div(of_row, layout.outputs), unit = layout.pixels * in_channels;
  const int64_t stride = max(RoundedRows::words(0, units, unit, layout.weights.steps),
                             round_up((columns + 1) * in_channels / 2, kTile));
  const bool past_caches = goes_past_caches(y, height * of_row, of_row);
  convolve_rows({x, rows, columns, in_channels, stride}, 2, height, kBand, past_caches, memory,
                parallel, [&](Tiles& tiles, int64_t row, const uint32_t* const(&around)[3]) {
                  const TiledOutput out{y + row * of_row, layout.outputs, layout.outputs, of_row,
                                        past_caches};
                  multiply_tiles(tiles, layout.weights, weights, around, 0, units, unit,
                                 {bias, bias, bias}, out);
                });
#endif
}

}  // namespace i2f::I2F_TIER
