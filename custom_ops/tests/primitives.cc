// Unit tests of the functions that the kernels share, against double precision. What a header
// promises (an error, a special value, an order of lanes) is asserted here with the same number.
//
//   primitives_avx2 [STEP]
//
// Functions of one number are tried on every STEP-th float32 (default 1021; 1: all of them), and on
// all floats near the ends of their ranges. Prints a line for each check, with the largest error as
// a share of what is allowed; the exit status is 1 if one fails.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/attention_tile.h"
#include "kernels/dot.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/math.h"
#include "kernels/moments.h"
#include "kernels/rotary.h"
#include "kernels/shuffle.h"
#include "kernels/simd.h"
#include "kernels/tiles.h"
#include "kernels/tiles_agree.h"
#include "ops/cpu_features.h"

namespace i2f::I2F_TIER {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

bool failed = false;

// One line of the report. `worst` is the largest error over the error allowed.
void report(const char* what, double worst, const char* where = "") {
  const bool ok = worst <= 1.0;  // a NaN fails
  failed = failed || !ok;
  std::printf("%s\t%s\t%.3f of what is allowed%s\n", ok ? "ok" : "FAILED", what, worst, where);
}
void report(const char* what, bool ok) { report(what, ok ? 0.0 : kInf); }

// Whether `error` is the largest so far, which it then becomes. A NaN counts as infinite.
bool keep(double& worst, double error) {
  if (error <= worst) return false;
  worst = std::isnan(error) ? kInf : error;
  return true;
}

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

class Random {
 public:
  uint32_t next() {  // a Weyl sequence, its bits mixed
    uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    return static_cast<uint32_t>(x >> 32 ^ x);
  }
  // In [-1, 1).
  float number() { return static_cast<float>(static_cast<int32_t>(next())) * 0x1p-31f; }

 private:
  uint64_t state_ = 1;
};

// ---- Functions of one number.

// Runs `function` over all floats of the grid. judge(x, y) is the error of y over what is allowed.
template <class Function, class Judge>
void check(const char* what, uint32_t step, const Function& function, const Judge& judge) {
  double worst = 0;
  float worst_at = 0;
  Vec x{};
  int lanes = 0;
  const auto flush = [&] {
    const Vec y = function(x);
    for (int i = 0; i < lanes; ++i) {
      const double error = judge(x[i], y[i]);
      if (keep(worst, error)) worst_at = x[i];
    }
    lanes = 0;
  };
  const auto add = [&](uint32_t bits) {
    x[lanes++] = from_bits(bits);
    if (lanes == kLanes) flush();
  };
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += step) add(static_cast<uint32_t>(bits));
  // Zero, the smallest and largest numbers, infinities and NaNs, ends of ranges, and all around.
  const float ends[] = {0.0f,     1.0f,      5.5f,   87.3f,     88.0f,
                        88.3763f, 88.72284f, 89.0f,  87.68f,    126.0f,
                        126.5f,   127.5f,    128.0f, 0x1p-126f, 0.5f,
                        0.3466f,  1e30f,     kNan,   kInfinity, from_bits(0x7fffff)};
  for (const float end : ends) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      for (uint32_t offset = 0; offset < 2000; ++offset) add((to_bits(end) ^ sign) + offset - 1000);
    }
  }
  if (lanes > 0) flush();
  char where[64];
  std::snprintf(where, sizeof where, ", at %.9g (%08x)", static_cast<double>(worst_at),
                to_bits(worst_at));
  report(what, worst, where);
}

double same(bool ok) { return ok ? 0.0 : kInf; }

// A unit in the last place of a float32 of this size.
double ulp(double x) { return std::ldexp(1.0, std::ilogb(x) - 23); }

double relative_error(double y, double truth, double allowed) {
  return std::abs(y - truth) / (allowed * std::abs(truth));
}

