// A stage of local upsampling with any number of output channels, whoever makes its tap maps.
//
// The maps W_t n of the nine taps are made a band of rows at a time, in a ring of rows, by all
// threads; then the band is resized, down the rows first. The sums run over (column, channel) as
// they lie in memory, so that vectors are full for any number of channels.
#pragma once

#include "kernels/upsample_stage.h"

namespace i2f::I2F_TIER {

constexpr int64_t kRing = 1 << 19;      // floats of the ring, about
constexpr int64_t kStrip = 1024;        // floats of a strip of columns, about
constexpr int64_t kMapTasks = 64;       // of the tap maps, at most: bounds the scratch
constexpr int64_t kTaskCost = 1 << 18;  // products a task of the tap maps has, at least
constexpr int64_t kResizeTasks = 16;    // of a band: so many if it has the rows,
constexpr int64_t kResizeRows = 8;      // but no more rows a task

// Two neighbouring pixels of the sum of three taps' resized maps, at(t, k) being tap t's pixel k -
// 2 from theirs. At the crop's first pixel tap 0 falls into the zero padding for the first of the
// two, at the last pixel tap 2 for the second.
template <bool kFirst, bool kLast, class At>
inline __attribute__((always_inline)) Pair resize(const At& at) {
  const Vec q0 = broadcast(kCubic[0]), q1 = broadcast(kCubic[1]), q2 = broadcast(kCubic[2]),
            q3 = broadcast(kCubic[3]);
  const Vec a0 = at(0, 0), a1 = at(0, 1), a2 = at(0, 2), a3 = at(0, 3);
  const Vec b0 = at(1, 0), b1 = at(1, 1), b2 = at(1, 2), b3 = at(1, 3), b4 = at(1, 4);
  const Vec c1 = at(2, 1), c2 = at(2, 2), c3 = at(2, 3), c4 = at(2, 4);
  // Taps 0 and 2 meet the two pixels with the same weights: what lies a pixel apart is added first.
  const auto both = [](bool with_a, Vec a, bool with_c, Vec c) {
    return !with_a ? c : !with_c ? a : a + c;
  };
  const auto far = [&](bool a, bool c, Vec w0, Vec w1, Vec w2, Vec w3) {
    return w0 * both(a, a0, c, c1) + w1 * both(a, a1, c, c2) + w2 * both(a, a2, c, c3) +
           w3 * both(a, a3, c, c4);
  };
  return {(q3 * b0 + q2 * b1 + q1 * b2 + q0 * b3) + far(!kFirst, true, q0, q1, q2, q3),
          (q0 * b1 + q1 * b2 + q2 * b3 + q3 * b4) + far(true, !kLast, q3, q2, q1, q0)};
}

// Calls body(Flag<first>(), Flag<last>()).
template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};
template <class Body>
inline void with_ends(bool first, bool last, const Body& body) {
  if (first) {
    last ? body(Flag<true>(), Flag<true>()) : body(Flag<true>(), Flag<false>());
  } else {
    last ? body(Flag<false>(), Flag<true>()) : body(Flag<false>(), Flag<false>());
  }
}

// A stage's ring of rows of the tap maps: row r lies in slot r % slots, tap after tap.
struct Stage : UpsampleStage {
  float* ring;
  int64_t slots;
  int64_t tap;  // floats from one tap's row to the next: a vector may begin at a row's last element

  const float* row(int64_t r) const {
    const int64_t inside = min(max(r, 0), rows - 1);
    return ring + inside % slots * kTaps * tap;
  }
  float* pixel(int64_t p) const {
    return ring + p / columns % slots * kTaps * tap + p % columns * out;
  }
};

// ---- Resizing and summing the tap maps.

// What a task works in.
struct Scratch {
  Scratch(float* memory, int64_t pixels, int64_t channels)
      : width(column_floats(pixels, channels)),
        edge_row(memory + 6 * width),
        mixed(edge_row + round_up(2 * pixels * channels, kLanes)),
        columns(memory) {}

  static int64_t floats(int64_t pixels, int64_t channels) {
    return 6 * column_floats(pixels, channels) + 2 * round_up(2 * pixels * channels, kLanes) +
           2 * kLanes;
  }

  // Two rows of the result, and of each the sums that column dx of the taps takes part in, before
  // resizing along the row; from kReach pixels before the strip to kReach behind it.
  float* column(int phase, int dx) const { return columns + (3 * phase + dx) * width; }

