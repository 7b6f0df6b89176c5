// What every operator of the library shares: its view of tensors, attributes and threads.
//
// An operator has three layers. The kernel knows raw pointers, the operator checks what it is
// given, allocates and makes one call, onnxruntime sees a table of C functions that no exception
// leaves.
//
// To add an operator `MyThing`:
//   1. kernels/my_thing.h   the contract: a comment on layouts, ranges and what may be touched, and
//                           the function type, `using MyThingKernel = void(const float* x, ...);`
//   2. kernels/my_thing.cc  the code, `void my_thing(const float* x, ...)` in namespace
//                           i2f::I2F_TIER; compiled once a tier (kernels/simd.h)
//   3. ops/my_thing.cc      checks, allocation and one call: I2F_KERNEL(MyThingKernel, my_thing), a
//                           class `MyThing : public Kernel` and its Registration (ops/token_box.cc
//                           is the shortest example)
// CMake takes every source of these two folders. CONTRIBUTING.md says what an operator is besides.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/memory.h"
#include "kernels/parallel.h"
#include "ops/dispatch.h"

namespace i2f {

// What an operator throws on a bad input or attribute: "expected <what>, got <what>". The user
// reads "[OpName] expected <what>, got <what>".
class OperatorError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One expected dimension: any value under a name, or a value, with or without a name.
struct Dim {
  static constexpr int64_t kAny = -1;
  Dim(const char* name, int64_t value = kAny)
      : name(name), value(value) {}                    // NOLINT(runtime/explicit)
  Dim(int64_t value) : name(nullptr), value(value) {}  // NOLINT(runtime/explicit)
  const char* name;
  int64_t value;
};
using Shape = std::initializer_list<Dim>;

// No dimension may be larger: two of them multiply without overflow, and their product with a third
// is checked.
constexpr int64_t kMaxDim = std::numeric_limits<int32_t>::max();

// a * b for sizes in elements or bytes; throws OperatorError on overflow.
size_t checked_product(size_t a, size_t b);

// A dense row-major input. Borrowed: valid during the call (constant inputs: while the kernel
// lives).
template <class T>
struct Tensor {
  const T* data;
  std::vector<int64_t> dims;
  int64_t dim(size_t axis) const { return dims[axis]; }
};

struct Bfloat16 {
  uint16_t bits;
};

// Element types an operator reads or writes: float, uint8_t, int64_t, int8_t, Bfloat16.
template <class T>
constexpr ONNXTensorElementDataType kElementType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
template <>
inline constexpr ONNXTensorElementDataType kElementType<float> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
template <>
inline constexpr ONNXTensorElementDataType kElementType<uint8_t> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
template <>
inline constexpr ONNXTensorElementDataType kElementType<int64_t> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
template <>
inline constexpr ONNXTensorElementDataType kElementType<int8_t> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
template <>
inline constexpr ONNXTensorElementDataType kElementType<Bfloat16> =
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

// The inputs that are known: all of them when a kernel runs, the constant ones when it is created.
class Inputs {
 public:
  // Checks type and shape; `name` is the input's name in OPERATORS.md. Throws OperatorError.
  template <class T>
  Tensor<T> get(size_t index, const char* name, Shape shape) const {
    Tensor<T> tensor{};
    tensor.data = static_cast<const T*>(checked(index, name, kElementType<T>, shape, &tensor.dims));
    return tensor;
  }

  // Whether all inputs of [first, last) are known.
  bool known(size_t first, size_t last) const;

 protected:
  explicit Inputs(const OrtApi& api) : api_(api) {}
  ~Inputs() = default;
  virtual const OrtValue* value(size_t index) const = 0;  // nullptr when it is not known
  const OrtApi& api_;

 private:
  const void* checked(size_t index, const char* name, ONNXTensorElementDataType type, Shape shape,
                      std::vector<int64_t>* dims) const;
};

// What is known when a node's kernel is created: attributes and constant inputs.
class KernelInfo final : public Inputs {
 public:
  KernelInfo(const OrtApi& api, const OrtKernelInfo* info) : Inputs(api), info_(info) {}

