// Sums over rows, each in a fixed order.
#include "kernels/cuda/runtime/reductions.cuh"

namespace phx {

// Of the warps that share 32 columns each adds up every `warps`-th of `rows` rows, then the first adds the others' sums in order. For all
// threads of a block; `from(row)` is column c's value, and only where `inside`. The result is the first warp's.
template <class From>
__device__ float sum_rows(size_t rows, int warps, bool inside, From from) {
  __shared__ float parts[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = 0;
  if (inside) {
    constexpr int kAtOnce = 8;  // are read before they are added, in the rows' order
    size_t row = warp % warps;
    for (; row + (kAtOnce - 1) * warps < rows; row += kAtOnce * warps) {
      float values[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) values[i] = from(row + size_t(i) * warps);
#pragma unroll
      for (float value : values) sum += value;
    }
    for (; row < rows; row += warps) sum += from(row);
  }
  if (warps == 1) return sum;
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp == 0)
    for (int i = 1; i < 8; i++) sum += parts[i][lane];
  return sum;
}

// A block for 32 columns of a segment.
extern "C" __global__ void __launch_bounds__(kThreads) row_sums_kernel(RowSums a) {
  begin_kernel();
  int c = blockIdx.y * 32 + threadIdx.x % 32;
  size_t first = blockIdx.x * a.rows, end = min(a.all, first + a.rows);
  bool inside = c < a.x.c;
  float sum = sum_rows(end - first, 8, inside, [&](size_t row) { return at(a.x, first + row, c); });
  if (inside && threadIdx.x < 32) put(a.out, blockIdx.x, c, sum);
}

// The same for 64 columns of bf16 pieces: a thread has 8 columns of every 32nd row.
extern "C" __global__ void __launch_bounds__(kThreads) row_sums_eights_kernel(RowSums a) {
  begin_kernel();
  constexpr int kLines = kThreads / 8;
  __shared__ float parts[kLines][64 + 1];
  int piece = int(threadIdx.x) % 8 * 8, line = int(threadIdx.x) / 8, first_column = int(blockIdx.y) * 64;
  size_t first = blockIdx.x * a.rows, end = min(a.all, first + a.rows);
  Eight sums{};
  if (first_column + piece < a.x.c)
#pragma unroll 4
    for (size_t row = first + line; row < end; row += kLines) {
      Eight x = unpacked(*eight_at(a.x, row, first_column + piece));
#pragma unroll
      for (int i = 0; i < 8; i++) sums.x[i] += x.x[i];
    }
#pragma unroll
  for (int i = 0; i < 8; i++) parts[line][piece + i] = sums.x[i];
  __syncthreads();
  int c = int(threadIdx.x);
  if (c >= 64 || first_column + c >= a.x.c) return;
  float sum = 0;
  for (const auto& part : parts) sum += part[c];
  put(a.out, blockIdx.x, first_column + c, sum);
}

// A block for 32 columns of a sum, or for 256.
extern "C" __global__ void __launch_bounds__(kThreads) sums_kernel(const __grid_constant__ Sums a) {
  begin_kernel();
  int i = 0;
  while (i + 1 < a.count && blockIdx.x >= a.sum[i + 1].first_block) i++;
  const Sum& s = a.sum[i];
  unsigned warps = sum_warps(s.rows), threads = kThreads / warps, c = (blockIdx.x - s.first_block) * threads + threadIdx.x % threads;
  bool inside = c < s.columns;
  float sum = sum_rows(s.rows, int(warps), inside, [&](size_t row) { return s.x[row * s.columns + c]; });
  if (inside && threadIdx.x < threads) s.out[c] = sum;
}

}  // namespace phx
