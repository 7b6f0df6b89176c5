#include "fuzz/case.h"

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace i2f::fuzz {
namespace {

constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kByte = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr auto kInt = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr auto kDouble = ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr auto kBfloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
constexpr auto kBool = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;

// Sizes around the vectors and tiles of every tier.
constexpr int64_t kAround[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  12, 13, 14,
                               15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65};

// Numbers that a sum, a comparison or an index could stumble over.
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kSpecials[] = {std::numeric_limits<float>::quiet_NaN(),
                               -std::numeric_limits<float>::quiet_NaN(),
                               kInfinity,
                               -kInfinity,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::lowest(),
                               std::numeric_limits<float>::min(),
                               std::numeric_limits<float>::denorm_min(),
                               0.0f,
                               -0.0f,
                               -2.0f,
                               89.0f,
                               -88.0f};

size_t element_size(ONNXTensorElementDataType type) {
  if (type == kFloat) return 4;
  if (type == kBfloat16) return 2;
  return type == kByte || type == kBool || type == kInt8 ? 1 : 8;
}

// Bits for the elements of a tensor: too many to take each from the fuzzer's bytes.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t next() {  // a Weyl sequence, its bits mixed
    uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    return static_cast<uint32_t>(x >> 32 ^ x);
  }

 private:
  uint64_t state_;
};

