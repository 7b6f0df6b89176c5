// The selective scan, the lanes of a vector being channels: these share nothing but b and c, so
// that a task takes a few of them through a whole sequence. It does so block by block of tokens,
// whose steps and inputs it computes once, and within a block a few states at a time, which stay in
// registers: of an update of one state, most of the work is its exponential.
//
// All passes have the same decays and inputs, and the recurrence is linear. A pass from zero leaves
// states F, and of what was there before it keeps the share P = exp(rate * sum of steps): pass r
// begins with S_1 = 0, S_(r+1) = P S_r + F. So the outputs of all passes, added up with weights
// gamma_r, are those of the pass from zero times the sum of gamma, and what becomes of the states
// sum of gamma_r S_r while nothing is added to them.

#include "kernels/cycle_scan.h"

#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/shuffle.h"

namespace i2f::I2F_TIER {
namespace {

constexpr int64_t kWidth = 64;   // channels of a task: four cache lines of a row
constexpr int64_t kTokens = 32;  // of a block: maps of a vector of channels stay in the first cache
constexpr int kStates = kRegisters >= 32 ? 8 : 4;  // at a time
constexpr float kFaded = -25.0f;                   // exponent of 2 at which a state is forgotten
constexpr float kNegligible =
    -64.0f;  // from here on, its size does not matter: no denormal numbers
constexpr float kMostNegative = -__FLT_MAX__;
static_assert(kWidth % kLanes == 0, "a task is whole vectors");

// Memory of a task. A map holds vectors of channels one after the other, of each all its rows.
struct Scratch {
  static int64_t padded(int64_t states) { return round_up(states, kStates); }
  static int64_t floats(int64_t states) {
    return kWidth * (2 * padded(states) + 3 * kTokens + 4) + 2 * padded(states) * kTokens;
  }

  Scratch(float* memory, int64_t states)
      : rate(memory),
        state(rate + padded(states) * kWidth),
        step(state + padded(states) * kWidth),
        added(step + kTokens * kWidth),
        y(added + kTokens * kWidth),
        bias(y + kTokens * kWidth),
        skip(bias + kWidth),
        total(skip + kWidth),
        elapsed(total + kWidth),
        b_c(elapsed + kWidth) {}

  float* rate;     // padded rows, in units of ln 2
  float* state;    // padded rows
  float* step;     // kTokens rows
  float* added;    // kTokens rows, inputs times steps
  float* y;        // kTokens rows
  float* bias;     // [kWidth]
  float* skip;     // [kWidth]
  float* total;    // [kWidth], sum of gamma
  float* elapsed;  // [kWidth], sum of steps so far
  float* b_c;      // [kTokens, 2 * padded], b and c side by side, with zeros behind each
};

// kStates states of a vector of channels through `count` tokens: rows of rates and states, and of
// steps, inputs and outputs, to which what they give is added; b and c of a token are `stride`
// apart from those of the next.
inline void advance(int64_t count, const float* rates, float* states, const float* steps,
                    const float* inputs, const float* b, const float* c, int64_t stride, float* y) {
  Vec rate[kStates], state[kStates];
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) {
    rate[i] = load(rates + i * kLanes);
    state[i] = load(states + i * kLanes);
  }
  for (int64_t t = 0; t < count; ++t) {
    const Vec step = load(steps + t * kLanes), input = load(inputs + t * kLanes);
    Vec sum = load(y + t * kLanes), kept[kStates];
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) kept[i] = clamp_min_bits(step * rate[i], -126.0f);
    exp2_in_range(kept, Count<kStates>());
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) {
      state[i] = kept[i] * state[i] + input * broadcast(b[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) sum += state[i] * broadcast(c[i]);
    store(y + t * kLanes, sum);
    b += stride;
    c += stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) store(states + i * kLanes, state[i]);
}

// What is left of kStates states of a vector of channels at `count` tokens, `elapsed` being the
// time since: adds what they give to y.
inline void fade(int64_t count, const float* rates, const float* states, const float* elapsed,
                 const float* c, int64_t stride, float* y) {
  Vec rate[kStates], state[kStates];
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) {
    rate[i] = load(rates + i * kLanes);
    state[i] = load(states + i * kLanes);
  }
  for (int64_t t = 0; t < count; ++t) {
    const Vec time = load(elapsed + t * kLanes);
    Vec sum = load(y + t * kLanes), left[kStates];
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) left[i] = clamp_min_bits(time * rate[i], kNegligible);
    exp2_in_range(left, Count<kStates>());
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) sum += left[i] * state[i] * broadcast(c[i]);
    store(y + t * kLanes, sum);
    c += stride;
  }
}

// Whether anything is left of kStates states after a time. What is not finite is.
inline bool is_left(const float* rates, const float* states, Vec time) {
  VecInt left{};
  for (int i = 0; i < kStates; ++i) {
    const Vec state = load(states + i * kLanes);
    const VecInt faded = time * load(rates + i * kLanes) <= kFaded;
    left |= (state != 0.0f) & ~(faded & (state - state == 0.0f));
  }
  return any(left);
}

