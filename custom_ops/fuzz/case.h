// One call of one operator, decoded from the fuzzer's bytes.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace i2f::fuzz {

struct Tensor {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  std::vector<char> data;
  bool is_weight;  // whether a model may hold it as a constant

  size_t elements() const;
  std::string text() const;  // "name float32 [2, 3]"
};

struct Attribute {
  std::string name;
  std::variant<int64_t, float, std::string, std::vector<int64_t>> value;
};

struct Case {
  std::string op;
  std::vector<Attribute> attributes;
  std::vector<Tensor> inputs;
  int outputs = 1;         // the first is compared
  bool valid = true;       // whether OPERATORS.md promises a result; otherwise an error is as good
  bool constants = false;  // whether to run it with constant weights, too: a new session each time

  std::string text() const;
};

// Which operators to draw from.
enum class Operators { kAll, kReducedPrecision };
std::vector<std::string> names(Operators which);

// Any bytes make a case, most of them a valid one or nearly so: sizes, attributes and values are
// drawn within an operator's contract, then a few of them may be spoilt.
Case decode(const uint8_t* data, size_t size, Operators which);

// The model of one node that runs `op`, as ONNX bytes. No shapes are declared: the operator is the
// one that checks them. Weights are inputs, or with `constants` part of the model.
std::string one_node_model(const Case& c, bool constants);

}  // namespace i2f::fuzz