class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size) : bytes_(data, size) {}

  Case decode(Operators which) {
    const std::vector<Draw> draws = draws_of(which);
    const int64_t last = static_cast<int64_t>(draws.size()) - 1;
    (this->*draws[static_cast<size_t>(between(0, last))].inputs)();
    case_.constants = one_in(4);
    if (one_in(16)) spoil_attribute();
    if (one_in(4)) spoil_shape();
    return std::move(case_);
  }

  // An operator, and what draws its inputs and attributes.
  struct Draw {
    const char* op;
    void (Decoder::*inputs)();
    bool reduced_precision = false;
  };
  static std::vector<Draw> draws_of(Operators which) {
    std::vector<Draw> draws = {{"EdgeTokens", &Decoder::edge_tokens},
                               {"LabelBox", &Decoder::label_box},
                               {"TokenBox", &Decoder::token_box},
                               {"PromptEmbedding", &Decoder::prompt_embedding},
                               {"HybridAttention", &Decoder::hybrid_attention},
                               {"Bf16HybridAttention", &Decoder::bf16_hybrid_attention, true},
                               {"HybridExperts", &Decoder::hybrid_experts},
                               {"Bf16HybridExperts", &Decoder::bf16_hybrid_experts, true},
                               {"LocalUpsample", &Decoder::local_upsample},
                               {"Bf16LocalUpsample", &Decoder::bf16_local_upsample, true},
                               {"CannyMaps", &Decoder::canny_maps},
                               {"EdgeStem", &Decoder::edge_stem},
                               {"EdgeBlock", &Decoder::edge_block},
                               {"Bf16EdgeBlock", &Decoder::bf16_edge_block, true},
                               {"EdgeDownsample", &Decoder::edge_downsample},
                               {"EdgeProjection", &Decoder::edge_projection},
                               {"Bf16EdgeDownsample", &Decoder::bf16_edge_downsample, true},
                               {"Bf16EdgeProjection", &Decoder::bf16_edge_projection, true},
                               {"NormLinear", &Decoder::norm_linear},
                               {"LinearAdd", &Decoder::linear_add},
                               {"LowRankLinear", &Decoder::low_rank_linear},
                               {"LowRankAdd", &Decoder::low_rank_add},
                               {"MaskUpscaling", &Decoder::mask_upscaling},
                               {"ImageToTokenAttention", &Decoder::image_to_token_attention},
                               {"TokenToImageAttention", &Decoder::token_to_image_attention},
                               {"WindowAttention", &Decoder::window_attention},
                               {"Bf16WindowAttention", &Decoder::bf16_window_attention, true},
                               {"CycleScan", &Decoder::cycle_scan},
                               {"Int8Linear", &Decoder::int8_linear, true},
                               {"Bf16Linear", &Decoder::bf16_linear, true},
                               {"Int8NormLinear", &Decoder::int8_norm_linear, true},
                               {"Bf16NormLinear", &Decoder::bf16_norm_linear, true},
                               {"Int8LinearAdd", &Decoder::int8_linear_add, true},
                               {"Bf16LinearAdd", &Decoder::bf16_linear_add, true},
                               {"Int8Mlp", &Decoder::int8_mlp, true},
                               {"Bf16Mlp", &Decoder::bf16_mlp, true},
                               {"FullAttention", &Decoder::full_attention}};
    if (which == Operators::kReducedPrecision) {
      const auto others = [](const Draw& draw) { return !draw.reduced_precision; };
      draws.erase(std::remove_if(draws.begin(), draws.end(), others), draws.end());
    }
    return draws;
  }

 private:
  // ---- Choices.

  int64_t between(int64_t low, int64_t high) { return bytes_.ConsumeIntegralInRange(low, high); }
  bool one_in(int64_t n) { return between(1, n) == n; }  // no bytes left: false
  int64_t size(int64_t most) { return std::min(bytes_.PickValueInArray(kAround), most); }
  Random random() { return Random(bytes_.ConsumeIntegral<uint16_t>()); }

  // ---- Tensors.

  Tensor& add(const std::string& name, ONNXTensorElementDataType type, std::vector<int64_t> dims,
              bool is_weight) {
    Tensor& tensor = case_.inputs.emplace_back(Tensor{name, type, std::move(dims), {}, is_weight});
    tensor.data.resize(tensor.elements() * element_size(type));
    return tensor;
  }

  void floats(const std::string& name, std::vector<int64_t> dims, bool is_weight = false) {
    std::vector<char>& data = add(name, kFloat, std::move(dims), is_weight).data;
    enum { kUsual, kSprinkled, kDenormal, kHuge, kConstant, kAnyBits };
    const int64_t kind = one_in(2) ? between(kSprinkled, kAnyBits) : kUsual;
    const float constant = bytes_.PickValueInArray(kSpecials);
    Random source = random();
    for (size_t at = 0; at < data.size(); at += sizeof(float)) {
      const uint32_t bits = source.next();
      float x = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-30f;
      if (kind == kSprinkled && bits % 16 == 0) x = kSpecials[bits / 16 % std::size(kSpecials)];
      if (kind == kDenormal) x *= 0x1p-130f;
      if (kind == kHuge) x *= 0x1p126f;
      if (kind == kConstant) x = constant;
      if (kind == kAnyBits) std::memcpy(&x, &bits, sizeof x);
      std::memcpy(&data[at], &x, sizeof x);
    }
  }
  void weights(const std::string& name, std::vector<int64_t> dims) {
    floats(name, std::move(dims), true);
  }

  void integers(const std::string& name, const std::vector<int64_t>& values) {
    Tensor& tensor = add(name, kInt, {static_cast<int64_t>(values.size())}, false);
    if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
  }

  // Ascending tokens, a share of [0, length), or a list that is no such thing.
  void edge(int64_t length) { tokens("edge_tokens", length); }
  int64_t tokens(const std::string& name, int64_t length) {
    const uint32_t share = static_cast<uint32_t>(bytes_.PickValueInArray({0, 1, 3, 16, 60, 64}));
    Random source = random();
    std::vector<int64_t> tokens;
    for (int64_t token = 0; token < length; ++token) {
      if (source.next() % 64 < share) tokens.push_back(token);
    }
    if (one_in(8)) {
      case_.valid = false;
      const int64_t wrong = bytes_.PickValueInArray(
          {int64_t{-1}, int64_t{0}, length - 1, length, std::numeric_limits<int64_t>::min(),
           std::numeric_limits<int64_t>::max(), int64_t{1} << 32});
      const auto at = static_cast<size_t>(between(0, static_cast<int64_t>(tokens.size())));
      if (at == tokens.size() || one_in(2)) {
        tokens.insert(tokens.begin() + static_cast<std::ptrdiff_t>(at), wrong);
      } else {
        tokens[at] = wrong;
      }
    }
    integers(name, tokens);
    return static_cast<int64_t>(tokens.size());
  }

  // Rectangles of labels on a ground of one, or noise.
  void labels(int64_t height, int64_t width) {
    std::vector<char>& map = add("labels", kByte, {height, width}, false).data;
    const auto ground = static_cast<char>(one_in(2) ? between(0, 4) : 1);
    std::fill(map.begin(), map.end(), ground);
    if (map.empty()) return;
    if (one_in(8)) {
      Random source = random();
      for (char& label : map) label = static_cast<char>(source.next() % 5);
    }
    for (int64_t rectangles = between(0, 4); rectangles > 0; --rectangles) {
      const int64_t left = between(0, width - 1), top = between(0, height - 1);
      const int64_t right = between(left, width - 1), bottom = between(top, height - 1);
      const auto label = static_cast<char>(between(0, 4));
      for (int64_t y = top; y <= bottom; ++y) {
        std::fill_n(map.begin() + y * width + left, right - left + 1, label);
      }
    }
    if (one_in(16)) {
      case_.valid = false;
      map[static_cast<size_t>(between(0, height * width - 1))] = static_cast<char>(between(5, 255));
    }
  }

  // ---- Attributes.

  template <class T>
  void attribute(const char* name, T value) {
    case_.attributes.push_back({name, value});
  }
  // Also a value that no operator takes.
  void integer(const char* name, int64_t value) {
    if (one_in(32)) {
      case_.valid = false;
      value = bytes_.PickValueInArray({int64_t{-1}, int64_t{0}, value + 1, 2 * value,
                                       std::numeric_limits<int64_t>::min(),
                                       std::numeric_limits<int64_t>::max(), int64_t{1} << 62});
    }
    attribute(name, value);
  }
  // Also a list that is too short, or with a number that no operator takes.
  void list(const char* name, std::vector<int64_t> values) {
    if (one_in(32)) {
      case_.valid = false;
      int64_t& value =
          values[static_cast<size_t>(between(0, static_cast<int64_t>(values.size()) - 1))];
      value = bytes_.PickValueInArray({int64_t{-1}, int64_t{0}, value + 1, 2 * value,
                                       int64_t{std::numeric_limits<int32_t>::max()},
                                       std::numeric_limits<int64_t>::min(),
                                       std::numeric_limits<int64_t>::max(), int64_t{1} << 62});
      if (one_in(4)) values.pop_back();
    }
    attribute(name, values);
  }

  // ---- Operators.

  void edge_tokens() {
    case_.op = one_in(2) ? "EdgeTokensExact" : "EdgeTokens";
    map_of_patches();
  }

  void label_box() {
    case_.op = "LabelBox";
    map_of_patches();
  }

  void map_of_patches() {
    const int64_t patch = 16;
    const auto side = [&] {
      return one_in(16) ? between(0, 600) : patch * between(0, 128 / patch);
    };
    const int64_t height = side(), width = one_in(2) ? height : side();
    labels(height, width);
    case_.valid = case_.valid && height % patch == 0 && width % patch == 0;
  }

  void token_box() {
    case_.op = "TokenBox";
    const int64_t height = between(0, 70);
    floats("low_res", {height, size(65)});
    attribute("threshold", bytes_.PickValueInArray(kSpecials));
  }

  void prompt_embedding() {
    case_.op = "PromptEmbedding";
    const int64_t levels = between(1, 4), patch = int64_t{1} << levels;
    const int64_t most = std::min<int64_t>(12, 96 / patch), height = between(0, most);
    const int64_t width = one_in(2) ? height : between(0, most);
    std::vector<int64_t> channels;
    for (int64_t i = 0; i <= levels; ++i) channels.push_back(size(levels > 2 ? 17 : 40));
    labels(height * patch, width * patch);
    floats("embedding", {height, width, channels.back()});
    weights("label_table", {5, channels[0]});
    for (size_t i = 0; i + 1 < channels.size(); ++i) {
      weights("w" + std::to_string(i), {channels[i + 1], channels[i], 3, 3});
      weights("b" + std::to_string(i), {channels[i + 1]});
    }
    integer("dense", between(0, 1));
    if (one_in(32)) {
      case_.inputs.pop_back();
      case_.valid = false;
    }
  }

  void hybrid_attention() {
    // Decided first, while there are bytes left: all four forms come up alike.
    const bool argmax = one_in(2), is_known = one_in(2);
    const int64_t heads = between(1, 4), head_width = 4 * size(heads == 1 ? 64 : 9);
    const int64_t width = heads * head_width;
    const bool few = width > 24 || one_in(2);
    const int64_t columns = bytes_.PickValueInArray({1, 2, 3, 5, 9, few ? 8 : 30});
    const int64_t rows = between(0, few ? 9 : 30);
    case_.op = argmax ? "HybridAttentionVq" : "HybridAttention";
    const int64_t scores = argmax ? size(49) : between(1, width > 24 ? 6 : 9);
    floats("qkv", {rows * columns, 3 * width});
    edge(rows * columns);
    weights("code_weight", {scores, width});
    weights("code_bias", {scores});
    weights("codewords", {argmax ? scores : int64_t{1} << scores, width});
    integer("heads", heads);
    integer("grid_width", columns);
    if (is_known) {
      case_.op += "Known";
      known(rows * columns, width, heads);
    }
  }

  void bf16_hybrid_attention() {
    hybrid_attention();
    case_.op = "Bf16" + case_.op;
  }

  // What is known of a qkv that differs in some tokens from the first input.
  void known(int64_t tokens, int64_t width, int64_t heads) {
    std::vector<char> qkv = case_.inputs.front().data;
    Random source = random();
    for (int64_t changes = tokens > 0 ? between(0, 40) : 0; changes > 0; --changes) {
      qkv[source.next() % qkv.size()] ^= static_cast<char>(source.next());
    }
    add("known_qkv", kFloat, {tokens, 3 * width}, false).data = std::move(qkv);
    floats("known_out", {tokens, width});
    floats("known_logsum", {tokens, heads});
  }

  void full_attention() {
    case_.op = "FullAttention";
    const int64_t heads = between(1, 4), head_width = 4 * size(heads == 1 ? 64 : 9);
    const int64_t width = heads * head_width,
                  columns = bytes_.PickValueInArray({1, 2, 3, 5, 9, 30});
    floats("qkv", {columns * between(0, width > 24 ? 9 : 30), 3 * width});
    integer("heads", heads);
    integer("grid_width", columns);
    case_.outputs = 2;
  }

  void hybrid_experts() {
    case_.op = "HybridExperts";
    const int64_t channels = size(65), hidden = size(49);
    const bool large = channels * hidden > 500;
    const int64_t length = between(0, large ? 60 : 250), routed = size(large ? 9 : 33);
    const int64_t all = 1 + routed;
    floats("x", {length, channels});
    edge(length);
    weights("input_norm_weight", {channels});
    weights("input_norm_bias", {channels});
    weights("gate_weight", {all, channels});
    weights("gate_bias", {all});
    weights("expert_bias", {routed});
    weights("w1", {all, hidden, channels});
    weights("b1", {all, hidden});
    weights("w2", {all, hidden, channels});
    weights("b2", {all, hidden});
    weights("norm_weight", {2, hidden});
    weights("norm_bias", {2, hidden});
    weights("w3", {all, channels, hidden});
    weights("b3", {all, channels});
    epsilon();
  }

  void bf16_hybrid_experts() {
    hybrid_experts();
    case_.op = "Bf16HybridExperts";
  }

  void norm_linear() {
    case_.op = one_in(2) ? "NormLinear" : "NormLinearGelu";
    const int64_t inputs = size(65), outputs = size(65);
    floats("x", {between(0, 250), inputs});
    weights("norm_weight", {inputs});
    weights("norm_bias", {inputs});
    weights("weight", {outputs, inputs});
    weights("bias", {outputs});
    epsilon();
  }

  void linear_add() {
    case_.op = "LinearAdd";
    const int64_t rows = between(0, 250), inputs = size(65), outputs = size(65);
    floats("x", {rows, inputs});
    floats("residual", {rows, outputs});
    weights("weight", {outputs, inputs});
    weights("bias", {outputs});
  }

  void low_rank_linear() {
    const bool gated = one_in(2);
    case_.op = gated ? "LowRankLinearGated" : "LowRankLinear";
    const int64_t length = between(0, 250), rank = size(65),
                  outputs = gated ? 2 * size(33) : size(65);
    const int64_t column = between(0, 3), roots = between(0, rank);
    floats("known", {length, column + outputs + rank + 1 + between(0, 3)});
    floats("state", {length, rank});
    tokens("inside", length);
    weights("weight", {outputs, rank});
    weights("root", {roots, rank});
    if (one_in(8)) {
      case_.valid = false;  // anything below the diagonal
    } else {
      std::vector<char>& data = case_.inputs.back().data;
      for (int64_t i = 0; i < roots; ++i) {
        std::memset(&data[static_cast<size_t>(i * rank) * sizeof(float)], 0,
                    static_cast<size_t>(i) * sizeof(float));
      }
    }
    weights("bias", {outputs});
    integer("column", column);
    integer("channels", size(65));
    epsilon();
  }

  void low_rank_add() {
    case_.op = "LowRankAdd";
    const int64_t length = between(0, 250), rank = size(65), outputs = size(65);
    const int64_t column = between(0, 3);
    floats("known", {length, column + outputs + between(0, 3)});
    floats("state", {length, rank});
    const int64_t inside = tokens("inside", length);
    floats("rows", {inside, outputs});
    tokens("wanted", length);
    weights("weight", {outputs, rank});
    weights("bias", {outputs});
    integer("column", column);
  }

  void mask_upscaling() {
    case_.op = "MaskUpscaling";
    const int64_t channels = size(65), first = size(65), second = size(33);
    floats("x", {between(0, 7), between(0, 30), channels});
    weights("first_weight", {4 * first, channels});
    weights("first_bias", {first});
    weights("norm_weight", {first});
    weights("norm_bias", {first});
    weights("second_weight", {4 * second, first});
    weights("second_bias", {second});
    floats("mask", {second});
    epsilon();
  }

  void image_to_token_attention() {
    case_.op = "ImageToTokenAttention";
    const int64_t heads = between(1, 4), width = heads * size(17), inputs = size(49);
    const int64_t rows = between(0, 100), tokens = size(33), channels = size(65);
    floats("query", {rows, width});
    floats("query_input", {rows, inputs});
    weights("query_weight", {width, inputs});
    floats("query_bias", {width});
    floats("key", {tokens, width});
    floats("value", {tokens, width});
    floats("image", {rows, channels});
    weights("out_weight", {channels, width});
    weights("out_bias", {channels});
    weights("norm_weight", {channels});
    weights("norm_bias", {channels});
    integer("heads", heads);
    epsilon();
  }

  void token_to_image_attention() {
    case_.op = "TokenToImageAttention";
    const int64_t heads = between(1, 4), width = heads * size(17), channels = size(65);
    const int64_t rows = between(1, one_in(8) ? 1100 : 150), tokens = size(33);
    floats("query", {tokens, width});
    floats("image", {rows, channels});
    floats("key", {rows, width});
    weights("key_weight", {width, channels});
    weights("value_weight", {width, channels});
    floats("value", {one_in(2) ? rows : 1, width});
    integer("heads", heads);
  }

  void bf16_local_upsample() {
    local_upsample();
    case_.op = "Bf16" + case_.op;
  }

  void local_upsample() {
    case_.op = one_in(2) ? "LocalUpsampleLinear" : "LocalUpsample";
    const int64_t in = size(33), out = one_in(2) ? size(49) : int64_t{1} << between(0, 4);
    const int64_t u = between(1, 4), grid = between(1, in * out > 200 ? 4 : 9), side = 2 * u * grid;
    int64_t left = between(0, grid - 1), top = between(0, grid - 1);
    int64_t right = between(left + 1, grid), bottom = between(top + 1, grid);
    if (one_in(4)) {
      left = top = 0;
      right = bottom = grid;
    }
    floats("x", {u * (bottom - top), u * (right - left), in});
    if (one_in(8)) {
      case_.valid = false;
      int64_t* wrong = bytes_.PickValueInArray({&left, &top, &right, &bottom});
      *wrong = bytes_.PickValueInArray({int64_t{-1}, int64_t{0}, grid, grid + 1,
                                        std::numeric_limits<int64_t>::min(),
                                        std::numeric_limits<int64_t>::max()});
    }
    integers("box", {left, top, right, bottom});
    weights("norm_weight", {in});
    weights("norm_bias", {in});
    weights("conv_weight", {out, in, 3, 3});
    weights("conv_bias", {out});
    floats("edge_map", {side, side, out});
    floats("edge_border", {4, grid, side, out});
    floats("edge_corner", {4, grid, grid, out});
    epsilon();
  }

  void window_attention() {
    case_.op = "WindowAttention";
    const int64_t heads = between(1, 3), head_width = 4 * size(heads == 1 ? 64 : 9);
    const int64_t width = heads * head_width, window = between(1, width > 24 ? 5 : 17);
    std::vector<int64_t> heights, widths, offsets;
    int64_t tokens = 0;
    for (int64_t maps = between(1, 3); maps > 0; --maps) {
      heights.push_back(between(1, width > 24 ? 9 : 20));
      widths.push_back(between(1, width > 24 ? 9 : 20));
      offsets.push_back(between(0, window - 1));
      tokens += heights.back() * widths.back();
    }
    floats("qkv", {between(0, 2) * tokens, 3 * width});
    weights("padding", {1, 3 * width});
    integer("heads", heads);
    integer("window", window);
    list("heights", heights);
    list("widths", widths);
    list("offsets", offsets);
  }

  void bf16_window_attention() {
    window_attention();
    case_.op = "Bf16WindowAttention";
  }

  void cycle_scan() {
    case_.op = "CycleScan";
    const int64_t channels = size(65), states = size(17);
    std::vector<int64_t> lengths;
    int64_t tokens = 0;
    for (int64_t sequences = between(1, 3); sequences > 0; --sequences) {
      lengths.push_back(between(1, 70));
      tokens += lengths.back();
    }
    tokens *= between(0, 2);
    floats("u", {tokens, channels});
    floats("projected", {tokens, channels + 2 * states});
    rates({channels, states});
    weights("skip", {channels});
    weights("bias", {channels});
    weights("gamma", {channels, size(5)});
    list("lengths", lengths);
  }

  // At most 0, or NaN; sometimes as they come.
  void rates(std::vector<int64_t> dims) {
    weights("rate", std::move(dims));
    if (one_in(8)) {
      case_.valid = false;
      return;
    }
    std::vector<char>& data = case_.inputs.back().data;
    for (size_t at = 0; at < data.size(); at += sizeof(float)) {
      float x;
      std::memcpy(&x, &data[at], sizeof x);
      x = std::isinf(x) ? -1.0f : -std::abs(x);
      std::memcpy(&data[at], &x, sizeof x);
    }
  }

  void int8_linear() {
    case_.op = one_in(2) ? "Int8LinearGelu" : "Int8Linear";
    const auto [inputs, outputs] = linear();
    parameters("", kInt8, inputs, outputs);
  }

  void bf16_linear() {
    case_.op = one_in(2) ? "Bf16LinearGelu" : "Bf16Linear";
    const auto [inputs, outputs] = linear();
    parameters("", kBfloat16, inputs, outputs);
  }

  void int8_norm_linear() {
    reduced_norm_linear(one_in(2) ? "Int8NormLinearGelu" : "Int8NormLinear", kInt8);
  }
  void bf16_norm_linear() {
    reduced_norm_linear(one_in(2) ? "Bf16NormLinearGelu" : "Bf16NormLinear", kBfloat16);
  }
  void reduced_norm_linear(const char* name, ONNXTensorElementDataType type) {
    case_.op = name;
    const auto [inputs, outputs] = linear();
    weights("norm_weight", {inputs});
    weights("norm_bias", {inputs});
    parameters("", type, inputs, outputs);
    epsilon();
  }

  void int8_linear_add() { reduced_linear_add("Int8LinearAdd", kInt8); }
  void bf16_linear_add() { reduced_linear_add("Bf16LinearAdd", kBfloat16); }
  void reduced_linear_add(const char* name, ONNXTensorElementDataType type) {
    case_.op = name;
    const auto [inputs, outputs] = linear();
    floats("residual", {case_.inputs[0].dims[0], outputs});
    parameters("", type, inputs, outputs);
  }

  void int8_mlp() { mlp("Int8Mlp", kInt8); }
  void bf16_mlp() { mlp("Bf16Mlp", kBfloat16); }
  void mlp(const char* name, ONNXTensorElementDataType type) {
    case_.op = name;
    const auto [width, hidden] = linear();
    weights("norm_weight", {width});
    weights("norm_bias", {width});
    parameters("1", type, width, hidden);
    parameters("2", type, hidden, width);
    epsilon();
  }

  // Of a layer in reduced precision, their names ending in `suffix`.
  void parameters(const std::string& suffix, ONNXTensorElementDataType type, int64_t inputs,
                  int64_t outputs) {
    any_bits("weight" + suffix, type, {outputs, inputs});
    if (type == kInt8) weights("scale" + suffix, {outputs});
    weights("bias" + suffix, {outputs});
  }

  // The input of a linear layer; returns inputs and outputs.
  std::pair<int64_t, int64_t> linear() {
    const int64_t inputs = one_in(8) ? between(500, 1100) : size(65), outputs = size(65);
    floats("x", {between(0, inputs > 100 ? 20 : 250), inputs});
    return {inputs, outputs};
  }

  // A weight of any bits.
  void any_bits(const std::string& name, ONNXTensorElementDataType type,
                std::vector<int64_t> dims) {
    Random source = random();
    for (char& byte : add(name, type, std::move(dims), true).data) {
      byte = static_cast<char>(source.next());
    }
  }

  void canny_maps() {
    case_.op = "CannyMaps";
    const int64_t height = between(0, 80);
    floats("image", {height, size(65), 3});
    floats("mean", {3});
    floats("std", {3});
    floats("blur_row", {5});
    floats("blur_column", {5});
  }

  void edge_stem() {
    case_.op = "EdgeStem";
    const int64_t planes = between(1, 6), channels = size(17), height = between(0, 70);
    floats("maps", {planes, height, size(65)});
    weights("weight", {channels, planes, 3, 3});
    weights("bias", {channels});
  }

  void edge_block() {
    case_.op = "EdgeBlock";
    const int64_t channels = one_in(2) ? size(65) : int64_t{1} << between(0, 4);
    const int64_t height = between(0, channels > 16 ? 9 : 40);
    floats("x", {height, size(channels > 16 ? 17 : 49), channels});
    for (const std::string half : {"1", "2"}) {
      weights("norm" + half + "_weight", {channels});
      weights("norm" + half + "_bias", {channels});
      weights("conv" + half + "_weight", {channels, channels, 3, 3});
      weights("conv" + half + "_bias", {channels});
    }
    epsilon();
  }

  void bf16_edge_block() {
    edge_block();
    case_.op = "Bf16EdgeBlock";
  }

  void edge_downsample() {
    case_.op = "EdgeDownsample";
    const int64_t in = size(33), height = between(0, 30);
    const int64_t out = one_in(2) ? size(49) : int64_t{1} << between(0, 6);
    floats("x", {height, size(33), in});
    weights("weight", {out, in, 3, 3});
    weights("bias", {out});
  }

  void edge_projection() {
    case_.op = "EdgeProjection";
    case_.outputs = 3;
    const int64_t in = size(33), middle = size(17), pixels = between(1, 4), grid = between(0, 9);
    const int64_t out = one_in(2) ? size(33) : int64_t{1} << between(0, 4);
    floats("x", {grid * pixels, grid * pixels, in});
    weights("lateral_weight", {middle, in});
    weights("lateral_bias", {middle});
    weights("conv_weight", {out, middle, 3, 3});
    integer("pixels", pixels);
  }

  void bf16_edge_downsample() {
    edge_downsample();
    case_.op = "Bf16EdgeDownsample";
  }

  void bf16_edge_projection() {
    edge_projection();
    case_.op = "Bf16EdgeProjection";
  }

  void epsilon() { attribute("epsilon", bytes_.PickValueInArray({1e-5f, 0.0f, 1.0f, -1.0f})); }

  // ---- What a contract does not allow.

  // An attribute that is missing or of another type.
  void spoil_attribute() {
    auto& attributes = case_.attributes;
    if (attributes.empty()) return;
    case_.valid = false;
    const auto index = between(0, static_cast<int64_t>(attributes.size()) - 1);
    const auto spoilt = attributes.begin() + static_cast<std::ptrdiff_t>(index);
    switch (between(0, 3)) {
      case 0:
        spoilt->value = int64_t{1};
        break;
      case 1:
        spoilt->value = 1.0f;
        break;
      case 2:
        spoilt->value = "1";
        break;
      default:
        attributes.erase(spoilt);
    }
  }

  // A tensor of another shape or type. Its elements stay, as far as there are so many.
  void spoil_shape() {
    case_.valid = false;
    auto& inputs = case_.inputs;
    const auto index = static_cast<size_t>(between(0, static_cast<int64_t>(inputs.size()) - 1));
    Tensor& tensor = inputs[index];
    std::vector<int64_t>& dims = tensor.dims;
    enum { kResize, kEmpty, kSwap, kDrop, kAppend, kType, kKinds };
    const int64_t kind = between(0, kKinds - 1);
    if (kind == kType) tensor.type = bytes_.PickValueInArray({kDouble, kBool, kFloat, kInt, kByte});
    if (kind == kAppend) dims.push_back(between(0, 2));
    if (kind < kAppend && !dims.empty()) {
      const auto axis = static_cast<size_t>(between(0, static_cast<int64_t>(dims.size()) - 1));
      const auto other = static_cast<size_t>(between(0, static_cast<int64_t>(dims.size()) - 1));
      if (kind == kResize) dims[axis] = std::max<int64_t>(0, dims[axis] + between(-2, 2));
      if (kind == kSwap) std::swap(dims[axis], dims[other]);
      if (kind == kDrop) dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis));
      if (kind == kEmpty) {  // no elements, but a size that overflows what it is multiplied by
        dims[other] = bytes_.PickValueInArray({int64_t{1}, int64_t{1} << 20,
                                               int64_t{std::numeric_limits<int32_t>::max()},
                                               int64_t{1} << 32, int64_t{1} << 40});
        dims[axis] = 0;
      }
    }
    tensor.data.resize(tensor.elements() * element_size(tensor.type));
  }

  FuzzedDataProvider bytes_;
  Case case_;
};

}  // namespace

