// What device and host code of the CUDA backend share: views of tensors, and the helpers that kernels use.
// Kernels take one plain parameter struct each, declared beside the kernel's name in `<op>.cuh`; tensors are views with pointers to device
// memory.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

#include "kernels/philox.h"
#include "kernels/tensor.h"

namespace phx {

// A Tensor as kernels see it. `data` is null where an optional argument was left out; values are float or, by `type`, bf16.
struct View {
  float* data;
  int n, h, w, c, ld;
  Type type;
#ifdef __CUDACC__
  // The memory of a view of Type::bf16.
  __device__ BFloat16* bf16() const { return reinterpret_cast<BFloat16*>(data); }
#endif
};
inline View view(const Tensor& t) { return {t.data, t.n, t.h, t.w, t.c, t.ld, t.type}; }

// A Grad as kernels see it.
struct GradView {
  View t;
  int accumulate;
};
inline GradView view(const Grad& g) { return {view(g.t), g.accumulate ? 1 : 0}; }

#ifdef __CUDACC__

// Threads of a block of the kernels that go over elements; the block's sums rely on it.
constexpr int kThreads = 256;

// What a kernel does before it touches device memory. On Hopper it may have been started before the one in front of it has ended
// (programmatic dependent launch, launch.cuda.h), to spare the time between the two: so it waits here, and lets the next one be started. By
// every thread.
__device__ inline void begin_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline size_t thread_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline float bf16_value(BFloat16 bits) { return __uint_as_float(uint32_t(bits) << 16); }
__device__ inline BFloat16 bf16_bits(float x) { return BFloat16(__bfloat16_as_ushort(__float2bfloat16_rn(x))); }
__device__ inline uint32_t bf16_pair(float low, float high) {
  __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&two);
}

// Eight bf16 values, which lie in 16 bytes.
struct Eight {
  float x[8];
};
__device__ inline Eight unpacked(uint4 v) {
  Eight e;
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) e.x[2 * i] = __uint_as_float(words[i] << 16), e.x[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  return e;
}
__device__ inline uint4 packed(const Eight& e) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) words[i] = bf16_pair(e.x[2 * i], e.x[2 * i + 1]);
  return {words[0], words[1], words[2], words[3]};
}
__device__ inline uint4* eight_at(const View& t, size_t row, int column) {
  return reinterpret_cast<uint4*>(t.bf16() + row * t.ld + column);
}

// The value at a place of a view's memory, and a new one there.
__device__ inline float value(const View& t, size_t place) { return t.type == Type::real ? t.data[place] : bf16_value(t.bf16()[place]); }
__device__ inline void put(const View& t, size_t place, float x) {
  if (t.type == Type::real)
    t.data[place] = x;
  else
    t.bf16()[place] = bf16_bits(x);
}
__device__ inline float at(const View& t, size_t row, int column) { return value(t, row * t.ld + column); }
__device__ inline void put(const View& t, size_t row, int column, float x) { put(t, row * t.ld + column, x); }
// Element e in row-major order.
__device__ inline size_t place(const View& t, size_t e) { return e / t.c * t.ld + e % t.c; }
__device__ inline float element(const View& t, size_t e) { return value(t, place(t, e)); }
__device__ inline void put_element(const View& t, size_t e, float x) { put(t, place(t, e), x); }
__device__ inline size_t elements(const View& t) { return size_t(t.n) * t.h * t.w * t.c; }
// Column c of the row [x0 | x1].
__device__ inline float joined(const View& x0, const View& x1, size_t row, int column) {
  return column < x0.c ? at(x0, row, column) : at(x1, row, column - x0.c);
}
__device__ inline void write(const GradView& g, size_t row, int column, float value) {
  put(g.t, row, column, g.accumulate ? at(g.t, row, column) + value : value);
}

__device__ inline float sigmoid(float z) { return 1 / (1 + expf(-z)); }

// The sum over a block of kThreads threads, the same for all of them, in an order that is always the same.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T parts[kThreads];
  __syncthreads();  // a former sum may still be read
  parts[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  __syncthreads();
  return parts[0];
}

#endif

}  // namespace phx