  int64_t width;
  float* edge_row;  // of edge features with the crop's border taken away
  float* mixed;     // of results before the activation

 private:
  static int64_t column_floats(int64_t pixels, int64_t channels) {
    return round_up((pixels + 2 * kReach) * channels, kLanes) + kLanes;
  }

  float* columns;
};

// The three Scratch::column rows of a row of the result.
struct Columns {
  const float* at[3];
  int64_t channels;

  // kLanes elements of two neighbouring pixels, `i` elements into the strip.
  template <bool kFirst = false, bool kLast = false>
  inline __attribute__((always_inline)) Pair pair(int64_t i) const {
    return resize<kFirst, kLast>([&](int dx, int k) { return load(at[dx] + i + k * channels); });
  }
};

// ---- One row of a strip, but for the crop's border. Arguments are copies: stores leave them
// alone.

// Channels that fill vectors.
inline void whole_pixels(Columns columns, Finish finish, int64_t pixels, const float* e,
                         float* to) {
  const int64_t channels = columns.channels;
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Pair pair = columns.pair(x * channels + c);
      const int64_t at = 2 * x * channels + c;
      finish.wholly(to + at, pair.first, e + at);
      finish.wholly(to + at + channels, pair.second, e + at + channels);
    }
  }
}

// Any number of channels; `mixed` holds the row before the activation.
inline void any_pixels(Columns columns, Finish finish, int64_t pixels, const float* e, float* mixed,
                       float* to) {
  const int64_t channels = columns.channels, floats = 2 * pixels * channels;
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Pair pair = columns.pair(x * channels + c);
      const int count = static_cast<int>(min(kLanes, channels - c));
      store_partial(mixed + 2 * x * channels + c, pair.first, count);
      store_partial(mixed + (2 * x + 1) * channels + c, pair.second, count);
    }
  }
  for (int64_t i = 0; i < floats; i += kLanes) {
    finish.partly(to + i, load(mixed + i), e + i, floats - i);
  }
}

// The crop's first or last pixel of a row, the pixel to whose side `columns` begin; `e` and `to`
// are its own.
template <bool kFirst>
void border_pixel(Columns columns, Finish finish, const ResultRow& row, const float* e, float* to) {
  for (int64_t c = 0; c < columns.channels; c += kLanes) {
    const Pair pair = columns.pair<kFirst, !kFirst>(c);
    const int count = static_cast<int>(min(kLanes, columns.channels - c));
    const Vec inside = row.at_end(kFirst, e + c, c, count);
    store_partial(to + c, finish(kFirst ? pair.first : pair.second, inside), count);
  }
}

struct Resize {
  const Stage& stage;
  const EdgeFeatures& edge_features;
  Finish finish;
  float* y;

  // Columns [begin, end) of low-resolution row r: two rows of the result.
  void rows_of(int64_t r, int64_t begin, int64_t end, const Scratch& scratch) const {
    const int64_t channels = stage.out;
    const int64_t first = max(begin - kReach, 0), last = min(end + kReach, stage.columns);
    const int64_t floats = (last - first) * channels;
    const int64_t into = (first - (begin - kReach)) * channels;
    with_ends(r == 0, r == stage.rows - 1, [&](auto top, auto bottom) {
      for (int dx = 0; dx < 3; ++dx) {
        const float* row[5];
        for (int k = 0; k < 5; ++k) {
          row[k] = stage.row(r + k - kReach) + dx * stage.tap + first * channels;
        }
        const int64_t down = 3 * stage.tap;  // to the tap below
        float *upper = scratch.column(0, dx) + into, *lower = scratch.column(1, dx) + into;
        for (int64_t i = 0; i < floats; i += kLanes) {
          const Pair pair = resize<decltype(top)::value, decltype(bottom)::value>(
              [&](int dy, int k) { return load(row[k] + dy * down + i); });
          store(upper + i, pair.first);
          store(lower + i, pair.second);
        }
      }
    });
    for (int64_t x = begin - kReach; x < first; ++x) copy_pixel(scratch, x - begin, first - begin);
    for (int64_t x = last; x < end + kReach; ++x) copy_pixel(scratch, x - begin, last - 1 - begin);
    for (int phase = 0; phase < 2; ++phase) row_of(2 * r + phase, phase, begin, end, scratch);
  }

