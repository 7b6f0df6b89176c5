// The MLP of a transformer block in low precision: x + second(GELU(first(LayerNorm(x)))). A block
// of rows goes through all of it before the next one does, so that what is between the layers never
// leaves the second cache.

#include "kernels/reduced_precision_mlp.h"

#include "kernels/blocks.h"
#include "kernels/layer_norm.h"
#include "kernels/reduced_linear.h"

namespace i2f::I2F_TIER {
namespace {

using namespace reduced_linear;

Norm norm_of(const Mlp& mlp) { return {mlp.norm_weight, mlp.norm_bias, mlp.epsilon}; }

// The layers one after the other, for any kind of layer.
template <class Layer>
void run_layers(const float* x, int64_t rows, const Mlp& mlp, float* out, const Memory& memory,
                const Parallel& parallel) {
  if (rows == 0) return;
  const Layer first({mlp.width, mlp.hidden}, mlp.first),
      second({mlp.hidden, mlp.width}, mlp.second);
  const int64_t most = min(first.block_rows(rows), second.block_rows(rows));
  const int64_t blocks = ceil_div(rows, most), height = min(rows, most);
  const NormedLayer<Layer> normed_first(first, mlp.width, norm_of(mlp));
  const int64_t words = max(first.block_words(height), second.block_words(height));
  const int64_t normed = normed_first.block_floats(height), hidden = height * mlp.hidden;
  for_blocks(blocks, normed + hidden + words, memory, parallel, [&](int64_t block, float* own) {
    const int64_t begin = rows * block / blocks, count = rows * (block + 1) / blocks - begin;
    const float* from = x + begin * mlp.width;
    float* to = out + begin * mlp.width;
    float* between = own + normed;
    auto* scratch = reinterpret_cast<uint32_t*>(between + hidden);
    normed_first.run_block(from, count, After{true}, between, own, scratch);
    second.run_block([=](int64_t r) { return between + r * mlp.hidden; }, count, After{false, from},
                     to, scratch);
  });
}

#ifdef I2F_TILES
// The MLP in bfloat16 on a matrix unit, which is so fast that memory and GELU decide. Weights are
// read once a block: the more rows it has the better, as long as all that is between the layers
// stays in the second cache. So hidden numbers are made chunk by chunk, and each chunk is added to
// the sums of all outputs. While the unit is at one square of hidden numbers, the one before goes
// through GELU.
//
// A row of 32 columns of hidden numbers is a row of a tile of the second layer, without a shuffle.
class TiledBf16Mlp {
 public:
  explicit TiledBf16Mlp(const Mlp& mlp)
      : mlp_(mlp),
        inputs_(ceil_div(mlp.width, kColumns) * kTile),
        hidden_(ceil_div(mlp.hidden, kColumns) * kTile) {}

  void run(const float* x, int64_t rows, float* out, const Memory& memory,
           const Parallel& parallel) const {
    if (rows == 0) return;
    const int64_t most = kSquare * max(1, min(kMaxSquares, kBlockFloats / row_floats() / kSquare));
    const int64_t squares = ceil_div(rows, kSquare), blocks = ceil_div(rows, most);
    const int64_t height = ceil_div(squares, blocks) * kSquare;
    const int64_t floats = height * row_floats() + 2 * kSquareFloats + 2 * inputs_ + kLanes;
    for_blocks(blocks, floats, memory, parallel, [&](int64_t block, float* own) {
      const int64_t begin = squares * block / blocks * kSquare;
      const int64_t end = min(rows, squares * (block + 1) / blocks * kSquare);
      run_block(x + begin * mlp_.width, end - begin, own, out + begin * mlp_.width);
    });
  }

 private:
  static constexpr int kSquare = 2 * kTile;                 // rows of four tiles of sums
  static constexpr int kSquareFloats = kSquare * kColumns;  // sums of four tiles
  static constexpr int64_t kChunk = 48 * kTile;             // words of a chunk's hidden numbers
  static constexpr int64_t kMaxSquares = 7;                 // of a block
  static constexpr int64_t kBlockFloats = 448 << 10;        // of a block, at most