void check_functions(uint32_t step) {
  const double least = std::exp2(-126.0), low_end = std::exp2(-126.5), high_end = std::exp2(127.5);
  check(
      "exp", step, [](Vec x) { return exp(x); },
      [=](double x, float y) {
        if (std::isnan(x)) return same(std::isnan(y));
        const double truth = std::exp(x);
        // The ends are where the exponent rounds: a share of 1e-5 around them may go either way.
        if (truth < low_end * (1 - 1e-5)) return same(to_bits(y) == 0);
        if (truth < least) return same(y == 0 || std::abs(y - truth) <= 2 * ulp(least));
        if (truth > high_end * (1 + 1e-5)) return same(y == kInfinity);
        if (truth > high_end * (1 - 1e-5) && y == kInfinity) return 0.0;
        return std::abs(y - truth) / (1.05 * ulp(truth));
      });
  check(
      "exp2_in_range", step, [](Vec x) { return exp2_in_range(x); },
      [](double x, float y) {
        if (x == 0) return same(y == 1);
        if (x == 128) return same(y == kInfinity);
        if (!(x >= -126 && x < 128)) return 0.0;
        return relative_error(y, std::exp2(x), 2e-7);
      });
  check(
      "exp2_nonpositive", step, [](Vec x) { return exp2_nonpositive(x); },
      [](double x, float y) {
        if (x == 0) return same(y == 1);
        if (!(x <= 0)) return 0.0;
        return relative_error(y, std::exp2(x < -126 ? -126 : x), 2e-7);
      });
  check(
      "clamp_min_bits", step, [](Vec x) { return clamp_min_bits(x, -126.0f); },
      [](float x, float y) {
        if (std::isnan(x)) return same(std::isnan(y) || y == -126);
        return same(to_bits(y) == to_bits(x < -126 ? -126 : x));
      });
  check(
      "clamp_max_bits", step, [](Vec x) { return clamp_max_bits(x, 128.0f); },
      [](float x, float y) {
        if (std::isnan(x)) return same(std::isnan(y) || y == 128);
        return same(to_bits(y) == to_bits(x > 128 ? 128 : x));
      });
  check(
      "softplus", step, [](Vec x) { return softplus(x); },
      [=](double x, float y) {
        if (std::isnan(x)) return same(std::isnan(y));
        if (x == kInf) return same(y == kInfinity);
        if (x < -88) return same(y == 0);
        if (x < -87.33) return 0.0;  // where e^x goes to 0
        return relative_error(y, x > 40 ? x : std::log1p(std::exp(x)), 4e-7);
      });
  check(
      "sigmoid", step, [](Vec x) { return sigmoid(x); },
      [](double x, float y) {
        if (std::isnan(x)) return same(std::isnan(y));
        if (x < -88.377) return same(to_bits(y) == 0);
        if (x < -88.376 && y == 0) return 0.0;
        return relative_error(y, 1 / (1 + std::exp(-x)), 2.5e-7);
      });
  check(
      "silu", step, [](Vec x) { return silu(x); },
      [](double x, float y) {
        if (std::isnan(x) || x == -kInf) return same(std::isnan(y));
        if (x == kInf) return same(y == kInfinity);
        if (x < -88.723 || x == 0) return same(y == 0);
        if (x < -88.722 && y == 0) return 0.0;
        const double truth = x / (1 + std::exp(-x));
        if (std::abs(truth) < 0x1p-126) return std::abs(y - truth) / 0x1p-149;
        return relative_error(y, truth, 1.8e-7 * (1 + (x < 0 ? -x : 0)));
      });
  // Without fused products and sums more is lost.
#ifdef __FMA__
  constexpr double kGeluError = 2.1e-7;
#else
  constexpr double kGeluError = 3e-7;
#endif
  check(
      "gelu", step, [](Vec x) { return gelu(x); },
      [](double x, float y) {
        if (std::isnan(x) || x == -kInf) return same(std::isnan(y));
        if (x == kInf) return same(y == kInfinity);
        if (x == 0) return same(y == 0);
        const double truth = x * 0.5 * std::erfc(-x * 0.70710678118654752440);
        return std::abs(y - truth) / (kGeluError * std::abs(x) + 0x1p-149);
      });
}

// ---- Lanes.

// A vector of the numbers from `first` on.
Vec ascending(int first) {
  Vec v{};
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(first + i);
  return v;
}

