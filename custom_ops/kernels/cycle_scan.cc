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

constexpr int64_t kWidth = 32;                     // channels of a task: two cache lines of a row
constexpr int64_t kTokens = 32;                    // of a block: its maps stay in the first cache
constexpr int kStates = kRegisters >= 32 ? 8 : 4;  // at a time
constexpr float kFaded = -29.0f;                   // exponent of 2 at which a state is forgotten
constexpr float kMostNegative = -__FLT_MAX__;
static_assert(kWidth % kLanes == 0, "a task is whole vectors");

// Memory of a task: maps of kWidth channels a row, b and c side by side.
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

  float* rate;     // [padded, kWidth], in units of ln 2
  float* state;    // [padded, kWidth]
  float* step;     // [kTokens, kWidth]
  float* added;    // [kTokens, kWidth], inputs times steps
  float* y;        // [kTokens, kWidth]
  float* bias;     // [kWidth]
  float* skip;     // [kWidth]
  float* total;    // [kWidth], sum of gamma
  float* elapsed;  // [kWidth], sum of steps so far
  float* b_c;      // [kTokens, 2 * padded], with zeros behind b and behind c
};

// kStates states of a vector of channels through `count` tokens, from those at `state` on; adds
// what they give to y.
inline void advance(int64_t count, const Scratch& scratch, int64_t padded, int64_t n,
                    int64_t lane) {
  const float* rates = scratch.rate + n * kWidth + lane;
  float* states = scratch.state + n * kWidth + lane;
  Vec rate[kStates], state[kStates];
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) {
    rate[i] = load(rates + i * kWidth);
    state[i] = load(states + i * kWidth);
  }
  for (int64_t t = 0; t < count; ++t) {
    const Vec step = load(scratch.step + t * kWidth + lane);
    const Vec added = load(scratch.added + t * kWidth + lane);
    const float* b = scratch.b_c + t * 2 * padded + n;
    const float* c = b + padded;
    Vec y = load(scratch.y + t * kWidth + lane);
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) {
      state[i] = exp2_nonpositive(step * rate[i]) * state[i] + added * broadcast(b[i]);
      y += state[i] * broadcast(c[i]);
    }
    store(scratch.y + t * kWidth + lane, y);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) store(states + i * kWidth, state[i]);
}

// What is left of kStates states of a vector of channels at `count` tokens, `scratch.step` being
// the time that has passed: adds what they give to y.
inline void fade(int64_t count, const Scratch& scratch, int64_t padded, int64_t n, int64_t lane) {
  Vec rate[kStates], state[kStates];
#pragma GCC unroll 8
  for (int i = 0; i < kStates; ++i) {
    rate[i] = load(scratch.rate + (n + i) * kWidth + lane);
    state[i] = load(scratch.state + (n + i) * kWidth + lane);
  }
  for (int64_t t = 0; t < count; ++t) {
    const Vec elapsed = load(scratch.step + t * kWidth + lane);
    const float* c = scratch.b_c + t * 2 * padded + padded + n;
    Vec y = load(scratch.y + t * kWidth + lane);
#pragma GCC unroll 8
    for (int i = 0; i < kStates; ++i) {
      y += exp2_nonpositive(elapsed * rate[i]) * state[i] * broadcast(c[i]);
    }
    store(scratch.y + t * kWidth + lane, y);
  }
}