  // A converted row, its hidden numbers of a chunk and its sums.
  int64_t row_floats() const { return 3 * inputs_ + min(kChunk, hidden_); }

  // A square of sums that becomes hidden numbers.
  struct Square {
    const float* sums;
    const uint32_t* bias;
    uint32_t* to;      // the upper of two tiles of words
    int64_t to_lower;  // from there to the other
  };

  // One function for all places: the compiler may fuse products and sums here or not, but always
  // alike.
  static __attribute__((noinline)) void finish_hidden_row(const Square& square, int64_t row) {
    Vec y[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      y[n] = gelu((Vec)load(square.bias + n * kLanes) +
                  load(square.sums + row * kColumns + n * kLanes));
    }
    store(square.to + row / kTile * square.to_lower + row % kTile * kTile,
          to_bfloat16(y[0]) >> 16 | to_bfloat16(y[1]));
  }

  // sums [kSquare, kColumns] = 32 rows times `words` of a panel, added to what is there unless
  // `anew`. Meanwhile, if kFinish, another square becomes hidden numbers.
  template <bool kFinish>
  static void multiply(Tiles& tiles, const uint32_t* rows, int64_t to_lower,
                       const uint32_t* factors, int64_t words, bool anew, float* sums,
                       const Square& other, Ahead& ahead) {
    auto* to = reinterpret_cast<uint32_t*>(sums);
    if (anew) {
      tiles.zero<0>();
      tiles.zero<1>();
      tiles.zero<2>();
      tiles.zero<3>();
    } else {
      tiles.load<0>(to, kColumns);
      tiles.load<1>(to + kTile, kColumns);
      tiles.load<2>(to + kTile * kColumns, kColumns);
      tiles.load<3>(to + kTile * kColumns + kTile, kColumns);
    }
    int64_t row = 0;
    for (int64_t k = 0; k < words; k += kTile) {
      ahead.fetch();
      tiles.load<6>(factors + k * kColumns, kColumns);
      tiles.load<7>(factors + k * kColumns + kTile, kColumns);
      tiles.load_once<4>(rows + k * kTile, kTile);
      tiles.add_bfloat16<0, 4, 6>();
      tiles.add_bfloat16<1, 4, 7>();
      tiles.load_once<5>(rows + to_lower + k * kTile, kTile);
      tiles.add_bfloat16<2, 5, 6>();
      tiles.add_bfloat16<3, 5, 7>();
      for (; kFinish && row * words < (k + kTile) * kSquare; ++row) finish_hidden_row(other, row);
    }
    tiles.store<0>(to, kColumns);
    tiles.store<1>(to + kTile, kColumns);
    tiles.store<2>(to + kTile * kColumns, kColumns);
    tiles.store<3>(to + kTile * kColumns + kTile, kColumns);
  }

