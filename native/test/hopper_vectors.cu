// One instruction a kernel, its operands and results as they lie in memory: what hopper_vectors.cpp holds against layouts written as plain
// loops.
#include "hopper_vectors.h"
#include "kernels/cuda/sm90.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
using namespace phx::sm90;

extern __shared__ __align__(1024) unsigned char memory[];

// A box from the tensor, then the bytes of shared memory.
extern "C" __global__ void __launch_bounds__(128) load_box_kernel(const __grid_constant__ BoxCopy c) {
  uint32_t box = shared_address(memory), full = box + c.bytes;
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(full, c.bytes);
    load_box(box, &c.map, full, c.at[0], c.at[1], c.at[2], c.at[3]);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
  for (uint32_t i = threadIdx.x; i < c.bytes; i += 128) c.image[i] = memory[i];
}
// The bytes to shared memory, then a box of them into the tensor.
extern "C" __global__ void __launch_bounds__(128) store_box_kernel(const __grid_constant__ BoxCopy c) {
  for (uint32_t i = threadIdx.x; i < c.bytes; i += 128) memory[i] = c.image[i];
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x) return;
  store_box(&c.map, shared_address(memory), c.at[0], c.at[1], c.at[2], c.at[3], c.at[4]);
  commit_stores();
  wait_stores();
}

// Four blocks of a warp's registers to shared memory.
extern "C" __global__ void __launch_bounds__(32) store_blocks_kernel(const __grid_constant__ Blocks b) {
  uint32_t values[4];
  for (int i = 0; i < 4; i++) values[i] = b.registers[threadIdx.x * 4 + i];
  store_blocks(shared_address(memory) + b.rows[threadIdx.x], values);
  __syncwarp();
  for (uint32_t i = threadIdx.x; i < 128; i += 32) b.image[i] = reinterpret_cast<const uint32_t*>(memory)[i];
}

// Images of A and B to shared memory, four products of 16 k, then the accumulators as the threads hold them.
template <bool MnMajorA, bool MnMajorB, bool Registers>
__device__ void product(const Product& p) {
  for (uint32_t i = threadIdx.x; i < p.bytes; i += 128) {
    memory[i] = p.a[i];
    memory[p.bytes + i] = p.b[i];
  }
  fence_async_proxy();
  __syncthreads();
  uint32_t a_base = shared_address(memory), b_base = a_base + p.bytes;
  float d[32];
  uint32_t a[4][4];
  if (Registers)
    for (int step = 0; step < 4; step++)
      for (int i = 0; i < 4; i++) a[step][i] = p.a_registers[(step * 128 + int(threadIdx.x)) * 4 + i];
  products_fence();
#pragma unroll
  for (int step = 0; step < 4; step++) {
    uint64_t b = p.b_descriptor | (b_base + p.b_start[step]) >> 4;
    if constexpr (Registers)
      multiply<MnMajorB>(d, a[step], b, step);
    else
      multiply<MnMajorA, MnMajorB>(d, p.a_descriptor | (a_base + p.a_start[step]) >> 4, b, step);
  }
  products_commit();
  products_wait<0>();
  for (int i = 0; i < 32; i++) p.d[threadIdx.x * 32 + i] = d[i];
}
#define PRODUCT(name, ...) \
  extern "C" __global__ void __launch_bounds__(128) name(const __grid_constant__ Product p) { product<__VA_ARGS__>(p); }
PRODUCT(product_k_k_kernel, false, false, false)
PRODUCT(product_k_mn_kernel, false, true, false)
PRODUCT(product_mn_k_kernel, true, false, false)
PRODUCT(product_mn_mn_kernel, true, true, false)
PRODUCT(product_registers_k_kernel, false, false, true)
PRODUCT(product_registers_mn_kernel, false, true, true)
#endif
