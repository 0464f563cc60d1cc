// Opening the CUDA driver, the device and the kernels: the addon loads, and says why it cannot work, on a machine without a driver.
// PHOENIX_LIBCUDA names another driver library; then kernels come as PTX text from the folders `phoenix-cuda-ptx/80` and `90a` next to
// the addon, if a development build has laid them there. All kernels are resolved when the device is opened.
#include "kernels/cuda/runtime/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/runtime/side_stream.h"
#include "kernels/device.h"

namespace phx {

AnyKernel* AnyKernel::first = nullptr;
AnyKernel::AnyKernel(const char* name, KernelNeeds needs) : name(name), needs(needs), next(first) { first = this; }

void Driver::check(CUresult result, const char* call, const char* file, int line) const {
  if (result == CUDA_SUCCESS) return;
  const char* reason = nullptr;
  if (cuGetErrorString) cuGetErrorString(result, &reason);
  const char* slash = std::strrchr(file, '/');
  throw std::runtime_error(std::string(call) + " failed: " + (reason ? reason : "unknown error") + " (CUDA error " +
                           std::to_string(int(result)) + ", " + (slash ? slash + 1 : file) + ":" + std::to_string(line) + ")");
}

namespace {

#define PHOENIX_TEXT_OF(x) #x
#define PHOENIX_SYMBOL(x) PHOENIX_TEXT_OF(x)  // cuda.h maps some names to later versions of themselves

constexpr unsigned kPlainShared = 48 * 1024;  // dynamic shared memory that needs no attribute

// The PTX text of an image's kernels next to the addon, or nothing.
std::string ptx_next_to_addon(const std::string& folder, const char* image) {
  Dl_info self;
  if (!dladdr(reinterpret_cast<const void*>(&device_state), &self) || !self.dli_fname) return {};
  std::string path = self.dli_fname;
  path = path.substr(0, path.rfind('/') + 1) + "phoenix-cuda-ptx/" + folder + "/" + image + ".ptx";
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void open_library(Driver& driver, const char* name) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    throw std::runtime_error(std::string("no CUDA driver: ") + (reason ? reason : name));
  }
#define PHOENIX_RESOLVE(f)                                                                                                       \
  if (!(driver.f = reinterpret_cast<decltype(driver.f)>(dlsym(library, PHOENIX_SYMBOL(f)))))                                     \
    throw std::runtime_error(std::string(name) + " has no " PHOENIX_SYMBOL(f) ": the driver is too old; install one for CUDA " + \
                             std::to_string(CUDA_VERSION / 1000) + " or newer");
  PHOENIX_DRIVER_FUNCTIONS(PHOENIX_RESOLVE)
#undef PHOENIX_RESOLVE
}

bool takes_sm90a(const Driver& driver) { return driver.architecture == 90 && kernel_images_hold_sm90a; }

void load_kernels(const Driver& driver, bool from_text) {
  std::vector<CUmodule> modules;
  bool sm90a = takes_sm90a(driver);
  for (size_t i = 0; i < kernel_image_count; i++) {
    const KernelImage& image = kernel_images[i];
    std::string text = from_text ? ptx_next_to_addon(sm90a ? "90a" : "80", image.name) : std::string(), what;
    driver.check(driver.cuModuleLoadData(&modules.emplace_back(), text.empty() ? image.data : text.c_str()),
                 ("loading the kernels of " + std::string(image.name) + " for " + driver.name).c_str(), __FILE__, __LINE__);
  }
  for (AnyKernel* kernel = AnyKernel::first; kernel; kernel = kernel->next) {
    if (kernel->needs.architecture == 90 && !sm90a) continue;
    CUfunction function = nullptr;
    for (CUmodule module : modules)
      if (driver.cuModuleGetFunction(&function, module, kernel->name) == CUDA_SUCCESS) break;
    if (!function) throw std::runtime_error(std::string("the addon lacks the kernel ") + kernel->name + ": build it again");
    if (kernel->needs.shared_bytes > kPlainShared)
      driver.check(driver.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                             std::min(int(kernel->needs.shared_bytes), driver.max_shared_bytes)),
                   kernel->name, __FILE__, __LINE__);
    kernel->function = function;
  }
}

