// The CUDA driver API, opened at run time, and the one device: for the files that talk to it. All work of the process goes, in the order of
// the calls, to one stream; a thread that records a Program sends its own to a stream of its own meanwhile. What need not be waited for
// goes to a side stream (side_stream.h).
#pragma once
#include <cuda.h>

#include <cstdint>
#include <string>

namespace phx {

// clang-format off
#define PHOENIX_DRIVER_FUNCTIONS(X)                                                                             \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute) \
  X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuModuleLoadData) X(cuModuleGetFunction)                     \
  X(cuFuncSetAttribute) X(cuLaunchKernelEx) X(cuTensorMapEncodeTiled)                                           \
  X(cuMemAlloc) X(cuMemFree) X(cuMemGetInfo) X(cuMemsetD8Async) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync)       \
  X(cuStreamCreateWithPriority) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamWaitEvent)                  \
  X(cuEventCreate) X(cuEventRecord) X(cuStreamBeginCapture) X(cuStreamEndCapture)                               \
  X(cuGraphInstantiate) X(cuGraphDestroy) X(cuGraphLaunch) X(cuGraphExecDestroy) X(cuGetErrorString)
// clang-format on

struct Driver {
#define PHOENIX_MEMBER(f) decltype(&::f) f = nullptr;
  PHOENIX_DRIVER_FUNCTIONS(PHOENIX_MEMBER)
#undef PHOENIX_MEMBER
  CUcontext context = nullptr;
  CUstream stream = nullptr;
  int architecture = 0, multiprocessors = 0, max_shared_bytes = 0;
  std::string name;

  // Throws std::runtime_error with the call, the place and the driver's reason.
  void check(CUresult result, const char* call, const char* file, int line) const;
};
#define PHOENIX_CALL(driver, f, ...) (driver).check((driver).f(__VA_ARGS__), #f, __FILE__, __LINE__)

// The driver, with the device's context current in this thread. Throws std::runtime_error if the device cannot be used.
const Driver& driver();
// Where this thread's work goes.
CUstream current_stream();
// Sends this thread's work there; null: to the device's one stream again.
void use_stream(CUstream);
// The main stream's work comes first: results wait for it.
enum class Priority { first, side };
CUstream create_stream(Priority);
// Makes this thread's side stream, if it has none: before a recording, during which nothing should be made.
void make_side_stream();

inline CUdeviceptr address(const void* pointer) { return CUdeviceptr(reinterpret_cast<uintptr_t>(pointer)); }

}  // namespace phx
