// libcuda_sim: the part of the CUDA driver API (13.0) that a compute library needs, on the emulator. Load it in place of libcuda.so.1.
// Everything runs at once, in the order of the calls: a stream only records while it is captured. A kernel that the checker finds fault
// with makes the call that launched it fail with CUDA_ERROR_LAUNCH_FAILED; cuGetErrorString then says what was found.
#include <cuda.h>
#include <dlfcn.h>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include "async.h"
#include "memory.h"
#include "ptx.h"

using namespace phoenix::simt;

struct CUfunc_st {
  CUmodule module;
  Function* function;
  uint32_t dynamic_max;
};
struct CUmod_st {
  std::shared_ptr<Module> ptx;
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};
struct CUctx_st {};
using Work = std::function<CUresult()>;
struct CUgraph_st {
  std::vector<Work> nodes;  // in the order in which they were captured, which satisfies every dependency
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};
struct Capture {
  CUgraph graph;
  CUstream origin;
  CUstreamCaptureMode mode;
};
struct CUstream_st {
  std::shared_ptr<Capture> capture;
  bool postponed = false;  // its work waits until something waits for it (config().late_streams)
  std::deque<Work> waiting;
  uint64_t submitted = 0;  // that waits or has waited
  bool forked = false;     // joined a capture of another stream and has not been waited for since its last work
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
  bool recorded = false, timed = true;
  CUstream stream = nullptr;     // that recorded it into a capture
  CUstream postponed = nullptr;  // that recorded it, if its work waits, and how much of that was in front of it
  uint64_t in_front = 0;
  std::shared_ptr<Capture> capture;
};

// ---- state, locking, errors

static std::recursive_mutex state_lock;
static CUctx_st primary_context;
static thread_local CUcontext current_context;
static thread_local std::string last_message;
static std::set<CUmodule> modules;
static std::set<CUstream> streams;
static std::set<CUgraphExec> executables;
static std::map<void*, size_t> pinned;
static int open_captures;                         // of any mode
static int global_captures;                       // in the global mode, which forbids unsafe calls to every thread
static thread_local int captures_of_this_thread;  // begun here in the global or thread-local mode, and not ended
constexpr uint32_t kDefaultShared = 48 * 1024;

static CUresult failed(CUresult code, std::string message) {
  last_message = std::move(message);
  return code;
}
template <class Fn>
static CUresult guarded(Fn fn) {
  std::lock_guard<std::recursive_mutex> hold(state_lock);
  try {
    return fn();
  } catch (const std::exception& e) {
    return failed(CUDA_ERROR_LAUNCH_FAILED, e.what());
  }
}
#define API extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI
#define REQUIRE(condition, message) \
  if (!(condition)) return failed(CUDA_ERROR_INVALID_VALUE, message)

static bool is_default(CUstream s) { return s == nullptr || s == CU_STREAM_LEGACY || s == CU_STREAM_PER_THREAD; }
static std::string hex(uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}
// Runs the work of a stream, or records it where the stream is captured.
static CUresult run_or_record(CUstream s, Work work) {
  if (!s->capture) return work();
  s->forked = s->capture->origin != s;
  s->capture->graph->nodes.push_back(std::move(work));
  return CUDA_SUCCESS;
}
// The first so many works that were ever postponed are done.
static CUresult catch_up(CUstream s, uint64_t count) {
  while (s->submitted - s->waiting.size() < count) {
    Work work = std::move(s->waiting.front());
    s->waiting.pop_front();
    if (CUresult r = run_or_record(s, std::move(work))) return r;
  }
  return CUDA_SUCCESS;
}
// Runs the work now, records it, or puts it off.
static CUresult submit(CUstream s, Work work) {
  if (is_default(s)) {
    if (open_captures) return failed(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "work on the default stream while another stream is captured");
    return work();
  }
  if (!streams.count(s)) return failed(CUDA_ERROR_INVALID_HANDLE, "not a stream");
  if (!s->postponed) return run_or_record(s, std::move(work));
  s->submitted++;
  s->waiting.push_back(std::move(work));
  return CUDA_SUCCESS;
}
static void count_capture(CUstreamCaptureMode mode, int change) {
  open_captures += change;
  if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL) global_captures += change;
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED) captures_of_this_thread += change;
}
// Calls that a real driver forbids while a capture is open: in the global mode to all threads, in the thread-local mode to the one that
// began it.
static CUresult unsafe_call(const char* name) {
  return global_captures || captures_of_this_thread
             ? failed(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(name) + " while a stream is captured")
             : CUDA_SUCCESS;
}