template <class At>
bool lanes_are(Vec v, const At& at) {
  for (int i = 0; i < kLanes; ++i) {
    if (v[i] != static_cast<float>(at(i))) return false;
  }
  return true;
}

// What zip_low and zip_high give: groups of a and b interleaved.
template <int kGroup>
bool zips(Vec a, Vec b) {
  int by_turns[2 * kLanes];
  for (int i = 0, to = 0; i < kLanes; i += kGroup) {
    for (int from : {i, kLanes + i}) {
      for (int j = 0; j < kGroup; ++j) by_turns[to++] = from + j;
    }
  }
  bool ok = lanes_are(zip_low<kGroup>(a, b), [&](int i) { return by_turns[i]; }) &&
            lanes_are(zip_high<kGroup>(a, b), [&](int i) { return by_turns[kLanes + i]; });
  if constexpr (2 * kGroup < kLanes) ok = ok && zips<2 * kGroup>(a, b);
  return ok;
}
template <int kDistance = 1>
bool flips(Vec a) {
  bool ok = lanes_are(flip_lanes<kDistance>(a), [](int i) { return i ^ kDistance; }) &&
            lanes_are((Vec)flip_lanes<kDistance>((VecInt)a), [](int i) { return i ^ kDistance; });
  if constexpr (2 * kDistance < kLanes) ok = ok && flips<2 * kDistance>(a);
  return ok;
}

void check_lanes() {
  const Vec a = ascending(0), b = ascending(kLanes);
  report("even_lanes", lanes_are(even_lanes(a, b), [](int i) { return 2 * i; }));
  report("odd_lanes", lanes_are(odd_lanes(a, b), [](int i) { return 2 * i + 1; }));
  report("zip_low, zip_high", zips<1>(a, b));
  report("flip_lanes", flips(a));
  report("sum_of_lanes", sum_of_lanes(b) == kLanes * (3 * kLanes - 1) / 2);

  Vec rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = ascending(i * kLanes);
  transpose(rows);
  bool ok = true;
  for (int i = 0; i < kLanes; ++i) {
    ok = ok && lanes_are(rows[i], [=](int j) { return j * kLanes + i; });
  }
  report("transpose", ok);

  ok = true;
  for (int i = 0; i < kLanes; ++i) {
    VecInt mask{};
    ok = ok && !any(mask);
    mask[i] = -1;
    ok = ok && any(mask);
  }
  report("any", ok);
}

void check_memory() {
  bool ok = true;
  for (const uint32_t bits :
       {0u, 0x80000000u, 0x3f800000u, 0x7f800000u, 0xff800000u, 1u, 0x80000001u}) {
    const Vec v = broadcast(from_bits(bits));
    for (int i = 0; i < kLanes; ++i) ok = ok && to_bits(v[i]) == bits;
  }
  for (int i = 0; i < kLanes; ++i) ok = ok && std::isnan(broadcast(kNan)[i]);
  report("broadcast", ok);

  ok = true;
  for (int n = 0; n <= kLanes; ++n) {
    const std::vector<float> source(static_cast<size_t>(n), 7.0f);  // the sanitizer guards its end
    ok = ok && lanes_are(load_partial(source.data(), n), [=](int i) { return i < n ? 7 : 0; });
    float target[kLanes + 1];
    for (float& x : target) x = -1;
    store_partial(target, ascending(0), n);
    for (int i = 0; i <= kLanes; ++i) ok = ok && target[i] == static_cast<float>(i < n ? i : -1);
  }
  report("load_partial, store_partial", ok);
}

// ---- Dot products of int8 and bfloat16 numbers.

template <class Factor, int kDepth, class Value>
VecWord packed(const Value (&values)[kLanes][kDepth]) {
  static_assert(sizeof(Factor) * kDepth == sizeof(uint32_t), "factors fill a lane");
  Factor factors[kLanes][kDepth];
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kDepth; ++j) factors[i][j] = static_cast<Factor>(values[i][j]);
  }
  VecWord words;
  std::memcpy(&words, factors, sizeof words);
  return words;
}