size_t Tensor::elements() const {
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
  return static_cast<size_t>(
      std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>()));
}

std::string Tensor::text() const {
  std::string result = name + " of type " + std::to_string(type) + " [";
  for (size_t i = 0; i < dims.size(); ++i) result += (i > 0 ? ", " : "") + std::to_string(dims[i]);
  return result + "]";
}

std::string Case::text() const {
  std::string result = op + (valid ? ", valid" : ", perhaps invalid");
  for (const Attribute& a : attributes) {
    const std::string value = std::visit(
        [](const auto& v) -> std::string {
          if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>) {
            return v;
          } else if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::vector<int64_t>>) {
            std::string list;
            for (const int64_t i : v) list += std::to_string(i) + " ";
            return list;
          } else {
            return std::to_string(v);
          }
        },
        a.value);
    result += "\n  " + a.name + " = " + value;
  }
  for (const Tensor& tensor : inputs) result += "\n  " + tensor.text();
  return result;
}

std::vector<std::string> names(Operators which) {
  std::vector<std::string> names;
  for (const Decoder::Draw& draw : Decoder::draws_of(which)) names.emplace_back(draw.op);
  return names;
}

Case decode(const uint8_t* data, size_t size, Operators which) {
  return Decoder(data, size).decode(which);
}

}  // namespace i2f::fuzz