struct ErrorText {
  CUresult code;
  const char *name, *text;
};
static const ErrorText error_texts[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX compilation failed"},
    {CUDA_ERROR_FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported by the emulator"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capture has work of another stream that was not joined"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the default stream depend on a capture"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency between a capture and work outside of it"},
    {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation is not legal in this state"},
};
API cuGetErrorString(CUresult code, const char** text) {
  static thread_local std::string kept;
  *text = nullptr;
  for (const ErrorText& e : error_texts) {
    if (e.code != code) continue;
    kept = e.text + (code != CUDA_SUCCESS && !last_message.empty() ? ": " + last_message : std::string());
    *text = kept.c_str();
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}
API cuGetErrorName(CUresult code, const char** name) {
  *name = nullptr;
  for (const ErrorText& e : error_texts)
    if (e.code == code) *name = e.name;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ---- device and context

API cuInit(unsigned) { return CUDA_SUCCESS; }
API cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
API cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}
API cuDeviceGet(CUdevice* device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
API cuDeviceGetName(char* name, int bytes, CUdevice) {
  snprintf(name, size_t(std::max(bytes, 0)), "Phoenix SIMT emulator (compute capability %d.0)", config().major);
  return CUDA_SUCCESS;
}
API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice) {
  memset(uuid, 0, sizeof *uuid);
  return CUDA_SUCCESS;
}
API cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = device_total_bytes();
  return CUDA_SUCCESS;
}
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  static const std::map<int, int> values{{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, config().major},
                                         {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
                                         {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4},
                                         {CU_DEVICE_ATTRIBUTE_WARP_SIZE, int(kWarpSize)},
                                         {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, int(kMaxThreads)},
                                         {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
                                         {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
                                         {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
                                         {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
                                         {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
                                         {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
                                         {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, int(kDefaultShared)},
                                         {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, int(config().shared_max)},
                                         {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, int(config().shared_max + 1024)},
                                         {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
                                         {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
                                         {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
                                         {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
                                         {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
                                         {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 64},
                                         {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1 << 20},
                                         {CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED, config().major >= 9},
                                         {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT}};
  auto it = values.find(attribute);
  *value = it == values.end() ? 0 : it->second;
  return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = &primary_context;
  return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
API cuDevicePrimaryCtxSetFlags(CUdevice, unsigned) { return CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext context) {
  current_context = context;
  return CUDA_SUCCESS;
}
API cuCtxGetCurrent(CUcontext* context) {
  *context = current_context;
  return CUDA_SUCCESS;
}
API cuCtxPushCurrent(CUcontext context) { return cuCtxSetCurrent(context); }
API cuCtxPopCurrent(CUcontext* context) {
  if (context) *context = current_context;
  current_context = nullptr;
  return CUDA_SUCCESS;
}
API cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
API cuCtxSynchronize() {
  return guarded([] { return unsafe_call("cuCtxSynchronize"); });
}

// ---- modules and functions

static int target_of(const std::string& text, bool* exact) {
  const size_t at = text.find(".target sm_");
  if (at == std::string::npos) return 0;
  char* end;
  const int target = int(strtol(text.c_str() + at + 11, &end, 10));
  *exact = *end == 'a';
  return target;
}
static CUresult load_module(CUmodule* module, const std::string& text) {
  bool exact = false;
  const int target = target_of(text, &exact), device = config().major * 10;
  if (target > device || (exact && target != device))
    return failed(CUDA_ERROR_NO_BINARY_FOR_GPU, "PTX for sm_" + std::to_string(target) + (exact ? "a" : "") +
                                                    " on a device of compute capability " + std::to_string(config().major) +
                                                    ".0 (PHOENIX_SIMT_CAPABILITY)");
  try {
    auto ptx = parse_ptx(text);
    load_globals(*ptx);
    *module = new CUmod_st{ptx, {}};
  } catch (const std::exception& e) {
    return failed(CUDA_ERROR_INVALID_PTX, e.what());
  }
  modules.insert(*module);
  return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* module, const void* image) {
  return guarded([&] {
    REQUIRE(image, "cuModuleLoadData: no image");
    uint32_t magic;
    memcpy(&magic, image, sizeof magic);
    if (magic == 0xBA55ED50u || magic == 0x466243B1u || magic == 0x464C457Fu)  // fatbin, its wrapper, ELF
      return failed(CUDA_ERROR_INVALID_IMAGE, "the image is a fatbin or a cubin; the emulator reads PTX text");
    return load_module(module, static_cast<const char*>(image));
  });
}
API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) { return cuModuleLoadData(module, image); }
API cuModuleLoadFatBinary(CUmodule* module, const void* image) { return cuModuleLoadData(module, image); }
API cuModuleLoad(CUmodule* module, const char* path) {
  return guarded([&] {
    std::ifstream file(path);
    if (!file) return failed(CUDA_ERROR_FILE_NOT_FOUND, std::string("cannot open ") + path);
    return load_module(module, std::string(std::istreambuf_iterator<char>(file), {}));
  });
}
API cuModuleUnload(CUmodule module) {
  return guarded([&] {
    if (!modules.erase(module)) return failed(CUDA_ERROR_INVALID_HANDLE, "not a module");
    delete module;
    return CUDA_SUCCESS;
  });
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return guarded([&] {
    if (!modules.count(module)) return failed(CUDA_ERROR_INVALID_HANDLE, "not a module");
    Function* kernel = find_kernel(*module->ptx, name);
    if (!kernel) return failed(CUDA_ERROR_NOT_FOUND, std::string("no kernel '") + name + "' in the module");
    auto& entry = module->functions[name];
    if (!entry) entry = std::make_unique<CUfunc_st>(CUfunc_st{module, kernel, kDefaultShared});
    *function = entry.get();
    return CUDA_SUCCESS;
  });
}
API cuModuleGetGlobal(CUdeviceptr* pointer, size_t* bytes, CUmodule module, const char* name) {
  return guarded([&] {
    if (!modules.count(module)) return failed(CUDA_ERROR_INVALID_HANDLE, "not a module");
    for (const GlobalVariable& g : module->ptx->globals) {
      if (g.name != name) continue;
      if (pointer) *pointer = CUdeviceptr(module->ptx->global_base + g.offset);
      if (bytes) *bytes = g.initial.size();
      return CUDA_SUCCESS;
    }
    return failed(CUDA_ERROR_NOT_FOUND, std::string("no variable '") + name + "' in the module");
  });
}
static uint32_t static_bytes(const Function& f) {
  uint32_t bytes = 0;
  for (const Span& s : f.shared_arrays) bytes += s.bytes;
  return bytes;
}
API cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  return guarded([&] {
    const Function& f = *function->function;
    switch (attribute) {
      case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = int(f.max_threads);
        break;
      case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = int(static_bytes(f));
        break;
      case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = int(f.local_bytes);
        break;
      case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = int(function->dynamic_max);
        break;
      case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = config().major * 10;
        break;
      default:
        *value = 0;
    }
    return CUDA_SUCCESS;
  });
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return guarded([&] {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    const uint32_t fixed = static_bytes(*function->function);
    REQUIRE(value >= 0 && uint64_t(value) + fixed <= config().shared_max,
            "dynamic shared memory of " + std::to_string(value) + " bytes beside " + std::to_string(fixed) +
                " static ones; the device has " + std::to_string(config().shared_max));
    function->dynamic_max = uint32_t(value);
    return CUDA_SUCCESS;
  });
}
API cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size, size_t dynamic_bytes) {
  return guarded([&] {
    REQUIRE(block_size > 0, "a block of no threads");
    const size_t shared = static_bytes(*function->function) + dynamic_bytes + 1024;
    *blocks = int(std::min<size_t>(2048 / size_t(block_size), (config().shared_max + 1024) / shared));
    return CUDA_SUCCESS;
  });
}

// ---- memory

static CUresult check_range(CUdeviceptr pointer, size_t bytes, const char* call) {
  if (device_range(reinterpret_cast<void*>(pointer), bytes)) return CUDA_SUCCESS;
  return failed(CUDA_ERROR_INVALID_VALUE,
                std::string(call) + ": " + std::to_string(bytes) + " bytes at " + hex(pointer) + " are not inside one live allocation");
}
API cuMemAlloc(CUdeviceptr* pointer, size_t bytes) {
  return guarded([&] {
    REQUIRE(bytes > 0, "cuMemAlloc of 0 bytes");
    if (CUresult r = unsafe_call("cuMemAlloc")) return r;
    void* p = device_alloc(bytes);
    if (!p)
      return failed(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes wanted, " + std::to_string(device_free_bytes()) + " free");
    *pointer = CUdeviceptr(p);
    return CUDA_SUCCESS;
  });
}
API cuMemFree(CUdeviceptr pointer) {
  return guarded([&] {
    if (!pointer) return CUDA_SUCCESS;
    if (CUresult r = unsafe_call("cuMemFree")) return r;
    REQUIRE(device_free(reinterpret_cast<void*>(pointer)), "cuMemFree: " + hex(pointer) + " is not the start of a live allocation");
    return CUDA_SUCCESS;
  });
}
API cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, CUstream) { return cuMemAlloc(pointer, bytes); }
API cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return cuMemFree(pointer); }
API cuMemGetInfo(size_t* free, size_t* total) {
  return guarded([&] {
    *free = device_free_bytes();
    *total = device_total_bytes();
    return CUDA_SUCCESS;
  });
}
API cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr pointer) {
  return guarded([&] {
    void* start;
    size_t size;
    device_allocation(reinterpret_cast<void*>(pointer), &start, &size);
    REQUIRE(start, "cuMemGetAddressRange: " + hex(pointer) + " is not in a live allocation");
    if (base) *base = CUdeviceptr(start);
    if (bytes) *bytes = size;
    return CUDA_SUCCESS;
  });
}
static CUresult pin(void** pointer, size_t bytes) {
  return guarded([&] {
    *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*pointer) return failed(CUDA_ERROR_OUT_OF_MEMORY, std::to_string(bytes) + " bytes of pinned memory wanted");
    pinned[*pointer] = bytes;
    return CUDA_SUCCESS;
  });
}
API cuMemAllocHost(void** pointer, size_t bytes) { return pin(pointer, bytes); }
API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { return pin(pointer, bytes); }
API cuMemFreeHost(void* pointer) {
  return guarded([&] {
    REQUIRE(pinned.erase(pointer), "cuMemFreeHost: not pinned memory");
    free(pointer);
    return CUDA_SUCCESS;
  });
}
API cuMemHostRegister(void*, size_t, unsigned) { return CUDA_SUCCESS; }
API cuMemHostUnregister(void*) { return CUDA_SUCCESS; }

static Work host_to_device(CUdeviceptr to, const void* from, size_t bytes) {
  return [=] {
    if (CUresult r = check_range(to, bytes, "copy to the device")) return r;
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    device_written(reinterpret_cast<void*>(to), bytes);
    return CUDA_SUCCESS;
  };
}
static Work device_to_host(void* to, CUdeviceptr from, size_t bytes) {
  return [=] {
    if (CUresult r = check_range(from, bytes, "copy from the device")) return r;
    memcpy(to, reinterpret_cast<void*>(from), bytes);
    return CUDA_SUCCESS;
  };
}
static Work device_to_device(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return [=] {
    if (CUresult r = check_range(to, bytes, "copy inside the device")) return r;
    if (CUresult r = check_range(from, bytes, "copy inside the device")) return r;
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    device_copied(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    return CUDA_SUCCESS;
  };
}
static Work copy_any(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  const bool to_device = device_range(reinterpret_cast<void*>(to), 1), from_device = device_range(reinterpret_cast<void*>(from), 1);
  if (to_device) return from_device ? device_to_device(to, from, bytes) : host_to_device(to, reinterpret_cast<void*>(from), bytes);
  return device_to_host(reinterpret_cast<void*>(to), from, bytes);
}
static Work fill(CUdeviceptr to, uint32_t value, size_t element, size_t count) {
  return [=] {
    REQUIRE(to % element == 0, "memset: the address is not aligned to its element");
    if (CUresult r = check_range(to, element * count, "memset")) return r;
    auto* p = reinterpret_cast<unsigned char*>(to);
    for (size_t i = 0; i < count; ++i) memcpy(p + i * element, &value, element);
    device_written(p, element * count);
    return CUDA_SUCCESS;
  };
}
static CUresult enqueue(CUstream s, Work work) {
  return guarded([&] { return submit(s, std::move(work)); });
}
API cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) { return enqueue(nullptr, host_to_device(to, from, bytes)); }
API cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream s) { return enqueue(s, host_to_device(to, from, bytes)); }
API cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) { return enqueue(nullptr, device_to_host(to, from, bytes)); }
API cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream s) { return enqueue(s, device_to_host(to, from, bytes)); }
API cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return enqueue(nullptr, device_to_device(to, from, bytes)); }
API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s) { return enqueue(s, device_to_device(to, from, bytes)); }
API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return enqueue(nullptr, copy_any(to, from, bytes)); }
API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s) { return enqueue(s, copy_any(to, from, bytes)); }
API cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) { return enqueue(nullptr, fill(to, value, 1, count)); }
API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream s) { return enqueue(s, fill(to, value, 1, count)); }
API cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) { return enqueue(nullptr, fill(to, value, 2, count)); }
API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream s) { return enqueue(s, fill(to, value, 2, count)); }
API cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) { return enqueue(nullptr, fill(to, value, 4, count)); }
API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream s) { return enqueue(s, fill(to, value, 4, count)); }

