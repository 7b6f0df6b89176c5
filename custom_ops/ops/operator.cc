#include "ops/operator.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace i2f {
namespace {

// RotaryTable a failed onnxruntime call into an exception that carries its message.
void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw std::runtime_error(message);
}

const char* type_name(ONNXTensorElementDataType type) {
  static constexpr const char* kNames[] = {"undefined",  "float32", "uint8",  "int8",   "uint16",
                                           "int16",      "int32",   "int64",  "string", "bool",
                                           "float16",    "float64", "uint32", "uint64", "complex64",
                                           "complex128", "bfloat16"};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "another type";
}

std::string text(Shape shape) {
  std::string result = "[";
  for (const Dim& dim : shape) {
    if (result.size() > 1) result += ", ";
    if (dim.name != nullptr) result += dim.name;
    if (dim.name != nullptr && dim.value != Dim::kAny) result += "=";
    if (dim.value != Dim::kAny) result += std::to_string(dim.value);
  }
  return result + "]";
}

std::string text(const std::vector<int64_t>& dims) {
  std::string result = "[";
  for (int64_t dim : dims) result += (result.size() > 1 ? ", " : "") + std::to_string(dim);
  return result + "]";
}

bool fits(const std::vector<int64_t>& dims, Shape shape) {
  return dims.size() == shape.size() &&
         std::equal(dims.begin(), dims.end(), shape.begin(), [](int64_t dim, const Dim& expected) {
           return dim >= 0 && dim <= kMaxDim &&
                  (expected.value == Dim::kAny || expected.value == dim);
         });
}

struct TensorInfo {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
};

TensorInfo tensor_info(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)>
      owner(info, api.ReleaseTensorTypeAndShapeInfo);
  TensorInfo result{};
  size_t rank = 0;
  check(api, api.GetTensorElementType(info, &result.type));
  check(api, api.GetDimensionsCount(info, &rank));
  result.dims.resize(rank);
  check(api, api.GetDimensions(info, result.dims.data(), rank));
  return result;
}

// Whether an attribute call succeeded. A missing attribute and one of another type both fail; the
// kind is asked for with the getters of the other kinds, so that a misspelt type is no silent
// default.
bool succeeded(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

bool has_attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  int64_t integer = 0;
  float number = 0;
  size_t size = 0;
  return succeeded(api, api.KernelInfoGetAttribute_int64(info, name, &integer)) ||
         succeeded(api, api.KernelInfoGetAttribute_float(info, name, &number)) ||
         succeeded(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &size)) ||
         succeeded(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
         succeeded(api, api.KernelInfoGetAttributeArray_float(info, name, nullptr, &size));
}

[[noreturn]] void wrong_attribute(const char* name, const char* kind) {
  throw OperatorError("expected attribute " + std::string(name) + " to be " + kind +
                      ", got another type");
}

}  // namespace

size_t checked_product(size_t a, size_t b) {
  size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > std::numeric_limits<size_t>::max() / 4) {
    throw OperatorError("expected a size that fits into memory, got " + std::to_string(a) + " * " +
                        std::to_string(b));
  }
  return product;
}

bool Inputs::known(size_t first, size_t last) const {
  for (size_t i = first; i < last; ++i) {
    if (value(i) == nullptr) return false;
  }
  return true;
}

const void* Inputs::checked(size_t index, const char* name, ONNXTensorElementDataType type,
                            Shape shape, std::vector<int64_t>* dims) const {
  const auto fail = [&](const std::string& got) {
    throw OperatorError(std::string("expected ") + name + " " + type_name(type) + " " +
                        text(shape) + ", got " + got);
  };
  const OrtValue* input = value(index);
  if (input == nullptr) fail("nothing");
  int is_tensor = 0;
  check(api_, api_.IsTensor(input, &is_tensor));
  if (is_tensor == 0) fail("no tensor");
  TensorInfo info = tensor_info(api_, input);
  if (info.type != type || !fits(info.dims, shape)) {
    fail(std::string(type_name(info.type)) + " " + text(info.dims));
  }
  // The one getter is not const; the data is only read.
  void* data = nullptr;
  check(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(input), &data));
  *dims = std::move(info.dims);
  return data;
}