#ifdef I2F_DOTS_ROUND_TO_ODD
// x as a float; if it is none, the one of its two neighbours whose last bit is set.
float to_odd(double x) {
  float nearest = static_cast<float>(x);
  if (nearest == x || to_bits(nearest) & 1) return nearest;
  return std::nextafter(nearest, static_cast<float>(x > nearest ? kInf : -kInf));
}
#endif

void check_dots() {
  Random random;
  const int extremes_x[] = {-127, -1, 0, 1, 127}, extremes_w[] = {-128, -127, -1, 0, 1, 127};
  bool ok = true;
  for (int round = 0; round < 20000; ++round) {
    constexpr int kDepth = Int8Dot::kDepth;
    int32_t x[kLanes][kDepth], w[kLanes][kDepth];
    VecInt sums{};
    int64_t truth[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      sums[i] = static_cast<int32_t>(random.next()) / 4;
      truth[i] = sums[i];
      for (int j = 0; j < kDepth; ++j) {
        const bool extreme = random.next() % 2 == 0;
        x[i][j] = extreme ? extremes_x[random.next() % 5]
                          : static_cast<int32_t>(random.next() % 255) - 127;
        w[i][j] = extreme ? extremes_w[random.next() % 6]
                          : static_cast<int32_t>(random.next() % 256) - 128;
      }
      if (Int8Dot::kMaxPair > 0) {  // of no more than the limit, which extremes come to
        for (int j = 0; j + 1 < kDepth; j += 2) {
          if (std::abs(x[i][j] + x[i][j + 1]) <= Int8Dot::kMaxPair) continue;
          x[i][j] = x[i][j] > 0 ? 64 : -64;
          x[i][j + 1] = x[i][j];
        }
      }
      for (int j = 0; j < kDepth; ++j) {
        x[i][j] += Int8Dot::kOffset;
        w[i][j] += Int8Dot::kWeightOffset;
        truth[i] += x[i][j] * w[i][j];
      }
    }
    // A weight is as wide as a factor.
    const VecInt result =
        Int8Dot::add(sums, packed<Int8Dot::Factor>(x), packed<Int8Dot::Factor>(w));
    for (int i = 0; i < kLanes; ++i) ok = ok && result[i] == truth[i];
  }
  report("Int8Dot", ok);

#ifdef I2F_BFLOAT16_DOTS
  double worst = 0;
  for (int round = 0; round < 20000; ++round) {
    constexpr int kDepth = Bf16Dot::kDepth;
    uint32_t x[kLanes][kDepth], w[kLanes][kDepth];
    Vec sums{};
    double truth[kLanes], size[kLanes], products[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) {
      sums[i] = random.number();
      size[i] = std::abs(double{sums[i]});
      for (int j = 0; j < kDepth; ++j) {
        const uint32_t a = to_bits(random.number()) & 0xffff0000,
                       b = to_bits(random.number()) & 0xffff0000;
        const double product = double{from_bits(a)} * double{from_bits(b)};
        products[i] += product;
        size[i] += std::abs(product);
        x[i][j] = a >> 16;
        w[i][j] = b >> 16;
      }
      truth[i] = double{sums[i]} + products[i];
    }
    const Vec result = Bf16Dot::add(sums, packed<Bf16Dot::Factor>(x), packed<Bf16Dot::Factor>(w));
    for (int i = 0; i < kLanes; ++i) {
      const double error = std::abs(result[i] - truth[i]) / (kDepth * Bf16Dot::kRounding * size[i]);
      keep(worst, error);
#ifdef I2F_DOTS_ROUND_TO_ODD
      if (result[i] != to_odd(double{sums[i]} + double{to_odd(products[i])})) worst = kInf;
#endif
    }
  }
  report("Bf16Dot", worst);
#endif
}

// ---- Tiles.