// ---- launches

static CUresult parameter_bytes(const Function& f, void** parameters, void** extra, std::vector<unsigned char>& bytes) {
  bytes.assign(f.parameter_bytes, 0);
  if (f.parameters.empty()) return CUDA_SUCCESS;
  if (parameters) {
    for (size_t i = 0; i < f.parameters.size(); ++i) {
      REQUIRE(parameters[i], f.name + ": parameter " + std::to_string(i) + " is null");
      memcpy(bytes.data() + f.parameters[i].offset, parameters[i], f.parameters[i].bytes);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  size_t size = 0;
  for (void** e = extra; e && *e != CU_LAUNCH_PARAM_END; e += 2) {
    if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = e[1];
    if (*e == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<size_t*>(e[1]);
  }
  REQUIRE(buffer && size == f.parameter_bytes,
          f.name + " takes " + std::to_string(f.parameter_bytes) + " bytes of parameters, got " + std::to_string(size));
  memcpy(bytes.data(), buffer, size);
  return CUDA_SUCCESS;
}
// A line per launch: whether it is run or captured, the kernel, the grid.
static void list_launch(const Function& f, Dim g, bool captured) {
  static FILE* file = fopen(config().launches.c_str(), "a");
  if (!file) throw Error("cannot write " + config().launches);
  fprintf(file, "%s %s %ux%ux%u\n", captured ? "captured" : "run", f.name.c_str(), g.x, g.y, g.z);
  fflush(file);
}
static CUresult launch(CUfunction function, Dim grid_dim, Dim block_dim, uint32_t cluster, bool early, uint32_t dynamic_bytes, CUstream s,
                       void** parameters, void** extra) {
  REQUIRE(function, "launch of no function");
  Function& f = *function->function;
  const uint64_t threads = uint64_t(block_dim.x) * block_dim.y * block_dim.z;
  const std::string shape = f.name + ": grid " + std::to_string(grid_dim.x) + "x" + std::to_string(grid_dim.y) + "x" +
                            std::to_string(grid_dim.z) + ", block of " + std::to_string(threads) + " threads";
  REQUIRE(grid_dim.x && grid_dim.y && grid_dim.z && grid_dim.x <= 2147483647u && grid_dim.y <= 65535 && grid_dim.z <= 65535, shape);
  REQUIRE(threads && threads <= f.max_threads, shape + ", the kernel allows " + std::to_string(f.max_threads));
  REQUIRE(threads % kWarpSize == 0, shape + ": the emulator wants a multiple of 32");
  REQUIRE(cluster == 1 || (config().major >= 9 && cluster <= kMaxCluster && grid_dim.x % cluster == 0),
          shape + ", clusters of " + std::to_string(cluster));
  REQUIRE(cluster == 1 || (threads % 128 == 0 && threads * cluster <= kMaxThreads),
          shape + ": the emulator wants clusters of at most 1024 threads, and whole warpgroups");
  REQUIRE(dynamic_bytes <= function->dynamic_max &&
              dynamic_bytes + static_bytes(f) <= std::max(kDefaultShared, function->dynamic_max + static_bytes(f)),
          shape + ", " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory, " + std::to_string(function->dynamic_max) +
              " allowed");
  std::vector<unsigned char> bytes;
  if (CUresult r = parameter_bytes(f, parameters, extra, bytes)) return r;
  if (!config().launches.empty()) {
    list_launch(f, grid_dim, !is_default(s) && streams.count(s) && s->capture);
    return submit(s, [] { return CUDA_SUCCESS; });
  }
  const std::shared_ptr<Module> module = function->module->ptx;
  return submit(s, [=, &f] {
    try {
      launch_kernel(*module, f, grid_dim, block_dim, cluster, early, dynamic_bytes, bytes.data());
    } catch (const std::exception& e) {
      return failed(CUDA_ERROR_LAUNCH_FAILED, e.what());
    }
    return CUDA_SUCCESS;
  });
}
API cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned dynamic_bytes, CUstream s, void** parameters, void** extra) {
  return guarded([&] { return launch(function, {gx, gy, gz}, {bx, by, bz}, 1, false, dynamic_bytes, s, parameters, extra); });
}
API cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void** parameters, void** extra) {
  return guarded([&] {
    uint32_t cluster = 1;
    bool early = false;
    for (unsigned i = 0; i < c->numAttrs; ++i) {
      const CUlaunchAttribute& a = c->attrs[i];
      if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
        cluster = a.value.clusterDim.x;
        if (a.value.clusterDim.y != 1 || a.value.clusterDim.z != 1)
          return failed(CUDA_ERROR_NOT_SUPPORTED, "clusters are emulated along x only");
        REQUIRE(cluster, "a cluster of no blocks");
      }
      if (a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
        early = a.value.programmaticStreamSerializationAllowed;
        REQUIRE(config().major >= 9, "programmatic stream serialization needs compute capability 9.0");
      }
      if (a.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && a.value.cooperative)
        return failed(CUDA_ERROR_NOT_SUPPORTED, "blocks run one after another: cooperative launches are not emulated");
    }
    return launch(function, {c->gridDimX, c->gridDimY, c->gridDimZ}, {c->blockDimX, c->blockDimY, c->blockDimZ}, cluster, early,
                  c->sharedMemBytes, c->hStream, parameters, extra);
  });
}

