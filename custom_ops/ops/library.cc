// The library's one door: registers every operator with an onnxruntime session.

#include <algorithm>
#include <charconv>
#include <cstring>
#include <list>
#include <mutex>

#include "ops/operator.h"

namespace i2f {

std::vector<OperatorSpec>& Registration::all() {
  static auto& specs = *new std::vector<OperatorSpec>();  // filled when the library is loaded
  return specs;
}

namespace {

constexpr const char* kDomain = "inter2former";
// What nodes of version 1 of the domain said by attributes; version 2 has an operator for each
// case.
constexpr auto kFormerAttributes = {"activation", "patch", "quantizer", "rule"};
constexpr uint32_t kOldestApi = 17;  // KernelContext_ParallelFor came with 1.17

OrtStatus* failure(const OrtApi& api, const char* name, const char* message) noexcept {
  try {
    return api.CreateStatus(ORT_FAIL, ("[" + std::string(name) + "] " + message).c_str());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "out of memory");
  }
}

// Runs `body`; what it throws becomes a status that begins with [name].
template <class Body>
OrtStatus* guarded(const OrtApi& api, const char* name, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return failure(api, name, "out of memory");
  } catch (const std::exception& error) {
    return failure(api, name, error.what());
  } catch (...) {
    return failure(api, name, "unknown error");
  }
}

// What onnxruntime holds of one node.
struct Node {
  const OrtApi& api;
  const char* name;
  std::unique_ptr<Kernel> kernel;
};

// One operator as onnxruntime sees it.
struct CustomOp : OrtCustomOp {
  CustomOp(OperatorSpec operator_spec, uint32_t api_version)
      : OrtCustomOp{}, spec(std::move(operator_spec)) {
    version = api_version;
    GetName = [](const OrtCustomOp* op) { return self(op).name; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp* op) {
      return self(op).inputs + (self(op).variadic ? 1 : 0);
    };
    GetInputType = [](const OrtCustomOp*, size_t) {
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    };
    GetInputCharacteristic = [](const OrtCustomOp* op, size_t index) {
      if (index >= self(op).inputs) return INPUT_OUTPUT_VARIADIC;
      return INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).outputs.size(); };
    GetOutputType = [](const OrtCustomOp* op, size_t index) { return self(op).outputs[index]; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return std::numeric_limits<int>::max(); };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                        void** node) -> OrtStatus* {
      const OperatorSpec& spec = self(op);
      return guarded(*api, spec.name, [&] {
        const KernelInfo known(*api, info);
        known.refuse_attributes(kFormerAttributes);
        *node = new Node{*api, spec.name, spec.create(known)};
      });
    };
    KernelComputeV2 = [](void* opaque, OrtKernelContext* context) -> OrtStatus* {
      const Node& node = *static_cast<const Node*>(opaque);
      return guarded(node.api, node.name, [&] {
        KernelContext run(node.api, context);
        node.kernel->compute(run);
      });
    };
    KernelDestroy = [](void* node) { delete static_cast<Node*>(node); };
    GetMayInplace = spec.in_place;
    ReleaseMayInplace = [](int*, int*) {};  // they are static
  }

  OperatorSpec spec;

 private:
  static const OperatorSpec& self(const OrtCustomOp* op) {
    return static_cast<const CustomOp*>(op)->spec;
  }
};

// The operators of one onnxruntime; lives as long as the process, since sessions point into it.
struct Domain {
  Domain(const OrtApi& onnxruntime, uint32_t version) : api(onnxruntime) {
    for (const OperatorSpec& spec : Registration::all()) operators.emplace_back(spec, version);
  }
  const OrtApi& api;
  std::list<CustomOp> operators;
  OrtCustomOpDomain* domain = nullptr;
};

OrtStatus* add_to(OrtSessionOptions* options, const OrtApi& api, uint32_t version) {
  static std::mutex mutex;
  static auto& domains = *new std::list<Domain>();
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Domain& known : domains) {
    if (&known.api == &api) return api.AddCustomOpDomain(options, known.domain);
  }
  Domain& added = domains.emplace_back(api, version);
  OrtStatus* status = api.CreateCustomOpDomain(kDomain, &added.domain);
  for (CustomOp& op : added.operators) {
    if (status == nullptr) status = api.CustomOpDomain_Add(added.domain, &op);
  }
  if (status != nullptr) {
    if (added.domain != nullptr) api.ReleaseCustomOpDomain(added.domain);
    domains.pop_back();
    return status;
  }
  return api.AddCustomOpDomain(options, added.domain);
}

}  // namespace
}  // namespace i2f

#ifdef _WIN32
#define I2F_EXPORT __declspec(dllexport)
#else
#define I2F_EXPORT __attribute__((visibility("default")))
#endif

extern "C" I2F_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                const OrtApiBase* base) {
  // "1.31.1" speaks API versions up to 31. Asking for more would print an error to the console.
  const char* release = base->GetVersionString();
  // No strtol: newer glibcs give it another name, which older ones lack.
  long speaks = ORT_API_VERSION;
  if (std::strncmp(release, "1.", 2) == 0) {
    speaks = 0;
    std::from_chars(release + 2, release + std::strlen(release), speaks);
  }
  const auto version = static_cast<uint32_t>(std::min(speaks, long{ORT_API_VERSION}));
  const OrtApi* api = version < i2f::kOldestApi ? nullptr : base->GetApi(version);
  if (api == nullptr) {
    const std::string problem = "expected onnxruntime 1.17 or newer, got " + std::string(release);
    return i2f::failure(*base->GetApi(1), i2f::kDomain, problem.c_str());
  }
  OrtStatus* status = nullptr;
  OrtStatus* thrown = i2f::guarded(*api, i2f::kDomain, [&] {
    i2f::choice(i2f::Product::kFloat32);
    status = i2f::add_to(options, *api, version);
  });
  return thrown != nullptr ? thrown : status;
}