  // A missing attribute has its fallback; one of another type is an OperatorError.
  int64_t attribute(const char* name, int64_t fallback) const;
  float attribute(const char* name, float fallback) const;
  std::vector<int64_t> attribute(const char* name, const std::vector<int64_t>& fallback) const;

  // Throws OperatorError if the node has one of these attributes.
  void refuse_attributes(std::initializer_list<const char*> names) const;

  size_t input_count() const;

 protected:
  const OrtValue* value(size_t index) const override;

 private:
  const OrtKernelInfo* info_;
};

// Uninitialised memory aligned to a cache line, for what outlives a run: packed weights.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : memory_(allocate(checked_product(count, sizeof(T)))) {}
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  static void* allocate(size_t bytes) {
    return ::operator new(bytes == 0 ? 1 : bytes, std::align_val_t{64});
  }
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<void, Free> memory_;
};

// One run of a node: inputs, outputs, memory and threads.
class KernelContext final : public Inputs {
 public:
  KernelContext(const OrtApi& api, OrtKernelContext* context) : Inputs(api), context_(context) {}
  KernelContext(const KernelContext&) = delete;
  KernelContext& operator=(const KernelContext&) = delete;
  ~KernelContext();

  // Allocates output `index`; the caller writes every element.
  template <class T>
  T* output(size_t index, std::initializer_list<int64_t> dims) {
    return static_cast<T*>(allocate(index, dims));
  }
  void output_texts(size_t index, const std::vector<const char*>& texts);  // strings [n]

  // Uninitialised memory for this run, from the session's arena: it stays warm between runs.
  template <class T>
  T* scratch(size_t count) {
    return static_cast<T*>(take(checked_product(count, sizeof(T))));
  }
  Memory memory();  // the same, for kernels that know only later how much they need

  // The session's threads.
  Parallel parallel() const;

 protected:
  const OrtValue* value(size_t index) const override;

 private:
  OrtValue* output_value(size_t index, std::initializer_list<int64_t> dims);
  void* allocate(size_t index, std::initializer_list<int64_t> dims);
  void* take(size_t bytes);
  OrtKernelContext* context_;
  OrtAllocator* allocator_ = nullptr;  // the session's, asked for when scratch is first needed
  std::vector<void*> scratch_;
};

// One node of a session. `compute` may run on several threads at once: everything it changes is its
// own.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(KernelContext& context) const = 0;
};

// How onnxruntime sees an operator. Inputs are of any type there: the operator's own check has the
// better message.
struct OperatorSpec {
  const char* name;
  size_t inputs;  // named inputs
  bool variadic;  // whether more may follow
  std::vector<ONNXTensorElementDataType> outputs;
  std::unique_ptr<Kernel> (*create)(const KernelInfo& info);
  // Which output may take the memory of which input that nobody needs any more (output_in_input).
  size_t (*in_place)(int** inputs, int** outputs) = nullptr;
};

// OperatorSpec::in_place of an operator whose output 0 may lie where input `kInput` lies. Ignored
// by onnxruntime before 1.18.
template <int kInput>
size_t output_in_input(int** inputs, int** outputs) {
  static int input = kInput, output = 0;
  *inputs = &input;
  *outputs = &output;
  return 1;
}

// Every operator of the library: a constant of this type in an operator's source adds it.
struct Registration {
  explicit Registration(OperatorSpec spec) { all().push_back(std::move(spec)); }
  static std::vector<OperatorSpec>& all();
};

template <class K>
std::unique_ptr<Kernel> create_kernel(const KernelInfo& info) {
  return std::make_unique<K>(info);
}

// Throws OperatorError("expected <expected>, got <got>") unless `ok`.
inline void expect(bool ok, const std::string& expected, const std::string& got) {
  if (!ok) throw OperatorError("expected " + expected + ", got " + got);
}

}  // namespace i2f
