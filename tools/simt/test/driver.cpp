// The driver API: memory, streams, events, capture and graphs, errors.
#include <cstring>
#include "test.h"

static const char* increment =
    ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 4 .u32 step = 3;\n"
    ".visible .entry increment(.param .u64 x)\n{\n.reg .b32 lane, value, by;\n.reg .b64 base, off;\n"
    "mov.u32 lane, %tid.x;\nld.param.u64 base, [x];\nmul.wide.u32 off, lane, 4;\nadd.s64 base, base, off;\n"
    "ld.global.u32 value, [base];\nld.global.u32 by, [step];\nadd.s32 value, value, by;\nst.global.u32 [base], value;\nret;\n}\n";
using Ints = std::vector<int>;

static void test_memory() {
  size_t free_before = 0, free_after = 0, total = 0;
  succeeded(cuMemGetInfo(&free_before, &total), "memory info");
  {
    Buffer a(Ints{1, 2, 3, 4}), b(16);
    succeeded(cuMemGetInfo(&free_after, &total), "memory info");
    check(free_before - free_after == 32, "memory info counts what is allocated");
    succeeded(cuMemcpyDtoD(b.pointer, a.pointer, 16), "copy inside the device");
    check(b.read<int>() == Ints({1, 2, 3, 4}), "copy inside the device: values");
    succeeded(cuMemsetD32(b.pointer, 7, 2), "memset");
    check(b.read<int>() == Ints({7, 7, 3, 4}), "memset: values");
    check(cuMemcpyDtoD(b.pointer, a.pointer, 17) == CUDA_ERROR_INVALID_VALUE, "a copy past the end is refused");
  }
  CUdeviceptr p = 0;
  check(cuMemAlloc(&p, total + 1) == CUDA_ERROR_OUT_OF_MEMORY, "more than the device has");
  check(message(CUDA_ERROR_OUT_OF_MEMORY).find(std::to_string(total + 1) + " bytes wanted") != std::string::npos,
        "out of memory names the bytes");
  check(cuMemFree(12345) == CUDA_ERROR_INVALID_VALUE, "free of a stranger");
  void* host = nullptr;
  succeeded(cuMemHostAlloc(&host, 16, 0), "pinned memory");
  succeeded(cuMemFreeHost(host), "pinned memory");
  check(cuMemFreeHost(host) == CUDA_ERROR_INVALID_VALUE, "pinned memory freed twice");
}
static void test_launches(CUmodule module) {
  CUfunction f = function(module, "increment");
  Buffer x(Ints(32, 5));
  succeeded(run(f, 1, 32, 0, nullptr, x.pointer), "launch");
  check(x.read<int>() == Ints(32, 8), "launch: values");
  CUlaunchConfig config{};
  config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.blockDimX = 32;
  void* parameters[] = {&x.pointer};
  succeeded(cuLaunchKernelEx(&config, f, parameters, nullptr), "cuLaunchKernelEx");
  check(x.read<int>() == Ints(32, 11), "cuLaunchKernelEx: values");
  check(run(f, 1, 64, 0, nullptr, x.pointer) == CUDA_ERROR_LAUNCH_FAILED, "a launch past the end is reported");
  check(run(f, 1, 33, 0, nullptr, x.pointer) == CUDA_ERROR_INVALID_VALUE, "a block of 33 threads is refused");
  check(run(f, 1, 32, 1 << 20, nullptr, x.pointer) == CUDA_ERROR_INVALID_VALUE, "too much shared memory is refused");
  CUdeviceptr step = 0;
  size_t bytes = 0;
  succeeded(cuModuleGetGlobal(&step, &bytes, module, "step"), "a global variable");
  const int ten = 10;
  succeeded(cuMemcpyHtoD(step, &ten, sizeof ten), "a global variable is written");
  succeeded(run(f, 1, 32, 0, nullptr, x.pointer), "launch");
  check(x.read<int>() == Ints(32, 14 + 10), "a global variable is read");  // the refused launch went through for the lanes inside
  Buffer fresh(128);
  check(run(f, 1, 32, 0, nullptr, fresh.pointer) == CUDA_ERROR_LAUNCH_FAILED &&
            message(CUDA_ERROR_LAUNCH_FAILED).find("uninitialised global memory") != std::string::npos,
        "uninitialised device memory is reported");
}
static void test_graphs(CUmodule module) {
  CUfunction f = function(module, "increment");
  CUdeviceptr step = 0;
  size_t bytes = 0;
  succeeded(cuModuleGetGlobal(&step, &bytes, module, "step"), "step");
  succeeded(cuMemsetD32(step, 1, 1), "step");
  CUstream a, b;
  CUevent fork, join;
  succeeded(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING), "stream");
  succeeded(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING), "stream");
  succeeded(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING), "event");
  succeeded(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING), "event");
  Ints source(32, 100);
  Buffer x(Ints(32, 0)), y(Ints(32, 0));

  succeeded(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), "capture");
  succeeded(cuMemcpyHtoDAsync(x.pointer, source.data(), 128, a), "captured copy");
  succeeded(cuEventRecord(fork, a), "fork");
  succeeded(cuStreamWaitEvent(b, fork, 0), "fork");
  succeeded(run(f, 1, 32, 0, b, x.pointer), "captured launch");
  succeeded(cuEventRecord(join, b), "join");
  succeeded(cuStreamWaitEvent(a, join, 0), "join");
  succeeded(cuMemcpyDtoDAsync(y.pointer, x.pointer, 128, a), "captured copy");
  CUdeviceptr p;
  check(cuMemAlloc(&p, 16) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "no allocation during a capture");
  check(cuStreamSynchronize(a) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "no synchronisation of a captured stream");
  check(cuMemcpyDtoH(source.data(), y.pointer, 4) == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "no work on the default stream during a capture");
  CUgraph graph;
  CUgraphExec executable;
  succeeded(cuStreamEndCapture(a, &graph), "end of capture");
  size_t nodes = 0;
  succeeded(cuGraphGetNodes(graph, nullptr, &nodes), "nodes");
  check(nodes == 3, "three nodes were captured");
  check(y.read<int>() == Ints(32, 0), "captured work does not run");
  succeeded(cuGraphInstantiate(&executable, graph, 0), "instantiate");
  succeeded(cuGraphDestroy(graph), "destroy");
  succeeded(cuGraphLaunch(executable, a), "replay");
  check(y.read<int>() == Ints(32, 101), "replay: values");
  source.assign(32, 200);
  succeeded(cuGraphLaunch(executable, a), "second replay");
  check(y.read<int>() == Ints(32, 201), "a replay reads host memory anew");
  succeeded(cuGraphExecDestroy(executable), "destroy");

  succeeded(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), "capture");
  succeeded(cuEventRecord(fork, a), "fork");
  succeeded(cuStreamWaitEvent(b, fork, 0), "fork");
  succeeded(run(f, 1, 32, 0, b, x.pointer), "captured launch");
  check(cuStreamEndCapture(a, &graph) == CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream that was not joined");
  succeeded(cuStreamSynchronize(a), "the streams are usable again");

  CUevent start, end;
  float ms = -1;
  succeeded(cuEventCreate(&start, 0), "event");
  succeeded(cuEventCreate(&end, 0), "event");
  check(cuEventElapsedTime(&ms, start, end) == CUDA_ERROR_INVALID_HANDLE, "events that were not recorded");
  succeeded(cuEventRecord(start, a), "record");
  succeeded(cuEventRecord(end, a), "record");
  check(cuEventElapsedTime(&ms, start, end) == CUDA_SUCCESS && ms >= 0, "elapsed time");
  for (CUevent event : {fork, join, start, end}) succeeded(cuEventDestroy(event), "destroy");
  for (CUstream stream : {a, b}) succeeded(cuStreamDestroy(stream), "destroy");
}
// Work of a stream of low priority is done when it is waited for, so that who does not wait reads what was there before.
static void test_late_streams(CUmodule module) {
  CUfunction f = function(module, "increment");
  CUstream a, b;
  CUevent fork, join;
  succeeded(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING), "stream");
  succeeded(cuStreamCreateWithPriority(&b, CU_STREAM_NON_BLOCKING, 0), "stream");
  succeeded(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING), "event");
  succeeded(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING), "event");
  Buffer x(Ints(32, 0)), too_soon(Ints(32, 0)), in_time(Ints(32, 0));
  auto work = [&] {
    succeeded(cuEventRecord(fork, a), "fork");
    succeeded(cuStreamWaitEvent(b, fork, 0), "fork");
    succeeded(run(f, 1, 32, 0, b, x.pointer), "launch beside");
    succeeded(cuEventRecord(join, b), "join");
    succeeded(cuMemcpyDtoDAsync(too_soon.pointer, x.pointer, 128, a), "copy without waiting");
    succeeded(cuStreamWaitEvent(a, join, 0), "join");
    succeeded(cuMemcpyDtoDAsync(in_time.pointer, x.pointer, 128, a), "copy after waiting");
  };
  auto step = [&] {  // what the kernel adds
    CUdeviceptr at = 0;
    size_t bytes = 0;
    int value = 0;
    succeeded(cuModuleGetGlobal(&at, &bytes, module, "step"), "step");
    succeeded(cuMemcpyDtoH(&value, at, 4), "step");
    return value;
  }();
  work();
  check(too_soon.read<int>() == Ints(32, 0) && in_time.read<int>() == Ints(32, step), "late work");
  CUgraph graph;
  CUgraphExec executable;
  succeeded(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), "capture");
  work();
  succeeded(cuStreamEndCapture(a, &graph), "end of capture");
  succeeded(cuGraphInstantiate(&executable, graph, 0), "instantiate");
  succeeded(cuGraphLaunch(executable, a), "replay");
  check(too_soon.read<int>() == Ints(32, step) && in_time.read<int>() == Ints(32, 2 * step), "late work, replayed");
  succeeded(run(f, 1, 32, 0, b, x.pointer), "launch");
  check(x.read<int>() == Ints(32, 2 * step), "nobody has waited");
  succeeded(cuStreamSynchronize(b), "synchronise");
  check(x.read<int>() == Ints(32, 3 * step), "the host has waited");
  succeeded(cuGraphExecDestroy(executable), "destroy");
  succeeded(cuGraphDestroy(graph), "destroy");
  for (CUevent event : {fork, join}) succeeded(cuEventDestroy(event), "destroy");
  for (CUstream stream : {a, b}) succeeded(cuStreamDestroy(stream), "destroy");
}
void test_driver() {
  test_memory();
  CUmodule module = load_text(increment);
  if (!module) return;
  test_launches(module);
  test_graphs(module);
  test_late_streams(module);
  void* found = nullptr;
  CUdriverProcAddressQueryResult status;
  check(cuGetProcAddress("cuMemAlloc", &found, 13000, 0, &status) == CUDA_SUCCESS && found == reinterpret_cast<void*>(&cuMemAlloc),
        "cuGetProcAddress finds the newest version");
  check(cuGetProcAddress("cuNothing", &found, 13000, 0, &status) == CUDA_ERROR_NOT_FOUND, "cuGetProcAddress of what is not there");
  const unsigned char elf[] = {0x7F, 'E', 'L', 'F', 0};
  CUmodule none = nullptr;
  check(cuModuleLoadData(&none, elf) == CUDA_ERROR_INVALID_IMAGE, "a cubin is refused");
  succeeded(cuModuleUnload(module), "unload");
}