// ---- streams and events

static CUresult create_stream(CUstream* s, bool postponed = false) {
  return guarded([&] {
    *s = new CUstream_st;
    (*s)->postponed = postponed;
    streams.insert(*s);
    return CUDA_SUCCESS;
  });
}
API cuStreamCreate(CUstream* s, unsigned) { return create_stream(s); }
API cuStreamCreateWithPriority(CUstream* s, unsigned, int priority) { return create_stream(s, config().late_streams && priority >= 0); }
static CUresult known_stream(CUstream s) {
  return is_default(s) || streams.count(s) ? CUDA_SUCCESS : failed(CUDA_ERROR_INVALID_HANDLE, "not a stream");
}
static CUresult stream_idle(CUstream s) {
  return guarded([&] {
    if (CUresult r = known_stream(s)) return r;
    if (!is_default(s) && s->capture) return failed(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream is captured");
    return is_default(s) ? CUDA_SUCCESS : catch_up(s, s->submitted);
  });
}
API cuStreamSynchronize(CUstream s) { return stream_idle(s); }
API cuStreamQuery(CUstream s) { return stream_idle(s); }
API cuStreamDestroy(CUstream s) {
  return guarded([&] {
    if (!streams.erase(s)) return failed(CUDA_ERROR_INVALID_HANDLE, "not a stream");
    if (s->capture && s->capture->origin == s) count_capture(s->capture->mode, -1);
    delete s;
    return CUDA_SUCCESS;
  });
}
API cuEventCreate(CUevent* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->timed = !(flags & CU_EVENT_DISABLE_TIMING);
  return CUDA_SUCCESS;
}
API cuEventDestroy(CUevent event) {
  delete event;
  return CUDA_SUCCESS;
}
API cuEventRecord(CUevent event, CUstream s) {
  return guarded([&] {
    if (CUresult r = known_stream(s)) return r;
    event->capture = is_default(s) ? nullptr : s->capture;
    event->stream = event->capture ? s : nullptr;
    event->postponed = !is_default(s) && s->postponed ? s : nullptr;
    event->in_front = event->postponed ? s->submitted : 0;
    event->recorded = !event->capture;
    event->time = std::chrono::steady_clock::now();
    return CUDA_SUCCESS;
  });
}
API cuEventRecordWithFlags(CUevent event, CUstream s, unsigned) { return cuEventRecord(event, s); }
static CUresult event_done(CUevent event) {
  return guarded([&] {
    return event->capture ? failed(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the event was recorded into a capture") : CUDA_SUCCESS;
  });
}
API cuEventSynchronize(CUevent event) { return event_done(event); }
API cuEventQuery(CUevent event) { return event_done(event); }
static CUresult elapsed(float* ms, CUevent start, CUevent end) {
  return guarded([&] {
    if (!start->recorded || !end->recorded || !start->timed || !end->timed)
      return failed(CUDA_ERROR_INVALID_HANDLE, "an event that was never recorded, or without timing");
    *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUDA_SUCCESS;
  });
}
API cuEventElapsedTime(float* ms, CUevent start, CUevent end) { return elapsed(ms, start, end); }
API cuStreamWaitEvent(CUstream s, CUevent event, unsigned) {
  return guarded([&] {
    if (CUresult r = known_stream(s)) return r;
    if (event->postponed && event->postponed != s && streams.count(event->postponed))
      if (CUresult r = catch_up(event->postponed, event->in_front)) return r;
    const std::shared_ptr<Capture> here = is_default(s) ? nullptr : s->capture;
    if (here == event->capture || (here && !event->recorded && !event->capture)) {
      if (event->stream && streams.count(event->stream)) event->stream->forked = false;
      return CUDA_SUCCESS;
    }
    if (!event->capture || here || is_default(s))
      return failed(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "a captured stream and work outside of its capture");
    s->capture = event->capture;  // a fork: the stream joins the capture
    s->forked = true;
    return CUDA_SUCCESS;
  });
}

// ---- capture and graphs

API cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode) {
  return guarded([&] {
    if (is_default(s)) return failed(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot be captured");
    if (CUresult r = known_stream(s)) return r;
    if (s->capture) return failed(CUDA_ERROR_ILLEGAL_STATE, "the stream is already captured");
    s->capture = std::make_shared<Capture>(Capture{new CUgraph_st, s, mode});
    s->forked = false;
    count_capture(mode, 1);
    return CUDA_SUCCESS;
  });
}
API cuStreamEndCapture(CUstream s, CUgraph* graph) {
  return guarded([&] {
    *graph = nullptr;
    if (is_default(s) || !streams.count(s) || !s->capture || s->capture->origin != s)
      return failed(CUDA_ERROR_ILLEGAL_STATE, "no capture began on this stream");
    const std::shared_ptr<Capture> capture = s->capture;
    bool unjoined = false;
    for (CUstream other : streams) {
      if (other->capture != capture) continue;
      unjoined = unjoined || other->forked;
      unjoined = unjoined || !other->waiting.empty();
      other->waiting.clear();
      other->capture = nullptr;
      other->forked = false;
    }
    count_capture(capture->mode, -1);
    if (unjoined) {
      delete capture->graph;
      return failed(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a forked stream was not joined to the stream of origin before the capture ended");
    }
    *graph = capture->graph;
    return CUDA_SUCCESS;
  });
}
API cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus* status) {
  return guarded([&] {
    if (CUresult r = known_stream(s)) return r;
    *status = !is_default(s) && s->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
  });
}
API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  static thread_local CUstreamCaptureMode current = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::swap(*mode, current);
  return CUDA_SUCCESS;
}
API cuGraphCreate(CUgraph* graph, unsigned) {
  *graph = new CUgraph_st;
  return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph graph) {
  delete graph;
  return CUDA_SUCCESS;
}
API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  if (nodes) return failed(CUDA_ERROR_NOT_SUPPORTED, "cuGraphGetNodes only counts");
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}
API cuGraphInstantiate(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  return guarded([&] {
    *executable = new CUgraphExec_st{graph->nodes};
    executables.insert(*executable);
    return CUDA_SUCCESS;
  });
}
API cuGraphUpload(CUgraphExec, CUstream) { return CUDA_SUCCESS; }
API cuGraphLaunch(CUgraphExec executable, CUstream s) {
  return guarded([&] {
    if (!executables.count(executable)) return failed(CUDA_ERROR_INVALID_HANDLE, "not an executable graph");
    if (!is_default(s) && s->capture) return failed(CUDA_ERROR_NOT_SUPPORTED, "a graph launched into a capture");
    if (CUresult r = known_stream(s)) return r;
    for (const Work& node : executable->nodes)
      if (CUresult r = node()) return r;
    return CUDA_SUCCESS;
  });
}
API cuGraphExecDestroy(CUgraphExec executable) {
  return guarded([&] {
    if (!executables.erase(executable)) return failed(CUDA_ERROR_INVALID_HANDLE, "not an executable graph");
    delete executable;
    return CUDA_SUCCESS;
  });
}

