// Sums over rows: a block for 32 columns of a segment, each warp a row in eight, then the eight in order.
#include "reduce.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) row_sums_kernel(RowSums a) {
  __shared__ float parts[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.y * 32 + lane;
  size_t first = blockIdx.x * a.rows, end = min(a.all, first + a.rows);
  float sum = 0;
  if (c < a.x.c)
    for (size_t row = first + warp; row < end; row += 8) sum += at(a.x, row, c);
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && c < a.x.c) {
    for (int i = 1; i < 8; i++) sum += parts[i][lane];
    put(a.out, blockIdx.x, c, sum);
  }
}

}  // namespace phx
