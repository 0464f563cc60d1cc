// The parameter vector's arithmetic, a thread per element; sums in double, a block of threads for kSumBlock values, added up in order on
// the host.
#include "kernels/cuda/vector.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) convert_kernel(ElementUpdate u) {
  begin_kernel();
  size_t e = thread_index();
  if (e < elements(u.y)) put(u.y, e, value(u.x, e));
}

extern "C" __global__ void __launch_bounds__(kThreads) add_kernel(ElementUpdate u) {
  begin_kernel();
  size_t e = thread_index();
  if (e < elements(u.y)) put(u.y, e, value(u.y, e) + value(u.x, e));
}

// The same for eight at a time.
extern "C" __global__ void __launch_bounds__(kThreads) add_eights_kernel(ElementUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i >= elements(u.y) / 8) return;
  uint4* to = reinterpret_cast<uint4*>(u.y.data) + i;
  Eight y = unpacked(*to), x = unpacked(reinterpret_cast<const uint4*>(u.x.data)[i]);
#pragma unroll
  for (int k = 0; k < 8; k++) y.x[k] += x.x[k];
  *to = packed(y);
}

extern "C" __global__ void __launch_bounds__(kThreads) axpy_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] += u.a * u.x[i];
}

extern "C" __global__ void __launch_bounds__(kThreads) scale_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] *= u.a;
}

extern "C" __global__ void __launch_bounds__(kThreads) subtract_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] = u.x[i] - u.z[i];
}

extern "C" __global__ void __launch_bounds__(kThreads) round_bf16_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] = bf16_value(bf16_bits(u.x[i]));
}

extern "C" __global__ void __launch_bounds__(kThreads) interpolate_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] += u.a * (u.x[i] - u.y[i]);
}

extern "C" __global__ void __launch_bounds__(kThreads) proximal_kernel(VectorUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i < u.count) u.y[i] += u.a * (u.x[i] - u.z[i]);
}

extern "C" __global__ void __launch_bounds__(kThreads) dot_kernel(VectorSum s) {
  begin_kernel();
  double sum = 0;  // the product of two floats is exact in double
  size_t first = blockIdx.x * kSumBlock, end = min(s.count, first + kSumBlock);
  for (size_t i = first + threadIdx.x; i < end; i += kThreads) sum += double(s.a[i]) * double(s.b[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) s.partial[blockIdx.x] = sum;
}

// Counts what is not finite.
extern "C" __global__ void __launch_bounds__(kThreads) all_finite_kernel(VectorSum s) {
  begin_kernel();
  double bad = 0;
  size_t first = blockIdx.x * kSumBlock, end = min(s.count, first + kSumBlock);
  for (size_t i = first + threadIdx.x; i < end; i += kThreads) bad += !isfinite(s.a[i]);
  bad = block_sum(bad);
  if (threadIdx.x == 0) s.partial[blockIdx.x] = bad;
}

extern "C" __global__ void __launch_bounds__(kThreads) server_step_kernel(ServerUpdate u) {
  begin_kernel();
  size_t i = thread_index();
  if (i >= u.count) return;
  float d = u.delta[i];
  if (u.kind == ServerKind::momentum) {
    u.m[i] = u.beta1 * u.m[i] + d;
    u.p[i] += u.lr * u.m[i];
    return;
  }
  float square = d * d, m = u.m[i] + u.rest1 * (d - u.m[i]), v = u.v[i];
  if (u.kind == ServerKind::adam)
    v += u.rest2 * (square - v);
  else
    v += u.rest2 * (v > square ? -square : v < square ? square : 0);
  u.m[i] = m;
  u.v[i] = v;
  u.p[i] += u.lr * m / (sqrtf(v) + u.tau);
}

}  // namespace phx
