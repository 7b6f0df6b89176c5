#include "fuzz/sessions.h"

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace i2f::fuzz {
namespace {

// ---- Memory: of onnxruntime's sessions, and what the operators take by operator new.

std::atomic<unsigned char> fill_byte;
std::atomic<int64_t> taken, given_back;  // blocks

void* take(size_t size) {
  void* block = nullptr;
  if (posix_memalign(&block, 64, size) != 0) return nullptr;
  ++taken;
  return std::memset(block, fill_byte, size);
}

void give_back(void* block) {
  given_back += block != nullptr ? 1 : 0;
  std::free(block);
}

int64_t live() { return taken - given_back; }

// ---- onnxruntime.

const OrtApi* api;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

struct Release {
  void operator()(OrtSession* p) const { api->ReleaseSession(p); }
  void operator()(OrtValue* p) const { api->ReleaseValue(p); }
  void operator()(OrtTensorTypeAndShapeInfo* p) const { api->ReleaseTensorTypeAndShapeInfo(p); }
  void operator()(char* p) const { give_back(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Release>;

class Runtime {
 public:
  Runtime() {
    const char* path = std::getenv("ONNXRUNTIME_LIBRARY");
    void* library = dlopen(path == nullptr ? "libonnxruntime.so" : path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    using GetBase = const OrtApiBase*();
    const OrtApiBase* base = reinterpret_cast<GetBase*>(dlsym(library, "OrtGetApiBase"))();
    api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) throw std::runtime_error("onnxruntime is older than the headers");

    OrtThreadingOptions* threading = nullptr;
    check(api->CreateThreadingOptions(&threading));
    check(api->SetGlobalIntraOpNumThreads(threading, 2));
    check(api->SetGlobalSpinControl(threading, 0));
    check(api->CreateEnvWithGlobalThreadPools(ORT_LOGGING_LEVEL_FATAL, "fuzz", threading, &env_));
    api->ReleaseThreadingOptions(threading);
    check(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &cpu_));
    allocator_.version = ORT_API_VERSION;
    allocator_.Alloc = [](OrtAllocator*, size_t size) { return take(size); };
    allocator_.Reserve = allocator_.Alloc;
    allocator_.Free = [](OrtAllocator*, void* block) { give_back(block); };
    allocator_.Info = [](const OrtAllocator* self) -> const OrtMemoryInfo* {
      return static_cast<const Allocator*>(self)->info;
    };
    allocator_.info = cpu_;
    check(api->RegisterAllocator(env_, &allocator_));
    for (const bool threads : {false, true}) options_[threads] = options(*base, threads);
  }

  Result run(const Case& c, Way way) {
    fill_byte = way.fill;
    Result result;
    const std::string model = one_node_model(c, way.constants);
    try {
      if (way.constants) {
        result = run(*create(model, way.threads), c, true);
      } else {
        result = run(*cached(model, way.threads), c, false);
      }
    } catch (const Finding&) {
      throw;
    } catch (const std::runtime_error& error) {
      result.error = error.what();
    }
    return result;
  }

 private:
  struct Allocator : OrtAllocator {
    const OrtMemoryInfo* info;
  };

  OrtSessionOptions* options(const OrtApiBase& base, bool threads) const {
    OrtSessionOptions* options = nullptr;
    check(api->CreateSessionOptions(&options));
    check(api->SetSessionGraphOptimizationLevel(options, ORT_DISABLE_ALL));
    check(api->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL));
    check(api->DisableMemPattern(options));  // each tensor is a block of its own
    check(api->DisableCpuMemArena(options));
    check(api->AddSessionConfigEntry(options, "session.use_env_allocators", "1"));
    check(threads ? api->DisablePerSessionThreads(options) : api->SetIntraOpNumThreads(options, 1));
    check(RegisterCustomOps(options, &base));
    return options;
  }

  Owned<OrtSession> create(const std::string& model, bool threads) const {
    OrtSession* session = nullptr;
    const OrtSessionOptions* options = options_[threads];
    check(api->CreateSessionFromArray(env_, model.data(), model.size(), options, &session));
    return Owned<OrtSession>(session);
  }

  // Sessions whose weights are fed differ in attributes and types alone, so most are met again.
  OrtSession* cached(const std::string& model, bool threads) {
    auto& sessions = sessions_[threads];
    if (sessions.size() > 400) sessions.clear();
    Owned<OrtSession>& session = sessions[model];
    if (session == nullptr) session = create(model, threads);
    return session.get();
  }

  Result run(OrtSession& session, const Case& c, bool constants) const {
    const int64_t live_before = live(), taken_before = taken;
    std::vector<const char*> names;
    std::vector<Owned<char>> blocks;
    std::vector<Owned<OrtValue>> values;
    std::vector<const OrtValue*> inputs;
    for (const Tensor& t : c.inputs) {
      if (constants && t.is_weight) continue;
      names.push_back(t.name.c_str());
      blocks.emplace_back(static_cast<char*>(take(t.data.size())));
      std::copy(t.data.begin(), t.data.end(), blocks.back().get());
      OrtValue* value = nullptr;
      check(api->CreateTensorWithDataAsOrtValue(cpu_, blocks.back().get(), t.data.size(),
                                                t.dims.data(), t.dims.size(), t.type, &value));
      values.emplace_back(value);
      inputs.push_back(value);
    }
    const int64_t taken_for_inputs = taken - taken_before;

    Result result;
    const char* output_name = "out";
    OrtValue* output = nullptr;
    check(api->Run(&session, nullptr, names.data(), inputs.data(), inputs.size(), &output_name, 1,
                   &output));
    copy(Owned<OrtValue>(output).get(), result);

    size_t at = 0;
    for (const Tensor& t : c.inputs) {
      if (constants && t.is_weight) continue;
      if (!std::equal(t.data.begin(), t.data.end(), blocks[at++].get())) {
        throw Finding("the input " + t.name + " was written to");
      }
    }
    blocks.clear();
    if (!result.data.empty() && taken == taken_before + taken_for_inputs) {
      throw Finding("onnxruntime did not use our memory");
    }
    if (live() != live_before) throw Finding("memory was left behind");
    return result;
  }

  static void copy(OrtValue* value, Result& result) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    const Owned<OrtTensorTypeAndShapeInfo> owner(info);
    size_t rank = 0, count = 0;
    ONNXTensorElementDataType type{};
    void* data = nullptr;
    check(api->GetDimensionsCount(info, &rank));
    result.dims.resize(rank);
    check(api->GetDimensions(info, result.dims.data(), rank));
    check(api->GetTensorShapeElementCount(info, &count));
    check(api->GetTensorElementType(info, &type));
    check(api->GetTensorMutableData(value, &data));
    const auto* bytes = static_cast<const char*>(data);
    result.data.assign(bytes,
                       bytes + count * (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8 : 4));
  }

  OrtEnv* env_ = nullptr;
  OrtMemoryInfo* cpu_ = nullptr;
  Allocator allocator_{};
  OrtSessionOptions* options_[2];                         // without and with threads
  std::map<std::string, Owned<OrtSession>> sessions_[2];  // by model
};

Runtime& runtime() {
  static Runtime runtime;
  return runtime;
}

}  // namespace

void start() { runtime(); }

Result run(const Case& c, Way way) { return runtime().run(c, way); }

}  // namespace i2f::fuzz

// The operators' own blocks (Buffer) are filled and counted, too.
void* operator new(size_t size, std::align_val_t) {
  void* block = i2f::fuzz::take(size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void operator delete(void* block, std::align_val_t) noexcept { i2f::fuzz::give_back(block); }
