// The windows of a WindowAttention call: which tokens lie in them, and where.
#pragma once

#include "kernels/gemm.h"
#include "kernels/window_attention.h"

namespace i2f::I2F_TIER {

// A window's part of its map: tokens [top, bottom) x [left, right), and where its first slot is in
// the padded map.
struct Window {
  int64_t row, column;  // of the first slot, padding included
  int64_t top, bottom, left, right;
  int64_t first_token;  // of the map, in qkv
  const WindowedMap* map;

  int64_t count() const { return (bottom - top) * (right - left); }
  int64_t token(int64_t row_of_map, int64_t column_of_map) const {
    return first_token + row_of_map * map->width + column_of_map;
  }
  // The token of a slot, given by its place in the padded map, or -1 where it is padding.
  int64_t token_of_slot(int64_t slot_row, int64_t slot_column) const {
    const int64_t y = slot_row - map->offset, x = slot_column - map->offset;
    return y >= top && y < bottom && x >= left && x < right ? token(y, x) : -1;
  }
};

// All windows of a call, map after map and image after image.
struct Windows {
  const WindowAttentionShape& shape;
  int64_t in_image = 0, tokens_in_image = 0;

  explicit Windows(const WindowAttentionShape& of) : shape(of) {
    for (int64_t i = 0; i < shape.map_count; ++i) {
      in_image += of_map(shape.maps[i]);
      tokens_in_image += shape.maps[i].tokens();
    }
  }

  int64_t count() const { return shape.images * in_image; }
  int64_t of_map(const WindowedMap& map) const {
    return map.rows(shape.side) * map.columns(shape.side);
  }
  // Rows or columns of the largest padded map.
  int64_t positions() const {
    int64_t most = 0;
    for (int64_t i = 0; i < shape.map_count; ++i) {
      const WindowedMap& map = shape.maps[i];
      most = max(most, max(map.rows(shape.side), map.columns(shape.side)) * shape.side);
    }
    return most;
  }

  Window operator[](int64_t index) const {
    Window w{};
    w.first_token = index / in_image * tokens_in_image;
    index %= in_image;
    w.map = shape.maps;
    for (; index >= of_map(*w.map); ++w.map) {
      index -= of_map(*w.map);
      w.first_token += w.map->tokens();
    }
    const int64_t columns = w.map->columns(shape.side), offset = w.map->offset;
    w.row = index / columns * shape.side;
    w.column = index % columns * shape.side;
    w.top = max(0, w.row - offset);
    w.left = max(0, w.column - offset);
    w.bottom = min(w.map->height, w.row - offset + shape.side);
    w.right = min(w.map->width, w.column - offset + shape.side);
    return w;
  }
};

}  // namespace i2f::I2F_TIER
