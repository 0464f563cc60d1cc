// y = dropout(silu((x - mean)·rstd·w + b)) over one or two inputs, and its gradients; the formulas are group_norm.ref.cpp's.  Wu & He 2018,
// eq. 1
// Forward and the input's gradient take a block for an image and group, the parameters' gradients a block for an image and 32 channels.
#include "kernels/cuda/group_norm.cuh"

namespace phx {

// 0 or the factor, for the element at row-major index e: ops.h, Dropout.
__device__ inline float kept(const DropoutWords& d, size_t e) {
  if (!d.threshold) return 1;
  Words words = dropout_words(d, e);
  int word = int(e % 8 / 2);
  uint32_t bits = word == 0 ? words.w[0] : word == 1 ? words.w[1] : word == 2 ? words.w[2] : words.w[3];
  return ((e % 2 ? bits >> 16 : bits) & 0xFFFF) >= d.threshold ? d.factor : 0;
}

extern "C" __global__ void __launch_bounds__(kThreads) group_norm_forward_kernel(GroupNormForward a) {
  begin_kernel();
  int n = blockIdx.x / a.groups, g = blockIdx.x % a.groups, width = a.y.c / a.groups, pixels = a.y.h * a.y.w, size = pixels * width;
  size_t first = size_t(n) * pixels;
  float sum = 0;
  for (int e = threadIdx.x; e < size; e += kThreads) sum += joined(a.x0, a.x1, first + e / width, g * width + e % width);
  float mean = block_sum(sum) / size;
  float squares = 0;
  for (int e = threadIdx.x; e < size; e += kThreads) {
    float difference = joined(a.x0, a.x1, first + e / width, g * width + e % width) - mean;
    squares += difference * difference;
  }
  float rstd = 1 / sqrtf(block_sum(squares) / size + a.eps);
  if (threadIdx.x == 0) {
    put(a.mean, n, g, mean);
    put(a.rstd, n, g, rstd);
  }
  for (int e = threadIdx.x; e < size; e += kThreads) {
    size_t row = first + e / width;
    int c = g * width + e % width;
    float z = (joined(a.x0, a.x1, row, c) - mean) * rstd * a.w.data[c] + a.b.data[c];
    put(a.y, row, c, (a.silu ? z * sigmoid(z) : z) * kept(a.dropout, row * a.y.c + c));
  }
}

// What backward needs of one element: x̂ and dz.
struct NormGradient {
  float normalized, dz;
};
__device__ inline NormGradient gradient_at(const GroupNormBackward& a, size_t row, int c) {
  int pixels = a.dy.h * a.dy.w, width = a.dy.c / a.groups;
  size_t n = row / pixels;
  float normalized = (joined(a.x0, a.x1, row, c) - at(a.mean, n, c / width)) * at(a.rstd, n, c / width);
  float z = normalized * a.w.data[c] + a.b.data[c], s = sigmoid(z);
  return {normalized, at(a.dy, row, c) * kept(a.dropout, row * a.dy.c + c) * (a.silu ? s * (1 + z * (1 - s)) : 1)};
}

extern "C" __global__ void __launch_bounds__(kThreads) group_norm_input_gradient_kernel(GroupNormBackward a) {
  begin_kernel();
  int n = blockIdx.x / a.groups, g = blockIdx.x % a.groups, width = a.dy.c / a.groups, pixels = a.dy.h * a.dy.w, size = pixels * width;
  size_t first = size_t(n) * pixels;
  float sum = 0, product = 0;
  for (int e = threadIdx.x; e < size; e += kThreads) {
    int c = g * width + e % width;
    NormGradient d = gradient_at(a, first + e / width, c);
    sum += a.w.data[c] * d.dz;
    product += a.w.data[c] * d.dz * d.normalized;
  }
  sum = block_sum(sum) / size;
  product = block_sum(product) / size;
  float rstd = at(a.rstd, n, g);
  for (int e = threadIdx.x; e < size; e += kThreads) {
    size_t row = first + e / width;
    int c = g * width + e % width;
    NormGradient d = gradient_at(a, row, c);
    float dx = rstd * (a.w.data[c] * d.dz - sum - d.normalized * product);
    if (c < a.x0.c) {
      if (a.dx0.t.data) write(a.dx0, row, c, dx);
    } else if (a.dx1.t.data) {
      write(a.dx1, row, c - a.x0.c, dx);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads) group_norm_parameters_kernel(GroupNormBackward a) {
  begin_kernel();
  __shared__ float weights[8][32], biases[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.y * 32 + lane, pixels = a.dy.h * a.dy.w;
  float dw = 0, db = 0;
  if (c < a.dy.c)
    for (int pixel = warp; pixel < pixels; pixel += 8) {
      NormGradient d = gradient_at(a, size_t(blockIdx.x) * pixels + pixel, c);
      dw += d.dz * d.normalized;
      db += d.dz;
    }
  weights[warp][lane] = dw;
  biases[warp][lane] = db;
  __syncthreads();
  if (warp == 0 && c < a.dy.c) {
    for (int i = 1; i < 8; i++) dw += weights[i][lane], db += biases[i][lane];
    put(a.dw, blockIdx.x, c, dw);
    put(a.db, blockIdx.x, c, db);
  }
}

}  // namespace phx
