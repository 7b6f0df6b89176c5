#include "fuzz/case.h"

namespace i2f::fuzz {
namespace {

// A protocol-buffers message, written field by field.
class Message {
 public:
  Message& number(int field, uint64_t value) {
    varint(static_cast<uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  Message& text(int field, const std::string& value) {
    varint(static_cast<uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& real(int field, float value) {
    varint(static_cast<uint64_t>(field) << 3 | 5);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Message& message(int field, const Message& value) { return text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

// Field numbers are those of onnx.proto; its element types have onnxruntime's numbers.

Message attribute(const Attribute& a) {
  enum { kFloat = 1, kInt = 2, kString = 3, kInts = 7 };
  Message message;
  message.text(1, a.name);
  if (const auto* i = std::get_if<int64_t>(&a.value)) {
    return message.number(3, static_cast<uint64_t>(*i)).number(20, kInt);
  }
  if (const auto* f = std::get_if<float>(&a.value)) return message.real(2, *f).number(20, kFloat);
  if (const auto* list = std::get_if<std::vector<int64_t>>(&a.value)) {
    for (const int64_t i : *list) message.number(8, static_cast<uint64_t>(i));
    return message.number(20, kInts);
  }
  return message.text(4, std::get<std::string>(a.value)).number(20, kString);
}

Message initializer(const Tensor& tensor) {
  Message message;
  for (const int64_t dim : tensor.dims) message.number(1, static_cast<uint64_t>(dim));
  return message.number(2, tensor.type)
      .text(8, tensor.name)
      .text(9, std::string(tensor.data.begin(), tensor.data.end()));
}

Message value_info(const std::string& name, ONNXTensorElementDataType type) {
  return Message().text(1, name).message(2, Message().message(1, Message().number(1, type)));
}

}  // namespace

std::string one_node_model(const Case& c, bool constants) {
  const std::string domain = "inter2former";
  Message node, graph;
  for (const Tensor& tensor : c.inputs) {
    node.text(1, tensor.name);
    if (constants && tensor.is_weight) {
      graph.message(5, initializer(tensor));
    } else {
      graph.message(11, value_info(tensor.name, tensor.type));
    }
  }
  node.text(2, "out");
  for (int i = 1; i < c.outputs; ++i) node.text(2, "out_" + std::to_string(i));
  node.text(4, c.op).text(7, domain);
  for (const Attribute& a : c.attributes) node.message(5, attribute(a));
  graph.message(1, node).text(2, c.op);
  graph.message(12, Message().text(1, "out"));  // its type is the operator's
  return Message()
      .number(1, 10)
      .message(7, graph)
      .message(8, Message().text(1, "").number(2, 20))
      .message(8, Message().text(1, domain).number(2, 2))
      .bytes();
}

}  // namespace i2f::fuzz