void open(Driver& driver) {
  const char* named = std::getenv("PHOENIX_LIBCUDA");
  open_library(driver, named && *named ? named : "libcuda.so.1");
  PHOENIX_CALL(driver, cuInit, 0);
  int version = 0, count = 0, major = 0, minor = 0;
  CUdevice device;
  PHOENIX_CALL(driver, cuDriverGetVersion, &version);
  PHOENIX_CALL(driver, cuDeviceGetCount, &count);
  if (!count) throw std::runtime_error("the CUDA driver finds no GPU");
  PHOENIX_CALL(driver, cuDeviceGet, &device, 0);
  char name[256] = "";
  PHOENIX_CALL(driver, cuDeviceGetName, name, int(sizeof name), device);
  PHOENIX_CALL(driver, cuDeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  PHOENIX_CALL(driver, cuDeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  PHOENIX_CALL(driver, cuDeviceGetAttribute, &driver.multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  PHOENIX_CALL(driver, cuDeviceGetAttribute, &driver.max_shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  driver.architecture = 10 * major + minor;
  driver.name = std::string(name) + ", compute capability " + std::to_string(major) + "." + std::to_string(minor) + ", driver for CUDA " +
                std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  if (major < 8) throw std::runtime_error(driver.name + ": a GPU of compute capability 8.0 or newer is needed");
  PHOENIX_CALL(driver, cuDevicePrimaryCtxRetain, &driver.context, device);
  PHOENIX_CALL(driver, cuCtxSetCurrent, driver.context);
  load_kernels(driver, named && *named);
}

CUstream new_stream(const Driver& driver, Priority priority) {
  CUstream stream;
  // The least number is the highest priority; numbers out of the device's range are brought into it.
  PHOENIX_CALL(driver, cuStreamCreateWithPriority, &stream, CU_STREAM_NON_BLOCKING, priority == Priority::first ? -1 : 0);
  return stream;
}

struct Opened {
  Driver driver;
  DeviceState state;
};
const Opened& opened() {
  static const Opened result = [] {
    Opened o;
    try {
      open(o.driver);
      o.driver.stream = new_stream(o.driver, Priority::first);
      o.state = {true, o.driver.name};
    } catch (const std::exception& e) {
      o.state = {false, e.what()};
    }
    return o;
  }();
  return result;
}

thread_local CUstream own_stream = nullptr;

// The side stream of a thread.
struct ThreadSideStream {
  CUstream stream = nullptr;
  CUevent begun = nullptr, done = nullptr;
  bool busy = false;           // with work that the main stream has not waited for
  CUstream instead = nullptr;  // the stream that it stands for now
};
thread_local ThreadSideStream side;
// Whether the main stream [0] and the side stream [1] have waited for each other since their last kernel: then the next kernel does not
// follow that one alone.
thread_local bool waited[2] = {};

}  // namespace

const Driver& driver() {
  const Opened& o = opened();
  if (!o.state.usable) throw std::runtime_error("CUDA: " + o.state.text);
  thread_local bool current = false;
  if (!current) PHOENIX_CALL(o.driver, cuCtxSetCurrent, o.driver.context);
  current = true;
  return o.driver;
}

CUstream current_stream() { return own_stream ? own_stream : driver().stream; }
void use_stream(CUstream stream) { own_stream = stream; }
CUstream create_stream(Priority priority) { return new_stream(driver(), priority); }

const DeviceState& device_state() { return opened().state; }
int kernel_architecture() { return takes_sm90a(driver()) ? 90 : 80; }
int multiprocessors() { return driver().multiprocessors; }
int max_shared_bytes() { return driver().max_shared_bytes; }

// ---- kernels

namespace {
// Whether a kernel may be started before the one in front of it has ended: those for sm_90a wait for it themselves (begin_kernel).
bool overlap() {
  static const bool wanted = takes_sm90a(driver()) && allowed("PHOENIX_CUDA_OVERLAP");
  return wanted;
}
}  // namespace

// ---- the side stream

bool SideStream::active() { return side.instead; }

void make_side_stream() {
  if (side.stream) return;
  const Driver& d = driver();
  PHOENIX_CALL(d, cuEventCreate, &side.begun, CU_EVENT_DISABLE_TIMING);
  PHOENIX_CALL(d, cuEventCreate, &side.done, CU_EVENT_DISABLE_TIMING);
  side.stream = create_stream(Priority::side);
}

SideStream::SideStream(bool wanted) : wanted_(wanted && allowed("PHOENIX_CUDA_BESIDE") && !active()) {
  if (!wanted_) return;
  join_side_stream();
  make_side_stream();
  PHOENIX_CALL(driver(), cuEventRecord, side.begun, current_stream());
}

void SideStream::start() {
  if (!wanted_) return;
  started_ = true;
  CUstream main = current_stream();
  PHOENIX_CALL(driver(), cuStreamWaitEvent, side.stream, side.begun, 0);
  waited[1] = true;
  side.instead = main;
  use_stream(side.stream);
}

SideStream::~SideStream() {
  if (!started_) return;
  const Driver& d = driver();
  side.busy = d.cuEventRecord(side.done, side.stream) == CUDA_SUCCESS;
  use_stream(side.instead == d.stream ? nullptr : side.instead);
  side.instead = nullptr;
}

void join_side_stream() {
  if (!side.busy) return;
  side.busy = false;
  PHOENIX_CALL(driver(), cuStreamWaitEvent, current_stream(), side.done, 0);
  waited[0] = true;
}

// ---- starting kernels

void AnyKernel::start(Blocks grid, unsigned threads, void* parameters, unsigned shared_bytes) const {
  if (!grid.x || !grid.y || !grid.z) return;
  const Driver& d = driver();
  if (!function)
    throw std::runtime_error(std::string(name) + " is a kernel for compute capability 9.0 (sm_90a), which this device or build has not");
  void* arguments[] = {parameters};
  CUlaunchAttribute attributes[2] = {};
  CUlaunchConfig config{};
  config.attrs = attributes;
  if (needs.cluster > 1) {
    CUlaunchAttribute& a = attributes[config.numAttrs++];
    a.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    a.value.clusterDim = {needs.cluster, 1, 1};
  }
  if (overlap() && !waited[SideStream::active()]) {
    CUlaunchAttribute& a = attributes[config.numAttrs++];
    a.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    a.value.programmaticStreamSerializationAllowed = 1;
  }
  config.gridDimX = unsigned(grid.x), config.gridDimY = grid.y, config.gridDimZ = grid.z;
  config.blockDimX = threads, config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = shared_bytes;
  config.hStream = current_stream();
  waited[SideStream::active()] = false;
  d.check(d.cuLaunchKernelEx(&config, static_cast<CUfunction>(function), arguments, nullptr), name, __FILE__, __LINE__);
}

TensorMap tensor_map(const void* base, const TensorMapShape& s) {
  check(s.rank >= 1 && s.rank <= 5, "tensor_map", "1 to 5 dimensions, got " + std::to_string(s.rank));
  check(s.swizzle == 0 || s.swizzle == 32 || s.swizzle == 64 || s.swizzle == 128, "tensor_map", "a swizzle of 0, 32, 64 or 128 bytes");
  CUtensorMap map;
  CUtensorMapSwizzle swizzle = s.swizzle == 0    ? CU_TENSOR_MAP_SWIZZLE_NONE
                               : s.swizzle == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                               : s.swizzle == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                 : CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMapDataType type =
      s.element == TensorMapShape::Element::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  cuuint64_t sizes[5], distances[4];
  for (int i = 0; i < 5; i++) sizes[i] = s.sizes[i];
  for (int i = 0; i < 4; i++) distances[i] = s.distances[i];
  CUresult result = driver().cuTensorMapEncodeTiled(&map, type, cuuint32_t(s.rank), const_cast<void*>(base), sizes, distances, s.box,
                                                    s.steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    std::string shape;
    for (int i = 0; i < s.rank; i++) shape += (i ? "," : "") + std::to_string(s.sizes[i]) + "/" + std::to_string(s.box[i]);
    fail("tensor_map: expected sizes, boxes and distances within the limits of TMA, got sizes/boxes " + shape);
  }
  TensorMap out;
  static_assert(sizeof out == sizeof map);
  std::memcpy(&out, &map, sizeof out);
  return out;
}

}  // namespace phx