#ifdef I2F_TILES
// Models that are wrong in one thing.
struct WithSignedBytes : TileModel {
  template <int kSums, int kX, int kW>
  void add_bytes() {
    TileModel::add_bytes<kSums, kW, kX>();
  }
};
struct WithOneSum : TileModel {  // of even and odd numbers alike, and it begins at `sums`
  template <int kSums, int kX, int kW>
  void add_bfloat16() {
    uint32_t sums[16][16], x[16][16], w[16][16];
    store<kSums>(sums[0], 16);
    store<kX>(x[0], 16);
    store<kW>(w[0], 16);
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        float sum = from_bits(sums[m][n]);
        for (int k = 0; k < 16; ++k) {
          sum = std::fma(from_bits(x[m][k] << 16), from_bits(w[k][n] << 16), sum);
          sum = std::fma(from_bits(x[m][k] & 0xffff0000), from_bits(w[k][n] & 0xffff0000), sum);
        }
        sums[m][n] = to_bits(sum);
      }
    }
    load<kSums>(sums[0], 16);
  }
};
struct WithSubnormals : TileModel {  // as factors: it takes those of the first row for 2^-126
  template <int kSums, int kX, int kW>
  void add_bfloat16() {
    uint32_t x[16][16];
    store<kX>(x[0], 16);
    for (uint32_t& word : x[0]) {
      if ((word & 0x7f80) == 0) word |= 0x0080;
    }
    load<kX>(x[0], 16);
    TileModel::add_bfloat16<kSums, kX, kW>();
  }
};

void check_tiles() {
  // The model, against sums in whole numbers and in double precision.
  TileWords words(7);
  bool exact = true;
  double worst = 0;
  for (int round = 0; round < 20; ++round) {
    uint32_t sums[2][256], x[2][256], w[2][256];
    for (int i = 0; i < 256; ++i) {
      sums[0][i] = words.bytes(), x[0][i] = words.bytes(), w[0][i] = words.bytes();
      sums[1][i] = words.float32(), x[1][i] = words.bfloat16(), w[1][i] = words.bfloat16();
    }
    uint32_t results[2][256];
    TileModel model;
    model.load<2>(sums[0], 16), model.load<3>(x[0], 16), model.load<4>(w[0], 16);
    model.load<5>(sums[1], 16), model.load<6>(x[1], 16), model.load<7>(w[1], 16);
    model.add_bytes<2, 3, 4>();
    model.add_bfloat16<5, 6, 7>();
    model.store<2>(results[0], 16);
    model.store<5>(results[1], 16);
    const auto number = [](uint32_t half) {  // a bfloat16 number; a subnormal one is 0
      return (half & 0x7f80) == 0 ? 0.0 : double{from_bits(half << 16)};
    };
    for (int i = 0; i < 256; ++i) {
      uint32_t whole = sums[0][i];
      double truth = from_bits(sums[1][i]), size = std::abs(truth);
      for (int k = 0; k < 16; ++k) {
        const uint32_t a = x[0][i / 16 * 16 + k], b = w[0][k * 16 + i % 16];
        for (int byte = 0; byte < 4; ++byte) {
          whole += static_cast<uint8_t>(a >> 8 * byte) * static_cast<int8_t>(b >> 8 * byte);
        }
        const uint32_t c = x[1][i / 16 * 16 + k], d = w[1][k * 16 + i % 16];
        for (const double product :
             {number(c & 0xffff) * number(d & 0xffff), number(c >> 16) * number(d >> 16)}) {
          truth += product;
          size += std::abs(product);
        }
      }
      exact = exact && results[0][i] == whole;
      keep(worst, std::abs(from_bits(results[1][i]) - truth) / (18 * 0x1p-24 * size));
    }
  }
  report("bytes of TileModel", exact);
  report("bfloat16 numbers of TileModel", worst);
  report("tiles_agree finds what differs", !tiles_agree<WithSignedBytes>(1) &&
                                               !tiles_agree<WithOneSum>(1) &&
                                               !tiles_agree<WithSubnormals>(1));
#ifndef I2F_EMULATED
  bool agree = true;
  for (uint32_t seed = 0; seed < 500; ++seed) agree = agree && tiles_agree<Tiles>(seed);
  report("Tiles", agree);
#endif
}
#else
void check_tiles() {}
#endif

// ---- Sums.