int64_t KernelInfo::attribute(const char* name, int64_t fallback) const {
  int64_t result = fallback;
  if (!succeeded(api_, api_.KernelInfoGetAttribute_int64(info_, name, &result))) {
    if (has_attribute(api_, info_, name)) wrong_attribute(name, "an integer");
    return fallback;
  }
  return result;
}

float KernelInfo::attribute(const char* name, float fallback) const {
  float result = fallback;
  if (!succeeded(api_, api_.KernelInfoGetAttribute_float(info_, name, &result))) {
    if (has_attribute(api_, info_, name)) wrong_attribute(name, "a number");
    return fallback;
  }
  return result;
}

std::vector<int64_t> KernelInfo::attribute(const char* name,
                                           const std::vector<int64_t>& fallback) const {
  size_t count = 0;  // stays 0 for a single integer, too
  if (!succeeded(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &count)) ||
      count == 0) {
    if (has_attribute(api_, info_, name)) wrong_attribute(name, "a list of integers");
    return fallback;
  }
  std::vector<int64_t> result(count);
  check(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, result.data(), &count));
  return result;
}

void KernelInfo::refuse_attributes(std::initializer_list<const char*> names) const {
  for (const char* name : names) {
    expect(!has_attribute(api_, info_, name), "no attribute " + std::string(name),
           "one: the graph is of another version, export it again");
  }
}

size_t KernelInfo::input_count() const {
  size_t count = 0;
  check(api_, api_.KernelInfo_GetInputCount(info_, &count));
  return count;
}

const OrtValue* KernelInfo::value(size_t index) const {
  int is_constant = 0;
  const OrtValue* result = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &result));
  return is_constant != 0 ? result : nullptr;
}

const OrtValue* KernelContext::value(size_t index) const {
  const OrtValue* result = nullptr;
  check(api_, api_.KernelContext_GetInput(context_, index, &result));
  return result;
}

OrtValue* KernelContext::output_value(size_t index, std::initializer_list<int64_t> dims) {
  OrtValue* result = nullptr;
  check(api_, api_.KernelContext_GetOutput(context_, index, dims.begin(), dims.size(), &result));
  if (result == nullptr)
    throw OperatorError("expected output " + std::to_string(index) + ", got none");
  return result;
}

void* KernelContext::allocate(size_t index, std::initializer_list<int64_t> dims) {
  size_t bytes = 8;  // no element is larger
  for (int64_t dim : dims) bytes = checked_product(bytes, static_cast<size_t>(dim));
  void* data = nullptr;
  check(api_, api_.GetTensorMutableData(output_value(index, dims), &data));
  return data;
}

void KernelContext::output_texts(size_t index, const std::vector<const char*>& texts) {
  OrtValue* output = output_value(index, {static_cast<int64_t>(texts.size())});
  check(api_, api_.FillStringTensor(output, texts.data(), texts.size()));
}

KernelContext::~KernelContext() {
  for (void* block : scratch_) allocator_->Free(allocator_, block);
  if (allocator_ != nullptr) api_.ReleaseAllocator(allocator_);
}

void* KernelContext::take(size_t bytes) {
  if (allocator_ == nullptr) {
    OrtMemoryInfo* cpu = nullptr;
    check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &cpu));
    OrtStatus* status = api_.KernelContext_GetAllocator(context_, cpu, &allocator_);
    api_.ReleaseMemoryInfo(cpu);
    check(api_, status);
  }
  scratch_.push_back(
      nullptr);  // first, so that no block is lost when there is no memory for the list
  void* block = allocator_->Alloc(allocator_, bytes == 0 ? 1 : bytes);
  if (block == nullptr) {
    scratch_.pop_back();
    throw std::bad_alloc();
  }
  return scratch_.back() = block;
}

Memory KernelContext::memory() {
  return {this, [](void* self, size_t count, size_t size) {
            return static_cast<KernelContext*>(self)->take(checked_product(count, size));
          }};
}

Parallel KernelContext::parallel() const {
  return {const_cast<KernelContext*>(this),
          [](void* self, size_t count, void (*task)(void*, size_t), void* user) {
            const auto* context = static_cast<const KernelContext*>(self);
            check(context->api_,
                  context->api_.KernelContext_ParallelFor(context->context_, task, count, 0, user));
          }};
}

}  // namespace i2f
