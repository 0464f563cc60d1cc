// What device and host code of the CUDA backend share: views of tensors, and the helpers that kernels use.
// Kernels take one plain parameter struct each, declared beside the kernel's name in `<op>.cuh`; tensors are views with pointers to device memory.
#pragma once
#include "philox.h"
#include "tensor.h"

namespace phx {

// A Tensor as kernels see it. `data` is null where an optional argument was left out.
struct View {
  float* data;
  int n, h, w, c, ld;
};
inline View view(const Tensor& t) { return {t.data, t.n, t.h, t.w, t.c, t.ld}; }

// A Grad as kernels see it.
struct GradView {
  View t;
  int accumulate;
};
inline GradView view(const Grad& g) { return {view(g.t), g.accumulate ? 1 : 0}; }

#ifdef __CUDACC__

// Threads of a block of the kernels that go over elements; the block's sums rely on it.
constexpr int kThreads = 256;

__device__ inline size_t thread_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline float& at(const View& t, size_t row, int column) { return t.data[row * t.ld + column]; }
// Element e in row-major order.
__device__ inline float& element(const View& t, size_t e) { return at(t, e / t.c, int(e % t.c)); }
__device__ inline size_t elements(const View& t) { return size_t(t.n) * t.h * t.w * t.c; }
// Column c of the row [x0 | x1].
__device__ inline float& joined(const View& x0, const View& x1, size_t row, int column) {
  return column < x0.c ? at(x0, row, column) : at(x1, row, column - x0.c);
}
__device__ inline void write(const GradView& g, size_t row, int column, float value) {
  float& out = at(g.t, row, column);
  out = g.accumulate ? out + value : value;
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
