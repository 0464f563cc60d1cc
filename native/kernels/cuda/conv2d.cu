// conv2d as products over neighbourhoods that are never formed: ops.h's sum, and its derivatives by gathering.
#include "kernels/cuda/conv2d.cuh"

namespace phx {

struct Pixel {
  int n, i, j;
};
__device__ inline Pixel pixel_of(const View& t, int m) { return {m / (t.w * t.h), m / t.w % t.h, m % t.w}; }

// x at tap (r,s), channel c of output pixel p; 0 outside.
__device__ inline float tap(const View& x, Pixel p, int r, int s, int c, Conv2d a) {
  int h = p.i * a.stride + r - a.pad, w = p.j * a.stride + s - a.pad;
  if (h < 0 || w < 0 || h >= x.h * a.upsample || w >= x.w * a.upsample) return 0;
  return at(x, (size_t(p.n) * x.h + h / a.upsample) * x.w + w / a.upsample, c);
}

// A row per output pixel, a column (r,s,c) of its neighbourhood.
struct Neighbourhoods {
  View y, x;
  Conv2d a;
  __device__ Pixel row(int m) const { return pixel_of(y, m); }
  __device__ float at(Pixel p, int k) const {
    int rs = k / x.c;
    return tap(x, p, rs / 3, rs % 3, k % x.c, a);
  }
};
// Transposed im2col: a row per tap and input channel, a column per output pixel. The row of ones behind them gives the gradient of the
// bias.
struct NeighbourhoodsAcross {
  View y, x;
  Conv2d a;
  struct Column {
    int r, s, c;
  };
  __device__ Column row(int m) const { return {m / x.c / 3, m / x.c % 3, m % x.c}; }
  __device__ float at(Column t, int k) const { return t.r == 3 ? 1 : tap(x, pixel_of(y, k), t.r, t.s, t.c, a); }
};
// A row per input pixel; the columns (u,v,r,s,k) are all ways in which an output's tap (r,s) may read one of its upsampled copies (u,v).
struct Readers {
  View x, dy;
  Conv2d a;
  __device__ Pixel row(int m) const { return pixel_of(x, m); }
  __device__ float at(Pixel p, int k) const {
    int rest = k / dy.c, s = rest % 3, r = rest / 3 % 3, copy = rest / 9;
    int i = p.i * a.upsample + copy / a.upsample + a.pad - r, j = p.j * a.upsample + copy % a.upsample + a.pad - s;
    if (i < 0 || j < 0 || i % a.stride || j % a.stride || i / a.stride >= dy.h || j / a.stride >= dy.w) return 0;
    return phx::at(dy, (size_t(p.n) * dy.h + i / a.stride) * dy.w + j / a.stride, k % dy.c);
  }
};
// A row per input channel, the columns those of Readers.
struct ReadersWeights {
  View w;
  __device__ int row(int c) const { return c; }
  __device__ float at(int c, int k) const { return phx::at(w, size_t(k % w.n) * 9 + k / w.n % 9, c); }
};
struct Filters {
  View w;
  __device__ int row(int k) const { return k; }
  __device__ float at(int k, int rsc) const { return value(w, size_t(k) * 9 * w.c + rsc); }
};
struct OutputChannels {
  View dy;
  __device__ int row(int k) const { return k; }
  __device__ float at(int k, int pixel) const { return phx::at(dy, pixel, k); }
};

extern "C" __global__ void __launch_bounds__(kThreads) conv2d_forward_kernel(ConvForward f) {
  begin_kernel();
  product(f.size, Neighbourhoods{f.y, f.x, f.attributes}, Filters{f.w}, [&](int, int m, int k, float sum) {
    sum += f.b.data[k];
    if (f.temb.data) sum += at(f.temb, m / (f.y.h * f.y.w), k);
    if (f.residual.data) sum += at(f.residual, m, k);
    put(f.y, m, k, sum);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) conv2d_input_gradient_kernel(ConvInputGradient g) {
  begin_kernel();
  product(g.size, Readers{g.dx.t, g.dy, g.attributes}, ReadersWeights{g.w}, [&](int, int m, int c, float sum) { write(g.dx, m, c, sum); });
}

extern "C" __global__ void __launch_bounds__(kThreads) conv2d_weight_gradient_kernel(ConvWeightGradient g) {
  begin_kernel();
  product(g.size, OutputChannels{g.dy}, NeighbourhoodsAcross{g.dy, g.x, g.attributes},
          [&](int range, int m, int n, float sum) { put_part(g.parts, range, g.size.m, 9 * g.x.c, m, n, sum); });
}

// ---- an enlargement in the weights

// Whether tap t of a side is in sum p.
__device__ constexpr bool in_sum(int p, int t) { return p == 0 ? t == 0 : p == 1 ? t > 0 : p == 2 ? t < 2 : t == 2; }

// A thread a folded weight.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_fold_kernel(ConvFold f) {
  begin_kernel();
  size_t i = thread_index(), row = i / f.w.c, k = row / (kFolded * kFolded);
  int c = int(i % f.w.c), p = int(row / kFolded % kFolded), q = int(row % kFolded);
  if (i >= elements(f.folded)) return;
  float sum = 0;
#pragma unroll
  for (int t = 0; t < 9; t++)
    if (in_sum(p, t / 3) && in_sum(q, t % 3)) sum += at(f.w, k * 9 + t, c);
  put(f.folded, row, c, sum);
}

// A thread per weight.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_unfold_kernel(ConvUnfold u) {
  begin_kernel();
  size_t i = thread_index(), row = i / u.dw.c;
  int c = int(i % u.dw.c), t = int(row % 9);
  if (i >= elements(u.dw)) return;
  size_t filter = size_t(kFolded) * kFolded * u.dw.c;
  const float* of_k = u.parts + row / 9 * filter + c;
  float sum = 0;
  for (int range = 0; range < u.ranges; range++, of_k += u.dw.n * filter)
    for (int p = 0; p < kFolded; p++)
      for (int q = 0; q < kFolded; q++)
        if (in_sum(p, t / 3) && in_sum(q, t % 3)) sum += of_k[(p * kFolded + q) * u.dw.c];
  put(u.dw, row, c, sum);
}

}  // namespace phx
