#include "test.h"

#include <cstdio>

int checks, failures;

void check(bool holds, const std::string& what) {
  checks++;
  if (holds) return;
  failures++;
  fprintf(stderr, "not ok: %s\n", what.c_str());
}
std::string message(CUresult result) {
  const char* text = nullptr;
  cuGetErrorString(result, &text);
  return text ? text : "error " + std::to_string(int(result));
}
bool succeeded(CUresult result, const std::string& what) {
  check(result == CUDA_SUCCESS, what + (result == CUDA_SUCCESS ? "" : ": " + message(result)));
  return result == CUDA_SUCCESS;
}
Buffer::Buffer(size_t n) : bytes(n) { succeeded(cuMemAlloc(&pointer, n), "allocation"); }
Buffer::~Buffer() { cuMemFree(pointer); }
CUmodule load_text(const std::string& ptx) {
  CUmodule module = nullptr;
  succeeded(cuModuleLoadData(&module, ptx.c_str()), "module");
  return module;
}
CUfunction function(CUmodule module, const char* name) {
  CUfunction f = nullptr;
  succeeded(cuModuleGetFunction(&f, module, name), std::string("function ") + name);
  return f;
}
void open_device() {
  CUcontext context;
  succeeded(cuInit(0), "cuInit");
  succeeded(cuDevicePrimaryCtxRetain(&context, 0), "context");
  succeeded(cuCtxSetCurrent(context), "context");
}
