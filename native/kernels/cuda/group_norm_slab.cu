// group_norm in one pass over bf16 tensors: a block holds an image's slab of whole groups, all its pixels, in shared memory, so that
// forward reads x and writes y once. Backward holds the gradient behind silu and dropout, and reads x a second time, which the second-level
// cache still has: three blocks of a 32x32 map are then at work on a multiprocessor. The formulas are group_norm.ref.cpp's.  Wu & He 2018,
// eq. 1
// A thread owns 8 channels of every `stride`-th pixel from first to last, so the slab needs no barriers; only sums over threads do.
#include "kernels/cuda/group_norm.cuh"

namespace phx {

extern __shared__ __align__(16) unsigned char slab_memory[];

// 0 or the factor for the 8 elements from index e on, a multiple of 8: ops.h, Dropout.
__device__ inline Eight kept_eight(const DropoutWords& d, size_t e) {
  Eight kept;
  if (!d.threshold) {
#pragma unroll
    for (float& k : kept.x) k = 1;
    return kept;
  }
  Words words = dropout_words(d, e);
#pragma unroll
  for (int i = 0; i < 8; i++) kept.x[i] = ((words.w[i / 2] >> i % 2 * 16) & 0xFFFF) >= d.threshold ? d.factor : 0;
  return kept;
}
// 1 / (1 + exp(-z)), each step an instruction.
__device__ inline float fast_sigmoid(float z) {
  float power, sigma;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(z * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigma) : "f"(1 + power));
  return sigma;
}

// Where a block and its threads work.
struct Slab {
  int n, first, channels, pixels;                // of the image; the slab's channels are [first, first + channels)
  int pieces, stride, pixel, column;             // a thread's own: pixels pixel, pixel + stride, …; 8 channels from first + column on
  uint4* memory;                                 // (pixels, pieces)
  int lines;                                     // of threads that have a pixel
  float *parts, *segments, *sums[2], *means[2];  // of sums over threads

  __device__ Slab(const View& like, int width) {
    n = blockIdx.x, first = blockIdx.y * width;
    channels = min(width, like.c - first);
    pixels = like.h * like.w;
    pieces = channels / 8, stride = kThreads / pieces;
    column = int(threadIdx.x) % pieces * 8, pixel = int(threadIdx.x) / pieces, lines = min(stride, pixels);
    if (pixel >= stride) pixel = pixels;  // threads that are left over do nothing
    memory = reinterpret_cast<uint4*>(slab_memory);
    parts = reinterpret_cast<float*>(memory + size_t(pixels) * (width / 8));
    segments = parts + kThreads * 8;
    sums[0] = segments + 8 * width, sums[1] = sums[0] + width, means[0] = sums[1] + width, means[1] = means[0] + width;
  }
  __device__ uint4& own(int at) const { return memory[size_t(at) * pieces + column / 8]; }
  __device__ size_t row(int at) const { return size_t(n) * pixels + at; }

  // sums[which][c] = Σ over threads of the eight values that stand for channel c, in a fixed order. For all threads.
  __device__ void add_up(const Eight& mine, int which) const {
    __syncthreads();
    int line = int(threadIdx.x) / pieces;
    if (line < lines) {
      auto* to = reinterpret_cast<float4*>(parts + line * channels + column);
      to[0] = {mine.x[0], mine.x[1], mine.x[2], mine.x[3]};
      to[1] = {mine.x[4], mine.x[5], mine.x[6], mine.x[7]};
    }
    __syncthreads();
    for (int task = threadIdx.x; task < 8 * channels; task += kThreads) {
      float sum = 0;
      for (int l = task / channels; l < lines; l += 8) sum += parts[l * channels + task % channels];
      segments[task] = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += kThreads) {
      float sum = 0;
      for (int s = 0; s < 8; s++) sum += segments[s * channels + c];
      sums[which][c] = sum;
    }
    __syncthreads();
  }
  // The means over the pixels and the group of own channels, of sums[which], each times its weight. For all threads.
  __device__ Eight group_means(int width, int which, const float* weights = nullptr) const {
    for (int c = threadIdx.x; c < channels; c += kThreads) {
      int start = c / width * width;
      float sum = 0;
      for (int k = start; k < start + width; k++) sum += weights ? weights[first + k] * sums[which][k] : sums[which][k];
      means[which][c] = sum / float(pixels * width);
    }
    __syncthreads();
    Eight own;
#pragma unroll
    for (int i = 0; i < 8; i++) own.x[i] = means[which][column + i];
    return own;
  }
};

