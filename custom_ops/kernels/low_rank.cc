// Linear layers of tokens x = x0 + B s that only s is new of. Of the normalised token nothing is
// written out: products with x0, and with B, are known, and so is its norm but for |B s|^2 = |root
// s|^2 and twice the product of x0 with B s.

#include "kernels/low_rank.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int kRows = kTileRows<2>;       // tokens of a tile
constexpr int64_t kWidth = 2 * kLanes;    // of a panel
constexpr int64_t kTaskRows = 4 * kRows;  // tokens of a task
constexpr int64_t kClearRows = 256;       // tokens of a task that clears

// Where the packed parameters lie, in floats: panels of two vectors of the root, then of the
// weight, whose panels start from 0 since the bias comes after the norm; of a gated layer, the two
// vectors of a panel are the gate and what it gates. Then the biases, in the order of the panels.
struct Layout {
  explicit Layout(const LowRankSizes& sizes)
      : half(sizes.gated ? sizes.outputs / 2 : sizes.outputs),
        root_panels(ceil_div(sizes.roots, kWidth)),
        panels(ceil_div(half, sizes.gated ? kLanes : kWidth)),
        panel(panel_floats<2>(sizes.rank)),
        weight(root_panels * panel),
        bias(weight + panels * panel),
        total(bias + max(panels, root_panels) * kWidth) {}

  int64_t half;  // outputs of a token
  int64_t root_panels, panels, panel;
  int64_t weight, bias, total;  // offsets
};

// The sum of products of `count` floats.
float dot(const float* a, const float* b, int64_t count) {
  const int64_t whole = count / kLanes * kLanes;
  const int rest = static_cast<int>(count - whole);
  const Vec sum = sum_of_terms(whole, [=](int64_t i) { return load(a + i) * load(b + i); });
  return sum_of_lanes(sum + load_partial(a + whole, rest) * load_partial(b + whole, rest));
}

inline Vec load_some(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  return load_partial(from, static_cast<int>(max(count, 0)));
}

// What a task works in.
struct Scratch {
  float* squares;  // [kTaskRows, kLanes], of the root's products
  float* scales;   // [kTaskRows], by which a LayerNorm scales a token
  float* hidden;   // [kTaskRows, panels * kLanes], results that are gated
};

// Tokens of a task meet one panel after the other: a panel stays in the first cache meanwhile.
struct Layer {
  const LowRankTokens& x;
  const LowRankSizes& sizes;
  const Layout& layout;
  const float* packed;
  float channels, epsilon;
  float* out;

  int64_t scratch_floats() const {
    return kTaskRows * (kLanes + 1 + (sizes.gated ? layout.panels * kLanes : 0));
  }

