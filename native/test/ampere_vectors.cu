// One instruction a kernel, its operands and results as they lie in memory: what ampere_vectors.cpp holds against layouts written as plain
// loops.
#include "ampere_vectors.h"

#include "kernels/cuda/sm80.cuh"

using namespace phx::sm80;

extern "C" __global__ void __launch_bounds__(32) warp_product_kernel(WarpProduct p) {
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; i++) a[i] = p.a[threadIdx.x * 4 + i], d[i] = p.c[threadIdx.x * 4 + i];
  for (int i = 0; i < 2; i++) b[i] = p.b[threadIdx.x * 2 + i];
  mma(d, a, b);
  for (int i = 0; i < 4; i++) p.d[threadIdx.x * 4 + i] = d[i];
}

template <bool kTransposed>
__device__ void loaded_blocks(LoadedBlocks p) {
  __shared__ __align__(16) unsigned char memory[512];
  for (int i = threadIdx.x; i < 512; i += 32) memory[i] = p.image[i];
  __syncthreads();
  uint32_t r[4], row = shared_address(memory) + p.rows[threadIdx.x];
  if (kTransposed)
    load_blocks_transposed(r, row);
  else
    load_blocks(r, row);
  for (int i = 0; i < 4; i++) p.out[threadIdx.x * 4 + i] = r[i];
}
extern "C" __global__ void __launch_bounds__(32) load_blocks_kernel(LoadedBlocks p) { loaded_blocks<false>(p); }
extern "C" __global__ void __launch_bounds__(32) load_blocks_transposed_kernel(LoadedBlocks p) { loaded_blocks<true>(p); }

extern "C" __global__ void __launch_bounds__(32) copy_async_kernel(CopiedPieces p) {
  __shared__ __align__(16) unsigned char memory[512];
  for (int i = threadIdx.x; i < 512; i += 32) memory[i] = 0xAB;
  __syncthreads();
  copy_async(shared_address(memory) + threadIdx.x * 16, p.from + threadIdx.x * 16, p.inside[threadIdx.x]);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  for (int i = threadIdx.x; i < 512; i += 32) p.out[i] = memory[i];
}
