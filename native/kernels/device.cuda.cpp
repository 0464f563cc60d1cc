// A GPU as a device, through the CUDA driver API, which is opened at run time: the addon loads, and says why it cannot work, on a machine
// without a driver. PHOENIX_LIBCUDA names another driver library; then kernels come as PTX text from the folder `phoenix-cuda-ptx` beside
// the addon, if a development build has laid them there. All kernels are resolved when the device is opened.
#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <vector>

#include "device.h"
#include "launch.cuda.h"
#include "memory.cuh"

namespace phx {

AnyKernel* AnyKernel::first = nullptr;
AnyKernel::AnyKernel(const char* name) : name(name), next(first) { first = this; }

namespace {

#define PHOENIX_TEXT_OF(x) #x
#define PHOENIX_SYMBOL(x) PHOENIX_TEXT_OF(x)  // cuda.h maps some names to later versions of themselves
// clang-format off
#define PHOENIX_DRIVER_FUNCTIONS(X)                                                                             \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute) \
  X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuModuleLoadData) X(cuModuleGetFunction)                     \
  X(cuMemAlloc) X(cuMemFree) X(cuMemcpyHtoD) X(cuMemcpyDtoH) X(cuLaunchKernel) X(cuGetErrorString)
// clang-format on

struct Driver {
#define PHOENIX_MEMBER(f) decltype(&::f) f = nullptr;
  PHOENIX_DRIVER_FUNCTIONS(PHOENIX_MEMBER)
#undef PHOENIX_MEMBER
  CUcontext context = nullptr;
  std::string name;

  void check(CUresult result, const std::string& call) const {
    if (result == CUDA_SUCCESS) return;
    const char* reason = nullptr;
    if (cuGetErrorString) cuGetErrorString(result, &reason);
    throw std::runtime_error(call + " failed: " + (reason ? reason : "unknown error") + " (CUDA error " + std::to_string(int(result)) +
                             ")");
  }
};
#define PHOENIX_CALL(driver, f, ...) (driver).check((driver).f(__VA_ARGS__), #f)

// The PTX text of an image's kernels beside the addon, or nothing.
std::string ptx_beside_addon(const char* image) {
  Dl_info self;
  if (!dladdr(reinterpret_cast<const void*>(&device_state), &self) || !self.dli_fname) return {};
  std::string path = self.dli_fname;
  path = path.substr(0, path.rfind('/') + 1) + "phoenix-cuda-ptx/" + image + ".ptx";
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

void load_kernels(const Driver& driver, bool from_text) {
  std::vector<CUmodule> modules;
  for (size_t i = 0; i < kernel_image_count; i++) {
    std::string text = from_text ? ptx_beside_addon(kernel_images[i].name) : std::string();
    driver.check(driver.cuModuleLoadData(&modules.emplace_back(), text.empty() ? kernel_images[i].data : text.c_str()),
                 "loading the kernels of " + std::string(kernel_images[i].name) + " for " + driver.name);
  }
  for (AnyKernel* kernel = AnyKernel::first; kernel; kernel = kernel->next) {
    CUfunction function = nullptr;
    for (CUmodule module : modules)
      if (driver.cuModuleGetFunction(&function, module, kernel->name) == CUDA_SUCCESS) break;
    if (!function) throw std::runtime_error(std::string("the addon lacks the kernel ") + kernel->name + ": build it again");
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
  driver.name = std::string(name) + ", compute capability " + std::to_string(major) + "." + std::to_string(minor) + ", driver for CUDA " +
                std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  if (major < 8) throw std::runtime_error(driver.name + ": a GPU of compute capability 8.0 or newer is needed");
  PHOENIX_CALL(driver, cuDevicePrimaryCtxRetain, &driver.context, device);
  PHOENIX_CALL(driver, cuCtxSetCurrent, driver.context);
  load_kernels(driver, named && *named);
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
      o.state = {true, o.driver.name};
    } catch (const std::exception& e) {
      o.state = {false, e.what()};
    }
    return o;
  }();
  return result;
}

// The driver, with the device's context current in this thread.
const Driver& driver() {
  const Opened& o = opened();
  if (!o.state.usable) throw std::runtime_error("CUDA: " + o.state.text);
  thread_local bool current = false;
  if (!current) PHOENIX_CALL(o.driver, cuCtxSetCurrent, o.driver.context);
  current = true;
  return o.driver;
}

CUdeviceptr address(const void* pointer) { return CUdeviceptr(reinterpret_cast<uintptr_t>(pointer)); }

const Kernel<Copy> copy_kernel("copy_kernel");
const Kernel<Fill> fill_kernel("fill_kernel");

}  // namespace

void AnyKernel::start(Blocks grid, unsigned threads, void* parameters) const {
  if (!grid.x || !grid.y || !grid.z) return;
  const Driver& d = driver();
  void* arguments[] = {parameters};
  d.check(
      d.cuLaunchKernel(static_cast<CUfunction>(function), unsigned(grid.x), grid.y, grid.z, threads, 1, 1, 0, nullptr, arguments, nullptr),
      name);
}

const DeviceState& device_state() { return opened().state; }

real* device_allocate(size_t count) {
  const Driver& d = driver();
  CUdeviceptr block = 0;
  CUresult result = d.cuMemAlloc(&block, std::max<size_t>(count, 1) * sizeof(real));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) throw std::bad_alloc();
  d.check(result, "cuMemAlloc");
  return reinterpret_cast<real*>(uintptr_t(block));
}

void device_release(real* block) {
  if (block) driver().cuMemFree(address(block));
}

void device_put(void* to, const void* from_host, size_t bytes) {
  if (bytes) PHOENIX_CALL(driver(), cuMemcpyHtoD, address(to), from_host, bytes);
}

void device_get(void* to_host, const void* from, size_t bytes) {
  if (bytes) PHOENIX_CALL(driver(), cuMemcpyDtoH, to_host, address(from), bytes);
}

void device_copy(real* to, const real* from, size_t count) {
  if (to != from) copy_kernel(cover(count), kElementThreads, {to, from, count});
}
void device_fill(real* to, real value, size_t count) { fill_kernel(cover(count), kElementThreads, {to, value, count}); }

}  // namespace phx