  void run(const int64_t* tokens, int64_t count, float* memory) const {
    const Scratch scratch{memory, memory + kTaskRows * kLanes, memory + kTaskRows * (kLanes + 1)};
    for (int64_t i = 0; i < count; ++i) store(scratch.squares + i * kLanes, Vec{});
    for (int64_t p = 0; p < layout.root_panels; ++p) {
      for_parts(0, count, kRows, [&](int64_t first, int64_t last) {
        fetch(tokens + first, last - first, p);
        with_rows<kRows>(last - first, [&](auto height) {
          add_squares<decltype(height)::kCount>(p, tokens + first,
                                                scratch.squares + first * kLanes);
        });
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      const float* known = x.known + tokens[i] * x.stride + sizes.outputs;
      const float* state = x.state + tokens[i] * sizes.rank;
      const float square = known[sizes.rank] + 2.0f * dot(known, state, sizes.rank) +
                           sum_of_lanes(load(scratch.squares + i * kLanes));
      const float variance = (square < 0.0f ? 0.0f : square) / channels;  // a NaN stays
      scratch.scales[i] = 1.0f / __builtin_sqrtf(variance + epsilon);
    }
    for (int64_t p = 0; p < layout.panels; ++p) {
      for_parts(0, count, kRows, [&](int64_t first, int64_t last) {
        with_rows<kRows>(last - first, [&](auto height) {
          multiply_state<decltype(height)::kCount>(p, tokens + first, scratch, first);
        });
      });
    }
    for (int64_t i = 0; i < count && sizes.gated; ++i) {
      float* hidden = scratch.hidden + i * layout.panels * kLanes;
      normalise(hidden, layout.half, epsilon, hidden);
      copy_floats(hidden, layout.half, out + tokens[i] * layout.half);
    }
  }

  // Part `part` of what is known of some tokens: rows that lie apart, which the hardware does not
  // foresee.
  void fetch(const int64_t* tokens, int64_t count, int64_t part) const {
    const int64_t lines = ceil_div(sizes.outputs + sizes.rank + 1, 16);
    for (int64_t i = 0; i < count; ++i) {
      const float* known = x.known + tokens[i] * x.stride;
      const int64_t end = lines * (part + 1) / layout.root_panels;
      for (int64_t line = lines * part / layout.root_panels; line < end; ++line) {
        __builtin_prefetch(known + 16 * line);
      }
    }
  }

  template <int M>
  void add_squares(int64_t p, const int64_t* tokens, float* squares) const {
    const int64_t first = p * kWidth;  // before it, the rows of this panel are 0
    const float* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = x.state + tokens[m] * sizes.rank + first;
    Vec sums[M][2] = {};
    add_products<M, 2>(rows, packed + p * layout.panel + (1 + first) * kWidth, sizes.rank - first,
                       sums);
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) {
      float* square = squares + m * kLanes;
      store(square, load(square) + (sums[m][0] * sums[m][0] + sums[m][1] * sums[m][1]));
    }
  }

  // Panel `p` of the outputs of M tokens, the task's from `first` on.
  template <int M>
  void multiply_state(int64_t p, const int64_t* tokens, const Scratch& scratch,
                      int64_t first) const {
    const int64_t half = layout.half, stride = layout.panels * kLanes;
    const int64_t at = p * (sizes.gated ? kLanes : kWidth);
    const int64_t next = sizes.gated ? half : kLanes;  // to what the second vector holds
    const float* rows[M];
    Vec starts[M][2], sums[M][2], results[M][2];
    for (int m = 0; m < M; ++m) {
      const float* known = x.known + tokens[m] * x.stride + at;
      rows[m] = x.state + tokens[m] * sizes.rank;
      starts[m][0] = load_some(known, half - at);
      starts[m][1] = load_some(known + next, half - at - (sizes.gated ? 0 : kLanes));
    }
    copy<M, 2>(starts, sums);
    add_products<M, 2>(rows, packed + layout.weight + p * layout.panel + kWidth, sizes.rank, sums);
    copy<M, 2>(sums, results);
    const float* biases = packed + layout.bias + p * kWidth;
    const Vec bias[2] = {load(biases), load(biases + kLanes)};
#pragma GCC unroll 1
    for (int m = 0; m < M; ++m) {
      const float scale = scratch.scales[first + m];
      const Vec y[2] = {results[m][0] * scale + bias[0], results[m][1] * scale + bias[1]};
      if (sizes.gated) {
        store(scratch.hidden + (first + m) * stride + at, silu(y[0]) * y[1]);
      } else {
        store_pair(out + tokens[m] * half + at, y, half - at);
      }
    }
  }
};

// Writes the tokens of [0, tokens) that are not inside; returns how many.
int64_t list_outside(const LowRankTokens& x, int64_t* outside) {
  int64_t count = 0, next = 0;
  for (int64_t token = 0; token < x.tokens; ++token) {
    if (next < x.inside_count && x.inside[next] == token) {
      ++next;
    } else {
      outside[count++] = token;
    }
  }
  return count;
}

// The rows of an output that lie inside become 0.
void clear_inside(const LowRankTokens& x, int64_t width, float* out, const Parallel& parallel) {
  parallel_for(parallel, static_cast<size_t>(ceil_div(x.inside_count, kClearRows)),
               [&](size_t task) {
                 const int64_t first = static_cast<int64_t>(task) * kClearRows;
                 const int64_t last = min(first + kClearRows, x.inside_count);
                 for (int64_t i = first; i < last; ++i) {
                   __builtin_memset(out + x.inside[i] * width, 0,
                                    static_cast<size_t>(width) * sizeof(float));
                 }
               });
}

}  // namespace

size_t packed_low_rank_size(const LowRankSizes& sizes) {
  return static_cast<size_t>(Layout(sizes).total);
}

