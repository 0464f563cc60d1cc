// What the emulator's tests share: checks that count, and a device as a host program sees it.
#pragma once
#include <cuda.h>
#include <cstdint>
#include <string>
#include <vector>

extern int checks, failures;
void check(bool holds, const std::string& what);  // counts, and names what fails on stderr
std::string message(CUresult result);
bool succeeded(CUresult result, const std::string& what);

struct Buffer {  // device memory
  CUdeviceptr pointer = 0;
  size_t bytes;
  explicit Buffer(size_t n);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  template <class T>
  Buffer(const std::vector<T>& values) : Buffer(values.size() * sizeof(T)) {
    succeeded(cuMemcpyHtoD(pointer, values.data(), bytes), "copy to the device");
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> values(bytes / sizeof(T));
    succeeded(cuMemcpyDtoH(values.data(), pointer, bytes), "copy from the device");
    return values;
  }
};
void open_device();
CUmodule load_text(const std::string& ptx);
CUfunction function(CUmodule module, const char* name);
// One launch; each argument is copied into the kernel's parameter.
template <class... A>
CUresult run(CUfunction f, unsigned blocks, unsigned threads, unsigned shared, CUstream stream, A... arguments) {
  void* parameters[] = {&arguments..., nullptr};
  return cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr);
}
// The same with an attribute.
template <class... A>
CUresult run_with(CUlaunchAttribute attribute, CUfunction f, unsigned blocks, unsigned threads, unsigned shared, A... arguments) {
  void* parameters[] = {&arguments..., nullptr};
  CUlaunchConfig c{};
  c.gridDimX = blocks;
  c.gridDimY = c.gridDimZ = c.blockDimY = c.blockDimZ = 1;
  c.blockDimX = threads;
  c.sharedMemBytes = shared;
  c.attrs = &attribute;
  c.numAttrs = 1;
  return cuLaunchKernelEx(&c, f, parameters, nullptr);
}
inline CUlaunchAttribute in_clusters(unsigned blocks) {
  CUlaunchAttribute a{};
  a.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  a.value.clusterDim = {blocks, 1, 1};
  return a;
}
// May begin before the launch in front of it has ended.
inline CUlaunchAttribute early() {
  CUlaunchAttribute a{};
  a.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  a.value.programmaticStreamSerializationAllowed = 1;
  return a;
}

void test_opcodes();
void test_driver();
void test_defects(const std::string& folder);  // of the compiled kernels