void check_moments() {
  Random random;
  double worst_mean = 0, worst_squares = 0, worst_inverse = 0;
  for (const int64_t count :
       {1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 100, 1000, 8191, 8192, 8193, 50000}) {
    for (const float offset : {0.0f, 1.0f, -30.0f, 1000.0f}) {
      std::vector<float> x(static_cast<size_t>(count));
      for (float& v : x) v = offset + random.number();
      double mean = 0, squares = 0;
      for (const float v : x) mean += double{v} / static_cast<double>(count);
      for (const float v : x) squares += (v - mean) * (v - mean);
      const Moments moments = moments_of_chunks(x.data(), count);
      if (moments.count != static_cast<double>(count))
        report("the count of moments_of_chunks", false);
      const double mean_error = std::abs(moments.mean - mean) / 5e-8;
      const double squares_error = std::abs(moments.squares - squares) / (5e-7 * squares + 1e-9);
      keep(worst_mean, mean_error);
      keep(worst_squares, squares_error);
      const double truth = 1 / std::sqrt(squares / static_cast<double>(count) + 0.5);
      const double inverse_error =
          std::abs(moments.inverse_deviation(0.5f) - truth) / (3.2e-7 * truth);
      keep(worst_inverse, inverse_error);
    }
  }
  report("inverse_deviation", worst_inverse);
  report("mean of moments_of_chunks", worst_mean);
  report("squares of moments_of_chunks", worst_squares);
}

void check_normalise() {
  Random random;
  double worst = 0;
  for (int64_t count = 1; count < 9 * kLanes + 2; ++count) {
    for (const float offset : {0.0f, 3.0f}) {
      const int64_t vectors = ceil_div(count, kLanes) * kLanes;
      std::vector<float> x(static_cast<size_t>(count)), y(static_cast<size_t>(vectors));
      for (float& v : x) v = offset + random.number();
      double mean = 0, squares = 0;
      for (const float v : x) mean += double{v} / static_cast<double>(count);
      for (const float v : x) squares += (v - mean) * (v - mean);
      const double deviation = std::sqrt(squares / static_cast<double>(count) + 0.01f);
      normalise(x.data(), count, 0.01f, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double error = std::abs(y[i] - (x[i] - mean) / deviation) / 1e-6;
        keep(worst, error);
      }
    }
  }
  report("normalise", worst);
}

void check_rotary() {
  double worst_table = 0, worst_turn = 0;
  Random random;
  constexpr int64_t kPositions = 300;
  for (const int64_t head_width : {4, 8, 12, 32, 36, 64, 256}) {
    std::vector<float> table(static_cast<size_t>(kPositions * head_width));
    const RotaryTable rotary{table.data(), head_width};
    rotary.make(kPositions);
    const int64_t half = head_width / 2;
    const auto angle = [&](int64_t position, int64_t channel) {
      return 0.5 * static_cast<double>(position) *
             std::pow(10000.0, -2.0 * static_cast<double>(channel / 2) / static_cast<double>(half));
    };
    for (int64_t position = 0; position < kPositions; ++position) {
      for (int64_t c = 0; c < half; ++c) {
        const float* row = table.data() + position * head_width;
        const double cosine_error = std::abs(row[c] - std::cos(angle(position, c))) / 3e-8;
        const double sine = std::sin(angle(position, c)) * (c % 2 == 0 ? 1 : -1);
        const double sine_error = std::abs(row[half + c] - sine) / 3e-8;
        for (const double error : {cosine_error, sine_error}) keep(worst_table, error);
      }
    }
    std::vector<float> x(static_cast<size_t>(head_width)), y(x.size());
    for (float& v : x) v = random.number();
    const int64_t positions[] = {17, 201};  // row and column
    rotary.rotate(x.data(), positions[0], positions[1], y.data());
    for (int64_t c = 0; c < head_width; ++c) {
      const double turn = angle(positions[c / half], c % half);
      const double own = x[static_cast<size_t>(c)], other = x[static_cast<size_t>(c ^ 1)];
      const double truth = own * std::cos(turn) + other * std::sin(turn) * (c % 2 == 0 ? 1 : -1);
      const double error = std::abs(y[static_cast<size_t>(c)] - truth) / 1e-7;
      keep(worst_turn, error);
    }
  }
  report("table of RotaryTable", worst_table);
  report("RotaryTable::rotate", worst_turn);
}

