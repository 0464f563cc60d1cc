// A GPU as a device: its memory, and programs as CUDA graphs.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>

#include "kernels/cuda/runtime/driver.h"
#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/runtime/memory.cuh"
#include "kernels/device.h"

namespace phx {

namespace {
const Kernel<Copy> copy_kernel("copy_kernel");
const Kernel<Fill> fill_kernel("fill_kernel");

std::atomic<size_t> copied = 0;

void* allocate(size_t bytes) {
  const Driver& d = driver();
  bytes = std::max<size_t>(bytes, 1);
  CUdeviceptr block = 0;
  CUresult result = d.cuMemAlloc(&block, bytes);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    size_t free = 0, total = 0;
    d.cuMemGetInfo(&free, &total);
    throw OutOfMemory("not enough GPU memory: " + std::to_string(bytes) + " bytes wanted, " + std::to_string(free) + " of " +
                      std::to_string(total) + " free");
  }
  d.check(result, "cuMemAlloc", __FILE__, __LINE__);
  return reinterpret_cast<void*>(uintptr_t(block));
}

}  // namespace

Bf16 device_bf16() { return Bf16::tensors; }

real* device_allocate(size_t count) { return static_cast<real*>(allocate(count * sizeof(real))); }

void* device_allocate_zeros(size_t bytes) {
  void* block = allocate(bytes);
  PHOENIX_CALL(driver(), cuMemsetD8Async, address(block), 0, std::max<size_t>(bytes, 1), current_stream());
  return block;
}

// What is queued may still use the block.
void device_release(void* block) {
  if (!block) return;
  const Driver& d = driver();
  d.cuStreamSynchronize(d.stream);
  d.cuMemFree(address(block));
}

void device_put(void* to, const void* from_host, size_t bytes) {
  if (!bytes) return;
  PHOENIX_CALL(driver(), cuMemcpyHtoDAsync, address(to), from_host, bytes, current_stream());
  copied += bytes;
}

void device_get(void* to_host, const void* from, size_t bytes) {
  if (!bytes) return;
  PHOENIX_CALL(driver(), cuMemcpyDtoHAsync, to_host, address(from), bytes, current_stream());
  copied += bytes;
  PHOENIX_CALL(driver(), cuStreamSynchronize, current_stream());
}

void device_copy(real* to, const real* from, size_t count) {
  if (to != from) copy_kernel(cover(count), kElementThreads, {to, from, count});
}
void device_fill(real* to, real value, size_t count) { fill_kernel(cover(count), kElementThreads, {to, value, count}); }

void device_wait() { PHOENIX_CALL(driver(), cuStreamSynchronize, current_stream()); }
size_t device_copied() { return copied; }
extern const bool device_is_host = false;

OnHost::OnHost(real* at, size_t count, bool fetch) : at_(at), count_(count), copy_(count), data_(copy_.data()) {
  if (fetch) device_get(data_, at, count * sizeof(real));
}
void OnHost::put_back() { device_put(at_, data_, count_ * sizeof(real)); }

// ---- programs

namespace {

std::atomic<size_t> replayed = 0;

// This thread's work goes to a stream that only records it.
class Recording {
 public:
  explicit Recording(const Driver& d) : d_(d) {
    make_side_stream();
    stream_ = create_stream(Priority::first);
    use_stream(stream_);
    PHOENIX_CALL(d_, cuStreamBeginCapture, stream_, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    recording_ = true;
  }
  ~Recording() {
    use_stream(nullptr);
    if (recording_ && d_.cuStreamEndCapture(stream_, &graph_) != CUDA_SUCCESS) graph_ = nullptr;
    if (graph_) d_.cuGraphDestroy(graph_);
    d_.cuStreamDestroy(stream_);
  }
  CUgraphExec finish() {
    recording_ = false;
    PHOENIX_CALL(d_, cuStreamEndCapture, stream_, &graph_);
    CUgraphExec executable;
    PHOENIX_CALL(d_, cuGraphInstantiate, &executable, graph_, 0);
    return executable;
  }

 private:
  const Driver& d_;
  CUstream stream_ = nullptr;
  CUgraph graph_ = nullptr;
  bool recording_ = false;
};

}  // namespace

Program::~Program() {
  if (!graph_) return;
  const Driver& d = driver();
  d.cuStreamSynchronize(d.stream);
  d.cuGraphExecDestroy(static_cast<CUgraphExec>(graph_));
}

void Program::run(const std::function<void()>& work) {
  const Driver& d = driver();
  if (!ran_ || !allowed("PHOENIX_CUDA_GRAPHS")) {
    work();
    ran_ = true;
    return;
  }
  if (!graph_) {
    Recording recording(d);
    work();
    graph_ = recording.finish();
  }
  PHOENIX_CALL(d, cuGraphLaunch, static_cast<CUgraphExec>(graph_), d.stream);
  replayed++;
}

size_t Program::replays() { return replayed; }

}  // namespace phx