// One sequence of `length` tokens, `width` channels from `channel` on.
class Sequence {
 public:
  Sequence(const CycleScanShape& shape, const CycleScanWeights& weights, int64_t channel,
           int64_t width, float* memory)
      : shape_(shape),
        weights_(weights),
        padded_(Scratch::padded(shape.states)),
        channel_(channel),
        width_(width),
        scratch_(memory, shape.states) {
    for (int64_t i = 0; i < Scratch::floats(shape.states); ++i) memory[i] = 0.0f;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t from = channel + j;
      scratch_.bias[j] = weights.bias[from];
      scratch_.skip[j] = weights.skip[from];
      for (int64_t r = 0; r < shape.passes; ++r) {
        scratch_.total[j] += weights.gamma[from * shape.passes + r];
      }
      for (int64_t n = 0; n < shape.states; ++n) {
        const double rate = weights.rate[from * shape.states + n] * kLog2E;
        // A NaN of its own, which exp2_nonpositive keeps.
        scratch_.rate[(j / kLanes * padded_ + n) * kLanes + j % kLanes] =
            rate != rate           ? __builtin_nanf("")
            : rate < kMostNegative ? kMostNegative
                                   : static_cast<float>(rate);
      }
    }
  }

  void run(int64_t length, const float* u, const float* projected, float* out) const {
    const int64_t channels = shape_.channels, stride = channels + 2 * shape_.states;
    u += channel_;
    out += channel_;
    for (int64_t t = 0; t < length; t += kTokens) {
      const int64_t count = min(kTokens, length - t);
      discretise(count, u + t * channels, projected + t * stride);
      take_b_c(count, projected + t * stride + channels);
      const int64_t next = t + kTokens, rows_left = min(kTokens, length - next);
      const int64_t calls = ceil_div(width_, kLanes) * (padded_ / kStates);
      int64_t call = 0;
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const int64_t rows = lane * kTokens;
        for (int64_t n = 0; n < padded_; n += kStates) {
          const int64_t at = lane * padded_ + n * kLanes;
          // Rows of the next block lie too far apart for the hardware to fetch them.
          for (int64_t i = call * kTokens / calls; i < (call + 1) * kTokens / calls; ++i) {
            if (i >= rows_left) break;
            fetch(u + (next + i) * channels, projected + channel_ + (next + i) * stride,
                  out + (next + i) * channels);
          }
          ++call;
          advance(count, scratch_.rate + at, scratch_.state + at, scratch_.step + rows,
                  scratch_.added + rows, scratch_.b_c + n, scratch_.b_c + padded_ + n, 2 * padded_,
                  scratch_.y + rows);
        }
      }
      put(count, out + t * channels);
    }
    if (shape_.passes == 1) return;
    join_passes();
    for (int64_t t = 0; t < length; t += kTokens) {
      const int64_t count = min(kTokens, length - t);
      if (!add_rest(count, projected + t * stride, out + t * channels)) break;
    }
  }

 private:
  // Steps and inputs of a block, what its outputs start from, and the time at its end.
  void discretise(int64_t count, const float* u, const float* projected) const {
    const int64_t channels = shape_.channels, stride = channels + 2 * shape_.states;
    const float* delta = projected + channel_;
    Vec elapsed[kWidth / kLanes] = {};
    for (int64_t t = 0; t < count; ++t) {
      const float *from = u + t * channels, *steps = delta + t * stride;
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const int64_t at = lane * kTokens + t * kLanes;
        const Vec input = load_some(from + lane, width_ - lane);
        Vec step = load_some(steps + lane, width_ - lane);
        step = softplus(step + load(scratch_.bias + lane));
        store(scratch_.step + at, step);
        store(scratch_.added + at, step * input);
        store(scratch_.y + at, input * load(scratch_.skip + lane));
        elapsed[lane / kLanes] += step;
      }
    }
    for (int64_t lane = 0; lane < width_; lane += kLanes) {
      store(scratch_.elapsed + lane, load(scratch_.elapsed + lane) + elapsed[lane / kLanes]);
    }
  }

  // A row that is soon read, and one that is soon written.
  void fetch(const float* u, const float* delta, const float* out) const {
    for (int64_t j = 0; j < width_; j += 16) {
      __builtin_prefetch(u + j);
      __builtin_prefetch(delta + j);
      __builtin_prefetch(out + j, 1);
    }
  }

  void take_b_c(int64_t count, const float* from) const {
    const int64_t states = shape_.states;
    for (int64_t t = 0; t < count; ++t, from += shape_.channels + 2 * states) {
      float* to = scratch_.b_c + t * 2 * padded_;
      copy_floats(from, states, to);
      copy_floats(from + states, states, to + padded_);
    }
  }

  // The outputs of a block of the pass from zero.
  void put(int64_t count, float* out) const {
    for (int64_t t = 0; t < count; ++t, out += shape_.channels) {
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const Vec y = load(scratch_.total + lane) * load(scratch_.y + lane * kTokens + t * kLanes);
        store_some(out + lane, y, width_ - lane);
      }
    }
  }

  // From the states after the pass from zero to the sum of those that all passes begin with.
  void join_passes() const {
    const int64_t passes = shape_.passes;
    for (int64_t lane = 0; lane < width_; lane += kLanes) {
      const Vec elapsed = load(scratch_.elapsed + lane);
      for (int64_t n = 0; n < shape_.states; ++n) {
        const int64_t at = lane * padded_ + n * kLanes;
        const Vec gained = load(scratch_.state + at);
        const Vec kept = exp2_nonpositive(elapsed * load(scratch_.rate + at));
        Vec start{}, sum{};
        for (int64_t r = 1; r < passes; ++r) {
          start = kept * start + gained;
          Vec weight{};
          for (int i = 0; i < kLanes && lane + i < width_; ++i) {
            weight[i] = weights_.gamma[(channel_ + lane + i) * passes + r];
          }
          sum += weight * start;
        }
        store(scratch_.state + at, sum);
      }
    }
    for (int64_t j = 0; j < kWidth; ++j) scratch_.elapsed[j] = 0.0f;
  }

  // Adds to a block of outputs what is left of the states that the passes begin with; false if
  // nothing is.
  bool add_rest(int64_t count, const float* projected, float* out) const {
    const int64_t channels = shape_.channels, stride = channels + 2 * shape_.states;
    bool some = false;
    for (int64_t lane = 0; lane < width_; lane += kLanes) {
      const float *rate = scratch_.rate + lane * padded_, *state = scratch_.state + lane * padded_;
      const Vec before = load(scratch_.elapsed + lane);
      bool left = false;
      for (int64_t n = 0; n < padded_ && !left; n += kStates) {
        left = is_left(rate + n * kLanes, state + n * kLanes, before);
      }
      if (!left) continue;  // so it stays: the time does not go back
      if (!some) take_b_c(count, projected + channels);
      some = true;

      const float* delta = projected + channel_ + lane;
      const Vec bias = load(scratch_.bias + lane);
      Vec elapsed{};
      for (int64_t t = 0; t < count; ++t) {
        elapsed += softplus(load_some(delta + t * stride, width_ - lane) + bias);
        store(scratch_.step + t * kLanes, before + elapsed);
        store(scratch_.y + t * kLanes, load_some(out + t * channels + lane, width_ - lane));
      }
      store(scratch_.elapsed + lane, before + elapsed);
      for (int64_t n = 0; n < padded_; n += kStates) {
        if (!is_left(rate + n * kLanes, state + n * kLanes, before)) continue;
        fade(count, rate + n * kLanes, state + n * kLanes, scratch_.step,
             scratch_.b_c + padded_ + n, 2 * padded_, scratch_.y);
      }
      for (int64_t t = 0; t < count; ++t) {
        store_some(out + t * channels + lane, load(scratch_.y + t * kLanes), width_ - lane);
      }
    }
    return some;
  }

  // The first `count` lanes, or all.
  static Vec load_some(const float* from, int64_t count) {
    return count >= kLanes ? load(from) : load_partial(from, static_cast<int>(count));
  }
  static void store_some(float* to, Vec v, int64_t count) {
    if (count >= kLanes) return store(to, v);
    store_partial(to, v, static_cast<int>(count));
  }

  const CycleScanShape& shape_;
  const CycleScanWeights& weights_;
  const int64_t padded_, channel_, width_;
  const Scratch scratch_;
};

}  // namespace

void cycle_scan(const CycleScanShape& shape, const float* u, const float* projected,
                const CycleScanWeights& weights, float* out, const Memory& memory,
                const Parallel& parallel) {
  if (shape.images == 0) return;
  const int64_t stride = shape.channels + 2 * shape.states;
  const int64_t parts = ceil_div(shape.channels, kWidth);
  int64_t tokens = 0;  // of an image
  for (int64_t i = 0; i < shape.sequences; ++i) tokens += shape.lengths[i];
  const int64_t blocks = shape.images * shape.sequences * parts;
  for_blocks(blocks, Scratch::floats(shape.states), memory, parallel,
             [&](int64_t block, float* scratch) {
               const int64_t which = block / parts % shape.sequences;
               int64_t first = block / parts / shape.sequences * tokens;
               for (int64_t i = 0; i < which; ++i) first += shape.lengths[i];
               const int64_t channel = block % parts * kWidth;
               const int64_t width = min(kWidth, shape.channels - channel);
               const Sequence sequence(shape, weights, channel, width, scratch);
               sequence.run(shape.lengths[which], u + first * shape.channels,
                            projected + first * stride, out + first * shape.channels);
             });
}

}  // namespace i2f::I2F_TIER