// ---- Matrix products.

void check_products() {
  Random random;
  constexpr int kM = 3, kN = 2;
  double worst = 0;
  bool rest_is_zero = true;
  for (const int64_t depth : {1, 2, 3, 15, 16, 17, 33}) {
    for (int64_t columns = 1; columns <= kN * kLanes; columns += 3) {
      for (const bool folded : {false, true}) {
        const auto numbers = [&](int64_t count) {
          std::vector<float> v(static_cast<size_t>(count));
          for (float& x : v) x = random.number();
          return v;
        };
        const std::vector<float> w = numbers(columns * depth), bias = numbers(columns),
                                 x = numbers(kM * depth);
        const std::vector<float> scale = numbers(depth), shift = numbers(depth);
        const Fold fold{scale.data(), shift.data()};
        std::vector<float> panel(static_cast<size_t>(panel_floats<kN>(depth)), kNan);
        for (int n = 0; n < kN; ++n) {
          pack_columns(w.data(), bias.data(), folded ? &fold : nullptr, columns, depth, n * kLanes,
                       n, kN, panel.data());
        }
        const float* rows[kM];
        for (int m = 0; m < kM; ++m) rows[m] = x.data() + m * depth;
        Vec sums[kM][kN];
        multiply<kM, kN>(rows, panel.data(), depth, sums);
        for (int m = 0; m < kM; ++m) {
          for (int64_t c = 0; c < kN * kLanes; ++c) {
            const float result = sums[m][c / kLanes][c % kLanes];
            if (c >= columns) {
              rest_is_zero = rest_is_zero && result == 0;
              continue;
            }
            double truth = bias[static_cast<size_t>(c)];
            for (int64_t k = 0; k < depth; ++k) {
              double factor = rows[m][k];
              if (folded) {
                factor = factor * scale[static_cast<size_t>(k)] + shift[static_cast<size_t>(k)];
              }
              truth += factor * w[static_cast<size_t>(c * depth + k)];
            }
            const double error = std::abs(result - truth) / (1e-7 * static_cast<double>(depth + 1));
            keep(worst, error);
          }
        }
      }
    }
  }
  report("pack_columns, multiply", worst);
  report("columns behind the last", rest_is_zero);
}

void check_parts() {
  bool ok = true;
  for (int64_t begin = 0; begin < 3; ++begin) {
    for (int64_t count = 0; count < 40; ++count) {
      for (int64_t most = 1; most < 12; ++most) {
        int64_t at = begin, parts = 0, shortest = count, longest = 0;
        for_parts(begin, begin + count, most, [&](int64_t first, int64_t last) {
          ok = ok && first == at && last > first;
          at = last;
          ++parts;
          shortest = min(shortest, last - first);
          longest = max(longest, last - first);
        });
        ok = ok && at == begin + count && longest <= most && parts == ceil_div(count, most) &&
             (count == 0 || longest - shortest <= 1);
      }
    }
  }
  report("for_parts", ok);
}

}  // namespace
}  // namespace i2f::I2F_TIER

int main(int argc, char** argv) {
  namespace tier = i2f::I2F_TIER;
  const unsigned long step = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1021;
  if (step < 1 || step > 1u << 20) {
    std::fprintf(stderr, "usage: %s [STEP of 1 to %d]\n", argv[0], 1 << 20);
    return 2;
  }
#if defined(I2F_TILES) && !defined(I2F_EMULATED)
  if (!i2f::cpu_grants_tiles()) {
    std::fprintf(stderr, "the operating system grants no tiles\n");
    return 2;
  }
#endif
  tier::check_functions(static_cast<uint32_t>(step));
  tier::check_lanes();
  tier::check_memory();
  tier::check_dots();
  tier::check_tiles();
  tier::check_moments();
  tier::check_normalise();
  tier::check_rotary();
  tier::check_products();
  tier::check_parts();
  return tier::failed ? 1 : 0;
}
