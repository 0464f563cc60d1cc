// o = softmax(q kᵀ/√D) v and its gradients; the formulas are attention.ref.cpp's.  Vaswani et al. 2017, eq. 1
// A block for an image, head and token: the query for o and dq, the key for dk and dv. Tokens are gone through kThreads at a time; their
// weights pass through shared memory, and a thread adds up the channels that are its own, so the order of every sum is fixed.
#include "kernels/cuda/attention.cuh"

namespace phx {

// Where one block works.
struct Place {
  int n, head, token, tokens, width, channels;
  size_t first;                                                                     // row of the image
  __device__ int column(int part) const { return part * channels + head * width; }  // part: 0 q, 1 k, 2 v
};
__device__ inline Place place_of(const View& o, int heads) {
  int tokens = o.h * o.w, block = blockIdx.x, n = block / tokens / heads;
  return {n, block / tokens % heads, block % tokens, tokens, o.c / heads, o.c, size_t(n) * tokens};
}

// Σ over `size` columns, from (row, column) of each.
struct Slice {
  const View& t;
  size_t place;
  __device__ Slice(const View& t, size_t row, int column) : t(t), place(row * t.ld + column) {}
  __device__ float operator[](int d) const { return value(t, place + d); }
};
__device__ inline float inner(Slice a, Slice b, int size) {
  float sum = 0;
  for (int d = 0; d < size; d++) sum += a[d] * b[d];
  return sum;
}

extern "C" __global__ void __launch_bounds__(kThreads) attention_forward_kernel(AttentionForward a) {
  begin_kernel();
  __shared__ float parts[kThreads];
  Place p = place_of(a.o, a.heads);
  Slice q(a.qkv, p.first + p.token, p.column(0));

  // The largest score, then Σ exp.
  float most = -INFINITY, total = 0;
  for (int j = threadIdx.x; j < p.tokens; j += kThreads)
    most = fmaxf(most, inner(q, Slice(a.qkv, p.first + j, p.column(1)), p.width) * a.scale);
  parts[threadIdx.x] = most;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) parts[threadIdx.x] = fmaxf(parts[threadIdx.x], parts[threadIdx.x + half]);
  }
  __syncthreads();
  most = parts[0];
  for (int j = threadIdx.x; j < p.tokens; j += kThreads)
    total += expf(inner(q, Slice(a.qkv, p.first + j, p.column(1)), p.width) * a.scale - most);
  float lse = most + logf(block_sum(total));
  if (threadIdx.x == 0) put(a.lse, p.n, p.head * p.tokens + p.token, lse);

  for (int first = 0; first < p.tokens; first += kThreads) {
    int j = first + threadIdx.x, count = min(kThreads, p.tokens - first);
    __syncthreads();  // the former weights have been read
    if (j < p.tokens) parts[threadIdx.x] = expf(inner(q, Slice(a.qkv, p.first + j, p.column(1)), p.width) * a.scale - lse);
    __syncthreads();
    for (int d = threadIdx.x; d < p.width; d += kThreads) {
      int column = p.head * p.width + d;
      float sum = first ? at(a.o, p.first + p.token, column) : 0;
      for (int i = 0; i < count; i++) sum += parts[i] * at(a.qkv, p.first + first + i, p.column(2) + d);
      put(a.o, p.first + p.token, column, sum);
    }
  }
}

// delta and dq of one query.
extern "C" __global__ void __launch_bounds__(kThreads) attention_query_gradient_kernel(AttentionBackward a) {
  begin_kernel();
  __shared__ float parts[kThreads];
  Place p = place_of(a.o, a.heads);
  Slice q(a.qkv, p.first + p.token, p.column(0));
  Slice dout(a.d_o, p.first + p.token, p.head * p.width);
  Slice out(a.o, p.first + p.token, p.head * p.width);
  float product = 0;
  for (int d = threadIdx.x; d < p.width; d += kThreads) product += out[d] * dout[d];
  float delta = block_sum(product), lse = at(a.lse, p.n, p.head * p.tokens + p.token);
  if (threadIdx.x == 0) a.delta[blockIdx.x] = delta;

  for (int first = 0; first < p.tokens; first += kThreads) {
    int j = first + threadIdx.x, count = min(kThreads, p.tokens - first);
    __syncthreads();
    if (j < p.tokens) {
      float weight = expf(inner(q, Slice(a.qkv, p.first + j, p.column(1)), p.width) * a.scale - lse);
      parts[threadIdx.x] = weight * (inner(dout, Slice(a.qkv, p.first + j, p.column(2)), p.width) - delta) * a.scale;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < p.width; d += kThreads) {
      int column = p.column(0) + d;
      float sum = first ? at(a.dqkv, p.first + p.token, column) : 0;
      for (int i = 0; i < count; i++) sum += parts[i] * at(a.qkv, p.first + first + i, p.column(1) + d);
      put(a.dqkv, p.first + p.token, column, sum);
    }
  }
}

// dk and dv of one key, after the queries' kernel.
extern "C" __global__ void __launch_bounds__(kThreads) attention_key_gradient_kernel(AttentionBackward a) {
  begin_kernel();
  __shared__ float weights[kThreads], parts[kThreads];
  Place p = place_of(a.o, a.heads);
  Slice k(a.qkv, p.first + p.token, p.column(1));
  Slice v(a.qkv, p.first + p.token, p.column(2));
  size_t queries = size_t(blockIdx.x) - p.token;  // of this image and head, in lse's and delta's order

  for (int first = 0; first < p.tokens; first += kThreads) {
    int i = first + threadIdx.x, count = min(kThreads, p.tokens - first);
    __syncthreads();
    if (i < p.tokens) {
      float lse = at(a.lse, p.n, p.head * p.tokens + i);
      float weight = expf(inner(Slice(a.qkv, p.first + i, p.column(0)), k, p.width) * a.scale - lse);
      weights[threadIdx.x] = weight;
      parts[threadIdx.x] = weight * (inner(Slice(a.d_o, p.first + i, p.head * p.width), v, p.width) - a.delta[queries + i]) * a.scale;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < p.width; d += kThreads) {
      int dk = p.column(1) + d, dv = p.column(2) + d;
      float key_sum = first ? at(a.dqkv, p.first + p.token, dk) : 0, value_sum = first ? at(a.dqkv, p.first + p.token, dv) : 0;
      for (int j = 0; j < count; j++) {
        key_sum += parts[j] * at(a.qkv, p.first + first + j, p.column(0) + d);
        value_sum += weights[j] * at(a.d_o, p.first + first + j, p.head * p.width + d);
      }
      put(a.dqkv, p.first + p.token, dk, key_sum);
      put(a.dqkv, p.first + p.token, dv, value_sum);
    }
  }
}

}  // namespace phx
