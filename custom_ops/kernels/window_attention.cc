// WindowAttention: a task is one head of one window. It rotates the window's keys into memory that
// stays in the second cache, beside a copy of the values, and runs tiles of the window's queries
// over them. Padding slots are keys and values like any other; only tokens are queries.

#include "kernels/window_attention.h"

#include "kernels/attention_tile.h"
#include "kernels/blocks.h"
#include "kernels/rotary.h"
#include "kernels/windows.h"

namespace i2f::I2F_TIER {
namespace {

using Shape = WindowAttentionShape;

// One call: its arguments, and the steps that its tasks run.
struct WindowAttention {
  const Shape& shape;
  const float* qkv;
  const float* padding;
  float* out;
  RotaryTable rotary;
  Windows windows{shape};
  int64_t slots = shape.side * shape.side;
  int64_t width = shape.heads * shape.head_width;
  double scale = kLog2E / __builtin_sqrt(static_cast<double>(shape.head_width));

  // Rotated keys and values of a window's slots, each [side * side, head_width].
  void gather_keys(const Window& w, int64_t head, float* keys, float* values) const {
    const int64_t key = width + head * shape.head_width, value = key + width;
    for (int64_t row = w.row; row < w.row + shape.side; ++row) {
      for (int64_t column = w.column; column < w.column + shape.side; ++column) {
        const int64_t token = w.token_of_slot(row, column);
        const float* slot = token >= 0 ? qkv + 3 * width * token : padding;
        rotary.rotate(slot + key, row, column, keys);
        copy_floats(slot + value, shape.head_width, values);
        keys += shape.head_width;
        values += shape.head_width;
      }
    }
  }

  void run_window(const Window& w, int64_t head, float* keys) const {
    float* values = keys + slots * shape.head_width;
    gather_keys(w, head, keys, values);
    const int64_t at = head * shape.head_width, count = w.count(), columns = w.right - w.left;
    for (int64_t first = 0; first < count; first += kTileQueries) {
      TileMemory memory;
      memory.count = static_cast<int>(min(kTileQueries, count - first));
      with_vectors(memory.count, [&](auto vectors) {
        constexpr int V = decltype(vectors)::kCount;
        QueryTile<V> tile = make_tile<V>(memory, shape.head_width, shape.head_width);
        const float* rows[tile.kStride];
        float* results[tile.kStride];
        for (int i = 0; i < tile.kStride; ++i) {
          const int64_t query = first + min(i, memory.count - 1);
          const int64_t y = w.top + query / columns, x = w.left + query % columns;
          const int64_t token = w.token(y, x);
          float* row = tile.block + i * shape.head_width;  // rotated where the block will be
          rotary.rotate(qkv + 3 * width * token + at, y + w.map->offset, x + w.map->offset, row);
          rows[i] = row;
          results[i] = out + width * token + at;
        }
        gather_columns<V>(rows, shape.head_width, scale, memory.floats);
        attend(tile, {keys, shape.head_width}, {values, shape.head_width}, slots);
        divide(tile, tile.sums_weight, shape.head_width, results, memory.count);
      });
    }
  }

  void run(const Memory& memory, const Parallel& parallel) const {
    const int64_t tasks = windows.count() * shape.heads;
    for_blocks(tasks, 2 * slots * shape.head_width, memory, parallel,
               [this](int64_t task, float* scratch) {
                 run_window(windows[task / shape.heads], task % shape.heads, scratch);
               });
  }
};

}  // namespace

void window_attention(const Shape& shape, const float* qkv, const float* padding, float* out,
                      const Memory& memory, const Parallel& parallel) {
  if (shape.images == 0) return;
  const int64_t positions = Windows(shape).positions();
  const RotaryTable rotary{take<float>(memory, positions * shape.head_width), shape.head_width};
  rotary.make(positions);
  WindowAttention{shape, qkv, padding, out, rotary}.run(memory, parallel);
}

}  // namespace i2f::I2F_TIER