extern "C" __global__ void __launch_bounds__(kThreads) group_norm_slab_forward_kernel(const __grid_constant__ GroupNormSlabForward p) {
  begin_kernel();
  const GroupNormForward& a = p.all;
  Slab s(a.y, p.width);
  int width = a.y.c / a.groups, own = s.first + s.column, from = own < a.x0.c ? own : own - a.x0.c;
  const View& x = own < a.x0.c ? a.x0 : a.x1;
  Eight sum{};
#pragma unroll 4
  for (int at = s.pixel; at < s.pixels; at += s.stride) {
    uint4 v = *eight_at(x, s.row(at), from);
    s.own(at) = v;
    Eight values = unpacked(v);
#pragma unroll
    for (int i = 0; i < 8; i++) sum.x[i] += values.x[i];
  }
  s.add_up(sum, 0);
  Eight mean = s.group_means(width, 0), squares{};
  for (int at = s.pixel; at < s.pixels; at += s.stride) {
    Eight values = unpacked(s.own(at));
#pragma unroll
    for (int i = 0; i < 8; i++) squares.x[i] += (values.x[i] - mean.x[i]) * (values.x[i] - mean.x[i]);
  }
  s.add_up(squares, 1);
  Eight variance = s.group_means(width, 1), scale, shift;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int c = own + i;
    float rstd = 1 / sqrtf(variance.x[i] + a.eps);
    scale.x[i] = rstd * a.w.data[c];
    shift.x[i] = a.b.data[c] - mean.x[i] * scale.x[i];
    if (threadIdx.x < s.pieces && c % width == 0) {
      put(a.mean, s.n, c / width, mean.x[i]);
      put(a.rstd, s.n, c / width, rstd);
    }
  }
  for (int at = s.pixel; at < s.pixels; at += s.stride) {
    Eight y = unpacked(s.own(at)), kept = kept_eight(a.dropout, s.row(at) * a.y.c + own);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float z = y.x[i] * scale.x[i] + shift.x[i];
      y.x[i] = (a.silu ? z * fast_sigmoid(z) : z) * kept.x[i];
    }
    *eight_at(a.y, s.row(at), own) = packed(y);
  }
}

// Slabs of a 32x32 map that fit a multiprocessor side by side, and their registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBackwardBlocks = 2;
#else
constexpr int kBackwardBlocks = 3;
#endif
extern "C" __global__ void __launch_bounds__(kThreads, kBackwardBlocks)
    group_norm_slab_backward_kernel(const __grid_constant__ GroupNormSlabBackward p) {
  begin_kernel();
  const GroupNormBackward& a = p.all;
  Slab s(a.dy, p.width);
  int width = a.dy.c / a.groups, own = s.first + s.column, from = own < a.x0.c ? own : own - a.x0.c;
  const View& of_x = own < a.x0.c ? a.x0 : a.x1;
  Eight rstd, shift, w, b;  // x̂ = x·rstd + shift
  int group = own / width, left = width - own % width;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    rstd.x[i] = at(a.rstd, s.n, group);
    shift.x[i] = -at(a.mean, s.n, group) * rstd.x[i];
    if (--left == 0) left = width, group++;
    w.x[i] = a.w.data[own + i], b.x[i] = a.b.data[own + i];
  }
  Eight db{}, dw{};
  for (int at = s.pixel; at < s.pixels; at += s.stride) {
    Eight x = unpacked(*eight_at(of_x, s.row(at), from)), dz = unpacked(*eight_at(a.dy, s.row(at), own)),
          kept = kept_eight(a.dropout, s.row(at) * a.dy.c + own);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float normalized = x.x[i] * rstd.x[i] + shift.x[i], z = normalized * w.x[i] + b.x[i];
      dz.x[i] *= kept.x[i];
      if (a.silu) {
        float sigma = fast_sigmoid(z);
        dz.x[i] *= sigma * (1 + z * (1 - sigma));
      }
      db.x[i] += dz.x[i];
      dw.x[i] += dz.x[i] * normalized;
    }
    s.own(at) = packed(dz);
  }
  s.add_up(db, 0);
  s.add_up(dw, 1);
  for (int c = threadIdx.x; c < s.channels; c += kThreads) {
    put(a.db, s.n, s.first + c, s.sums[0][c]);
    put(a.dw, s.n, s.first + c, s.sums[1][c]);
  }
  Eight mean = s.group_means(width, 0, a.w.data), product = s.group_means(width, 1, a.w.data);
  const GradView& dx = own < a.x0.c ? a.dx0 : a.dx1;
  if (!dx.t.data) return;
#pragma unroll 2
  for (int at = s.pixel; at < s.pixels; at += s.stride) {
    Eight x = unpacked(*eight_at(of_x, s.row(at), from)), dz = unpacked(s.own(at)), former{};
    uint4* to = eight_at(dx.t, s.row(at), from);
    if (dx.accumulate) former = unpacked(*to);
#pragma unroll
    for (int i = 0; i < 8; i++)
      x.x[i] = former.x[i] + rstd.x[i] * (w.x[i] * dz.x[i] - mean.x[i] - (x.x[i] * rstd.x[i] + shift.x[i]) * product.x[i]);
    *to = packed(x);
  }
}

}  // namespace phx