  // Pixel `to` of the strip, outside the crop, is its nearest inside.
  void copy_pixel(const Scratch& scratch, int64_t to, int64_t from) const {
    for (int i = 0; i < 6; ++i) {
      float* column = scratch.column(i / 3, i % 3) + kReach * stage.out;
      for (int64_t c = 0; c < stage.out; ++c) {
        column[to * stage.out + c] = column[from * stage.out + c];
      }
    }
  }

  void row_of(int64_t number, int phase, int64_t begin, int64_t end, const Scratch& scratch) const {
    const int64_t channels = stage.out, pixels = end - begin, floats = 2 * pixels * channels;
    const ResultRow row(stage, edge_features, number, begin, floats, scratch.edge_row);
    float* to = y + 2 * (number * stage.columns + begin) * channels;
    Columns columns{{scratch.column(phase, 0), scratch.column(phase, 1), scratch.column(phase, 2)},
                    channels};
    if (channels % kLanes == 0) {
      whole_pixels(columns, finish, pixels, row.e, to);
    } else {
      any_pixels(columns, finish, pixels, row.e, scratch.mixed, to);
    }
    if (begin == 0) border_pixel<true>(columns, finish, row, row.e, to);
    if (end == stage.columns) {
      const int64_t last = floats - channels;
      for (const float*& at : columns.at) at += (pixels - 1) * channels;
      border_pixel<false>(columns, finish, row, row.e + last, to + last);
    }
  }
};

// The stage: maps.make(stage, begin, end, scratch) writes the tap maps of pixels [begin, end),
// counted along the rows, some Maps::kPixels of them together, in scratch of maps.scratch_floats()
// floats, a whole number of vectors.
template <class Maps>
void upsample_by_taps(const UpsampleStage& given, const EdgeFeatures& edge_features,
                      const Maps& maps, bool activate, float* y, const Memory& memory,
                      const Parallel& parallel) {
  const int64_t rows = given.rows, columns = given.columns, channels = given.out;
  const int64_t tap = round_up(columns * channels, kLanes) + kLanes;
  const int64_t slots = min(rows, max(kRing / (kTaps * tap), 4 * kReach));
  const int64_t band = slots == rows ? rows : slots - 2 * kReach;
  const Stage stage{given, take<float>(memory, slots * kTaps * tap), slots, tap};
  const Resize resizing{
      stage, edge_features, {activate, 2 * edge_features.stride, 4 * columns * channels}, y};

  const int64_t pixel_cost = given.in * kTaps * channels;
  const int64_t tile = maps.scratch_floats();
  float* tiles = take<float>(memory, kMapTasks * tile);

  const int64_t strips = min(columns, ceil_div(columns * channels, kStrip));
  const int64_t strip = ceil_div(columns, strips);
  const int64_t rows_a_task = max(1, min(kResizeRows, band * strips / kResizeTasks));
  const int64_t scratch = Scratch::floats(strip, channels);
  float* tasks = take<float>(memory, ceil_div(band, rows_a_task) * strips * scratch);

  int64_t mapped = 0;  // rows whose tap maps are made
  for_parts(0, rows, band, [&](int64_t begin, int64_t end) {
    const int64_t from = mapped * columns;
    mapped = min(rows, end + kReach);
    const int64_t work = mapped * columns - from;
    const int64_t map_tasks =
        min(kMapTasks, min(ceil_div(work, Maps::kPixels), ceil_div(work * pixel_cost, kTaskCost)));
    parallel_for(parallel, static_cast<size_t>(map_tasks), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t first = from + work * i / map_tasks, last = from + work * (i + 1) / map_tasks;
      maps.make(stage, first, last, tiles + i * tile);
    });

    const int64_t groups = ceil_div(end - begin, rows_a_task);
    parallel_for(parallel, static_cast<size_t>(groups * strips), [&](size_t task) {
      const auto i = static_cast<int64_t>(task);
      const int64_t g = i / strips, s = i % strips;
      const int64_t left = columns * s / strips, right = columns * (s + 1) / strips;
      const Scratch own(tasks + i * scratch, strip, channels);
      for (int64_t r = begin + (end - begin) * g / groups;
           r < begin + (end - begin) * (g + 1) / groups; ++r) {
        resizing.rows_of(r, left, right, own);
      }
    });
  });
}

}  // namespace i2f::I2F_TIER