  void run_block(const float* x, int64_t count, float* own, float* out) const {
    const int64_t squares = ceil_div(count, kSquare), height = squares * kSquare;
    const int64_t chunk = min(kChunk, hidden_), panels = inputs_ / kTile;
    float* sums = own;  // [panels][squares] squares
    auto* rows = reinterpret_cast<uint32_t*>(sums + 2 * height * inputs_);
    uint32_t* hidden = rows + height * inputs_;
    auto* two_squares = reinterpret_cast<float*>(hidden + height * chunk);
    convert(x, count, height, two_squares + 2 * kSquareFloats, rows);

    const auto* first = static_cast<const uint32_t*>(mlp_.first);
    const auto* second = static_cast<const uint32_t*>(mlp_.second);
    const int64_t first_panel = (1 + inputs_) * kColumns, second_panel = (1 + hidden_) * kColumns;
    Tiles tiles;
    for (int64_t begin = 0; begin < hidden_; begin += chunk) {
      const int64_t words = min(chunk, hidden_ - begin);
      const uint32_t* second_part = second + (1 + begin) * kColumns;
      Square last{};
      for (int64_t n = 0; n < words; n += kTile) {
        const uint32_t* panel = first + (begin + n) / kTile * first_panel;
        const bool more = n + kTile < words;
        Ahead ahead(more ? panel + first_panel : second_part, more ? first_panel : words * kColumns,
                    squares * panels);
        for (int64_t s = 0; s < squares; ++s) {
          float* to = two_squares + s % 2 * kSquareFloats;
          const uint32_t* from = rows + s * kSquare * inputs_;
          const auto run = n + s == 0 ? multiply<false> : multiply<true>;
          run(tiles, from, kTile * inputs_, panel + kColumns, inputs_, true, to, last, ahead);
          last = {to, panel, hidden + s * kSquare * chunk + n * kTile, kTile * chunk};
        }
      }
      for (int64_t row = 0; row < kSquare; ++row) finish_hidden_row(last, row);
      // Behind all hidden numbers come the first ones again, for the next rows.
      const uint32_t* next =
          begin + chunk < hidden_ ? first + (begin + chunk) / kTile * first_panel : first;
      for (int64_t p = 0; p < panels; ++p) {
        const uint32_t* factors = second_part + p * second_panel;
        const bool more = p + 1 < panels;
        Ahead ahead(more ? factors + second_panel : next, more ? words * kColumns : first_panel,
                    squares * words / kTile);
        for (int64_t s = 0; s < squares; ++s) {
          multiply<false>(tiles, hidden + s * kSquare * chunk, kTile * chunk, factors, words,
                          begin == 0, sums + (p * squares + s) * kSquareFloats, {}, ahead);
        }
      }
    }
    add(x, count, sums, second, second_panel, out);
  }

  // Rows of words, tile behind tile, of `count` rows; the rest of the last square is 0.
  void convert(const float* x, int64_t count, int64_t height, float* normed, uint32_t* rows) const {
    for (int64_t r = 0; r < height; ++r) {
      uint32_t* to = rows + r / kTile * kTile * inputs_ + r % kTile * kTile;
      if (r < count) {
        norm_of(mlp_).run(x + r * mlp_.width, mlp_.width, normed);
        Bf16::convert(normed, mlp_.width, to, kWords);
      } else {
        for (int64_t k = 0; k < inputs_; k += kTile, to += kWords) store(to, VecWord{});
      }
    }
  }

  // out = x + bias + sums. Results go past the caches where all are whole vectors.
  void add(const float* x, int64_t count, const float* sums, const uint32_t* panel,
           int64_t panel_words, float* out) const {
    const int64_t width = mlp_.width, squares = ceil_div(count, kSquare);
    const bool past_caches =
        width % kLanes == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Vec) == 0;
    for (int64_t r = 0; r < count; ++r) {
      const float* from = sums + r / kSquare * kSquareFloats + r % kSquare * kColumns;
      const uint32_t* bias = panel;
      for (int64_t c = 0; c < width; c += kLanes) {
        const int64_t n = c % kColumns;
        const Vec y = (Vec)load(bias + n) + load(from + n);
        const float* plus = x + r * width + c;
        float* to = out + r * width + c;
        const auto left = static_cast<int>(width - c);
        if (past_caches) {
          stream(to, load(plus) + y);
        } else if (left >= kLanes) {
          store(to, load(plus) + y);
        } else {
          store_partial(to, load_partial(plus, left) + y, left);
        }
        if (n != 0) from += squares * kSquareFloats, bias += panel_words;
      }
    }
    if (past_caches) end_of_stream();
  }

  Mlp mlp_;
  int64_t inputs_, hidden_;  // words of a converted row
};
#endif

}  // namespace

void int8_mlp(const float* x, int64_t rows, const Mlp& mlp, float* out, const Memory& memory,
              const Parallel& parallel) {
  run_layers<Int8Linear>(x, rows, mlp, out, memory, parallel);
}

void bf16_mlp(const float* x, int64_t rows, const Mlp& mlp, float* out, const Memory& memory,
              const Parallel& parallel) {
#ifdef I2F_TILES
  TiledBf16Mlp(mlp).run(x, rows, out, memory, parallel);
#else
  run_layers<Bf16Linear>(x, rows, mlp, out, memory, parallel);
#endif
}

}  // namespace i2f::I2F_TIER