void pack_low_rank(const LowRankSizes& sizes, const LowRankWeights& weights, float* packed) {
  const Layout layout(sizes);
  float* biases = packed + layout.bias;
  for (int64_t i = layout.bias; i < layout.total; ++i) packed[i] = 0;  // where all panels start
  for (int64_t i = 0; i < 2 * layout.root_panels; ++i) {
    pack_columns(weights.root, biases, nullptr, sizes.roots, sizes.rank, i * kLanes,
                 static_cast<int>(i % 2), 2, packed + i / 2 * layout.panel);
  }
  for (int64_t i = 0; i < 2 * layout.panels; ++i) {
    // In a gated layer, the second vectors of all panels are those of the second half.
    const int n = static_cast<int>(i % 2);
    const int64_t from = sizes.gated ? n * layout.half : 0;
    const int64_t first = sizes.gated ? i / 2 * kLanes : i * kLanes;
    pack_columns(weights.weight + from * sizes.rank, biases, nullptr, layout.half, sizes.rank,
                 first, n, 2, packed + layout.weight + i / 2 * layout.panel);
  }
  for (int64_t i = 0; i < 2 * layout.panels; ++i) {
    const int64_t from = sizes.gated ? i % 2 * layout.half : 0;
    const int64_t first = sizes.gated ? i / 2 * kLanes : i * kLanes;
    for (int64_t j = 0; j < min(kLanes, layout.half - first); ++j) {
      biases[i * kLanes + j] = weights.bias[from + first + j];
    }
  }
}

void low_rank_linear(const LowRankTokens& x, const LowRankSizes& sizes, const float* packed,
                     int64_t channels, float epsilon, float* out, const Memory& memory,
                     const Parallel& parallel) {
  const Layout layout(sizes);
  auto* outside = take<int64_t>(memory, x.tokens - x.inside_count);
  const int64_t count = list_outside(x, outside);
  clear_inside(x, layout.half, out, parallel);
  const Layer layer{x, sizes, layout, packed, static_cast<float>(channels), epsilon, out};
  const int64_t blocks = ceil_div(count, kTaskRows);
  if (blocks == 0) return;
  for_blocks(blocks, layer.scratch_floats(), memory, parallel, [&](int64_t block, float* scratch) {
    const int64_t first = block * kTaskRows;
    layer.run(outside + first, min(kTaskRows, count - first), scratch);
  });
}

void low_rank_add(const LowRankTokens& x, const float* rows, const int64_t* wanted,
                  int64_t wanted_count, int64_t outputs, int64_t rank, const float* packed,
                  float* out, const Parallel& parallel) {
  const int64_t panels = ceil_div(outputs, kWidth);
  parallel_for(parallel, static_cast<size_t>(ceil_div(wanted_count, kTaskRows)), [&](size_t task) {
    const int64_t first = static_cast<int64_t>(task) * kTaskRows;
    const int64_t last = min(first + kTaskRows, wanted_count);
    int64_t next = 0, end = x.inside_count;  // the first token inside that is not before the task's
    while (next < end) {
      const int64_t middle = (next + end) / 2;
      x.inside[middle] < wanted[first] ? next = middle + 1 : end = middle;
    }
    int64_t others[kTaskRows], count = 0;
    for (int64_t i = first; i < last; ++i) {
      while (next < x.inside_count && x.inside[next] < wanted[i]) ++next;
      if (next < x.inside_count && x.inside[next] == wanted[i]) {
        copy_floats(rows + next * outputs, outputs, out + i * outputs);
      } else {
        others[count++] = i;
      }
    }
    for_parts(0, count, kRows, [&](int64_t begin, int64_t stop) {
      with_rows<kRows>(stop - begin, [&](auto height) {
        constexpr int M = decltype(height)::kCount;
        const float *states[M], *known[M];
        for (int m = 0; m < M; ++m) {
          const int64_t token = wanted[others[begin + m]];
          states[m] = x.state + token * rank;
          known[m] = x.known + token * x.stride;
        }
        for (int64_t p = 0; p < panels; ++p) {
          Vec sums[M][2], results[M][2];
          multiply<M, 2>(states, packed + p * panel_floats<2>(rank), rank, sums);
          copy<M, 2>(sums, results);
          const int64_t at = p * kWidth;
          for (int m = 0; m < M; ++m) {
            store_pair_plus(out + others[begin + m] * outputs + at, results[m], outputs - at,
                            known[m] + at);
          }
        }
      });
    });
  });
}

}  // namespace i2f::I2F_TIER