// ---- tensor maps, entry points

API cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                           const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill_with) {
  REQUIRE(fill_with == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE, "tensor maps: only zeros fill what is out of bounds");
  const CUresult r = encode_tiled(map, type, rank, base, dims, strides, box, steps, interleave, swizzle);
  return r ? failed(r, "cuTensorMapEncodeTiled: an argument is outside of its documented limits") : r;
}
API cuTensorMapEncodeIm2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims,
                            const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                            const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill fill_with) {
  REQUIRE(fill_with == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE, "tensor maps: only zeros fill what is out of bounds");
  const CUresult r = encode_im2col(map, type, rank, base, dims, strides, lower, upper, channels, pixels, steps, interleave, swizzle);
  return r ? failed(r, "cuTensorMapEncodeIm2col: an argument is outside of its documented limits") : r;
}

// The newest version of an entry point: "cuMemAlloc" is cuMemAlloc_v2.
static void* entry_point(const char* name) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&entry_point), &info)) return nullptr;
  void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return nullptr;
  void* found = nullptr;
  for (const char* suffix : {"_v4", "_v3", "_v2", ""})
    if (!found) found = dlsym(library, (std::string(name) + suffix).c_str());
  if (!found && !strcmp(name, "cuGraphInstantiate")) found = dlsym(library, "cuGraphInstantiateWithFlags");
  dlclose(library);
  return found;
}
API cuGetProcAddress(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* status) {
  *function = entry_point(name);
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : failed(CUDA_ERROR_NOT_FOUND, std::string("the emulator has no ") + name);
}
// Older names of entry points whose signature did not change.
#undef cuEventElapsedTime
API cuEventElapsedTime(float* ms, CUevent start, CUevent end) { return elapsed(ms, start, end); }