// Whether anything is left of kStates states after the time `scratch.elapsed`. What is not finite
// is.
inline bool is_left(const Scratch& scratch, int64_t n, int64_t lane) {
  const Vec elapsed = load(scratch.elapsed + lane);
  VecInt left{};
  for (int i = 0; i < kStates; ++i) {
    const Vec state = load(scratch.state + (n + i) * kWidth + lane);
    const Vec exponent = elapsed * load(scratch.rate + (n + i) * kWidth + lane);
    left |= (state != 0.0f) & ~((exponent <= kFaded) & (state - state == 0.0f));
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
        scratch_.rate[n * kWidth + j] = rate != rate           ? __builtin_nanf("")
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
      discretise(count, length - t, u + t * channels, projected + t * stride);
      take_b_c(count, projected + t * stride + channels);
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        for (int64_t n = 0; n < padded_; n += kStates) advance(count, scratch_, padded_, n, lane);
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
  // Steps and inputs of a block, what its outputs start from, and the time at its end. Fetches rows
  // of the next block: there are `left` tokens. Rows lie too far apart for the hardware to do so.
  void discretise(int64_t count, int64_t left, const float* u, const float* projected) const {
    const int64_t channels = shape_.channels, stride = channels + 2 * shape_.states;
    const float* delta = projected + channel_;
    Vec elapsed[kWidth / kLanes] = {};
    for (int64_t t = 0; t < count; ++t) {
      const float *from = u + t * channels, *steps = delta + t * stride;
      if (t + kTokens < left) {
        for (int64_t j = 0; j < width_; j += 16) {
          __builtin_prefetch(from + kTokens * channels + j);
          __builtin_prefetch(steps + kTokens * stride + j);
        }
        __builtin_prefetch(projected + (t + kTokens) * stride + channels);
      }
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const Vec input = load_some(from + lane, width_ - lane);
        Vec step = load_some(steps + lane, width_ - lane);
        step = softplus(step + load(scratch_.bias + lane));
        store(scratch_.step + t * kWidth + lane, step);
        store(scratch_.added + t * kWidth + lane, step * input);
        store(scratch_.y + t * kWidth + lane, input * load(scratch_.skip + lane));
        elapsed[lane / kLanes] += step;
      }
    }
    for (int64_t lane = 0; lane < width_; lane += kLanes) {
      store(scratch_.elapsed + lane, load(scratch_.elapsed + lane) + elapsed[lane / kLanes]);
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
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const Vec y = load(scratch_.total + lane) * load(scratch_.y + t * kWidth + lane);
        store_some(out + t * shape_.channels + lane, y, width_ - lane);
      }
    }
  }

  // From the states after the pass from zero to the sum of those that all passes begin with.
  void join_passes() const {
    const int64_t passes = shape_.passes;
    for (int64_t n = 0; n < shape_.states; ++n) {
      for (int64_t lane = 0; lane < width_; lane += kLanes) {
        const int64_t at = n * kWidth + lane;
        const Vec gained = load(scratch_.state + at);
        const Vec kept = exp2_nonpositive(load(scratch_.elapsed + lane) * load(scratch_.rate + at));
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
    bool some = false;
    for (int64_t lane = 0; lane < width_ && !some; lane += kLanes) {
      for (int64_t n = 0; n < padded_ && !some; n += kStates) some = is_left(scratch_, n, lane);
    }
    if (!some) return false;
    const int64_t channels = shape_.channels, stride = channels + 2 * shape_.states;
    take_b_c(count, projected + channels);
    for (int64_t lane = 0; lane < width_; lane += kLanes) {
      const Vec before = load(scratch_.elapsed + lane);
      Vec elapsed{};
      for (int64_t t = 0; t < count; ++t) {
        const Vec delta = load_some(projected + t * stride + channel_ + lane, width_ - lane);
        elapsed += softplus(delta + load(scratch_.bias + lane));
        store(scratch_.step + t * kWidth + lane, before + elapsed);
        const Vec y = load_some(out + t * channels + lane, width_ - lane);
        store(scratch_.y + t * kWidth + lane, y);
      }
      for (int64_t n = 0; n < padded_; n += kStates) {
        if (is_left(scratch_, n, lane)) fade(count, scratch_, padded_, n, lane);
      }
      store(scratch_.elapsed + lane, before + elapsed);
      for (int64_t t = 0; t < count; ++t) {
        const Vec y = load(scratch_.y + t * kWidth + lane);
        store_some(out + t * channels + lane, y, width_ - lane);
      }
    }
    return true;
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
