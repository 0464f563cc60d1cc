// 3x3 convolutions between up to kFewMost channels (an image's) and many in bf16, stride 1 and padding 1, without tiles that would be mostly empty: to many
// channels, from many, and the weights' gradient of either. The inputs' gradient of the one is the other with its taps turned round.
#include "conv2d.cuh"

namespace phx {

extern __shared__ __align__(16) float few_weights[];

// The row of pixel p's neighbour at tap (r,s) of an image's h x w, or -1 outside.
__device__ inline int neighbour(int p, int h, int w, int r, int s) {
  int i = p / w % h + r - 1, j = p % w + s - 1;
  return i < 0 || j < 0 || i >= h || j >= w ? -1 : p + (r - 1) * w + s - 1;
}
// w[k][t][c] with the few channels first: place (t, few, many) of shared memory.
__device__ inline float few_weight(const ConvFew& a, int t, int few, int many) {
  int tap = a.turned ? 8 - t : t;
  return a.w_by_many ? value(a.w, (size_t(many) * 9 + tap) * a.few.c + few) : value(a.w, (size_t(few) * 9 + tap) * a.many.c + many);
}

// many(p, ·) = Σ few(p at t, c) w(t, c, ·) + b: a thread has 8 channels of 4 pixels at a time.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_to_many_kernel(const __grid_constant__ ConvFew a) {
  begin_kernel();
  constexpr int kPixels = 4;
  int few = a.few.c, many = a.many.c, pieces = many / 8, lanes = kThreads / pieces, rows = a.many.n * a.many.h * a.many.w;
  for (int e = threadIdx.x; e < 9 * few * many; e += kThreads) few_weights[e] = few_weight(a, e / many / few, e / many % few, e % many);
  __syncthreads();
  int column = int(threadIdx.x) % pieces * 8, lane = int(threadIdx.x) / pieces, end = min(rows, int(blockIdx.x + 1) * a.range);
  if (lane >= lanes) return;
  for (int first = blockIdx.x * a.range + lane * kPixels; first < end; first += lanes * kPixels) {
    Eight sums[kPixels];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float b = a.b.data ? a.b.data[column + i] : 0;
#pragma unroll
      for (auto& sum : sums) sum.x[i] = b;
    }
    for (int t = 0; t < 9; t++) {
      int from[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; p++) from[p] = first + p < end ? neighbour(first + p, a.many.h, a.many.w, t / 3, t % 3) : -1;
      for (int c = 0; c < few; c++) {
        const float4* w = reinterpret_cast<const float4*>(few_weights + (t * few + c) * many + column);
        float4 w0 = w[0], w1 = w[1];
        const float weights[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
        for (int p = 0; p < kPixels; p++) {
          float x = from[p] < 0 ? 0 : at(a.few, from[p], c);
#pragma unroll
          for (int i = 0; i < 8; i++) sums[p].x[i] += x * weights[i];
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kPixels; p++) {
      if (first + p >= end) continue;
      uint4* to = eight_at(a.many, first + p, column);
      if (a.accumulate) {
        Eight former = unpacked(*to);
#pragma unroll
        for (int i = 0; i < 8; i++) sums[p].x[i] += former.x[i];
      }
      *to = packed(sums[p]);
    }
  }
}

// few(p, k) = Σ many(p at t, ·) w(t, k, ·) + b: 16 lanes share 4 pixels, a lane every 16th piece of 8 channels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_from_many_kernel(const __grid_constant__ ConvFew a) {
  begin_kernel();
  constexpr int kPixels = 4, kTeam = 16;
  int few = a.few.c, many = a.many.c, rows = a.few.n * a.few.h * a.few.w;
  for (int e = threadIdx.x; e < 9 * few * many; e += kThreads) few_weights[e] = few_weight(a, e / many / few, e / many % few, e % many);
  __syncthreads();
  int member = threadIdx.x % kTeam, team = threadIdx.x / kTeam, end = min(rows, int(blockIdx.x + 1) * a.range);
  // All teams go round equally often, for the shuffles' sake.
  for (int base = blockIdx.x * a.range; base < end; base += kThreads / kTeam * kPixels) {
    int first = base + team * kPixels;
    float sums[kPixels][kFewMost] = {};
    for (int t = 0; t < 9; t++) {
      int from[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; p++) from[p] = first + p < end ? neighbour(first + p, a.few.h, a.few.w, t / 3, t % 3) : -1;
      for (int column = member * 8; column < many; column += kTeam * 8) {
        Eight x[kPixels] = {};
#pragma unroll
        for (int p = 0; p < kPixels; p++)
          if (from[p] >= 0) x[p] = unpacked(*eight_at(a.many, from[p], column));
#pragma unroll
        for (int k = 0; k < kFewMost; k++) {
          if (k >= few) break;
          const float4* w = reinterpret_cast<const float4*>(few_weights + (t * few + k) * many + column);
          float4 w0 = w[0], w1 = w[1];
          const float weights[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
          for (int p = 0; p < kPixels; p++)
#pragma unroll
            for (int i = 0; i < 8; i++) sums[p][k] += x[p].x[i] * weights[i];
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kPixels; p++)
#pragma unroll
      for (int k = 0; k < kFewMost; k++) {
        float sum = sums[p][k];
#pragma unroll
        for (int half = kTeam / 2; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
        if (member == 0 && k < few && first + p < end) {
          if (a.b.data) sum += a.b.data[k];
          put(a.few, first + p, k, a.accumulate ? at(a.few, first + p, k) + sum : sum);
        }
      }
  }
}

// Σ over a range of pixels of many(p, ·) few(p at t, ·), and of dy, which is one of the two: a thread has two channels of the many and all of the rest.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_few_weights_kernel(const __grid_constant__ ConvFewWeights a) {
  begin_kernel();
  int few = a.few.c, pair = blockIdx.y * blockDim.x + threadIdx.x, rows = a.many.n * a.many.h * a.many.w;
  if (pair * 2 >= a.many.c) return;
  int begin = blockIdx.x * a.range, end = min(rows, begin + a.range);
  float sums[9][kFewMost][2] = {}, of_few[kFewMost] = {}, of_many[2] = {};
  for (int p = begin; p < end; p++) {
    uint32_t two = *reinterpret_cast<const uint32_t*>(reinterpret_cast<const uint16_t*>(a.many.data) + size_t(p) * a.many.ld + pair * 2);
    float x0 = __uint_as_float(two << 16), x1 = __uint_as_float(two & 0xFFFF0000u);
    of_many[0] += x0, of_many[1] += x1;
#pragma unroll
    for (int t = 0; t < 9; t++) {
      int from = neighbour(p, a.many.h, a.many.w, t / 3, t % 3);
      if (from < 0) continue;
#pragma unroll
      for (int c = 0; c < kFewMost; c++) {
        if (c >= few) break;
        float x = at(a.few, from, c);
        if (t == 4) of_few[c] += x;  // p itself
        sums[t][c][0] += x0 * x;
        sums[t][c][1] += x1 * x;
      }
    }
  }
#pragma unroll
  for (int t = 0; t < 9; t++)
#pragma unroll
    for (int c = 0; c < kFewMost; c++) {
      if (c >= few) break;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int many = pair * 2 + i, tap = a.turned ? 8 - t : t;
        size_t place = a.turned ? (size_t(c) * 9 + tap) * a.many.c + many : (size_t(many) * 9 + tap) * few + c;
        a.parts.weights[blockIdx.x * size_t(a.many.c) * 9 * few + place] = sums[t][c][i];
      }
    }
  if (!a.turned) {
    for (int i = 0; i < 2; i++) a.parts.biases[size_t(blockIdx.x) * a.many.c + pair * 2 + i] = of_many[i];
  } else if (pair == 0) {
#pragma unroll
    for (int c = 0; c < kFewMost; c++)
      if (c < few) a.parts.biases[size_t(blockIdx.x) * few + c] = of_few[c];
  }
}

}  // namespace phx
