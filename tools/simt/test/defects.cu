// Kernels that are right (defect 0) and the same with one seeded defect each: the self-test of the checker. Every defect must be reported.
#include <cuda.h>
#include <cstdint>
#include "kernels/cuda/sm90.cuh"

using phx::sm90::shared_address;
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
  return v;
}

// y[0] += sum of x over the grid's blocks of 256.
template <int Defect>
__device__ void block_sum(const float* x, float* y) {
  __shared__ float part[8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float s = warp_sum(x[blockIdx.x * 256 + threadIdx.x]);
  if (lane == 0) part[warp] = s;
  if (Defect != 1) __syncthreads();              // 1: the barrier is missing
  if (Defect == 2 && warp < 4) __syncthreads();  // 2: a barrier that half of the block reaches
  if (warp) return;
  s = lane < (Defect == 3 ? 9 : 8) ? part[lane] : 0.f;  // 3: one element too far in a shared array
  if (Defect == 4) {
    if (lane < 16) s = warp_sum(s);  // 4: a full mask in half a warp
  } else {
    s = warp_sum(s);
  }
  if (lane) return;
  if (Defect == 5)
    *y += s;  // 5: blocks race in global memory
  else
    atomicAdd(y, s);
}
// One warp reverses 32 values.
template <int Defect>
__device__ void reverse(const float* x, float* y) {
  __shared__ float s[32];
  const int lane = threadIdx.x;
  if (Defect != 7 || lane < 31) s[lane] = x[lane + (Defect == 8 ? 1 : 0)];   // 7: uninitialised shared; 8: global overrun
  if (Defect != 6) __syncwarp();                                             // 6: the warp's barrier is missing
  y[Defect == 9 ? 0 : lane] = s[31 - lane];                                  // 9: threads race in global memory
  if (Defect == 10) *reinterpret_cast<float2*>(y + 1 + lane / 32) = {0, 0};  // 10: misaligned
}
// 128 threads copy 128 float4 through shared memory with cp.async.
template <int Defect>
__device__ void staged_copy(const float4* x, float4* y) {
  __shared__ __align__(16) float4 stage[128];
  const int t = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&stage[t])), "l"(x + t) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (Defect != 11) asm volatile("cp.async.wait_group %0;" ::"n"(Defect == 12 ? 1 : 0) : "memory");  // 11: no wait; 12: too short a wait
  if (Defect != 13) __syncthreads();  // 13: others' copies are read unordered
  y[t] = stage[127 - t];
  if (Defect == 11) asm volatile("cp.async.wait_group 0;" ::: "memory");
}

extern "C" {
#define SUM(n) \
  __global__ void __launch_bounds__(256) block_sum_##n(const float* x, float* y) { block_sum<n>(x, y); }
#define REVERSE(n) \
  __global__ void __launch_bounds__(32) reverse_##n(const float* x, float* y) { reverse<n>(x, y); }
#define COPY(n) \
  __global__ void __launch_bounds__(128) staged_copy_##n(const float4* x, float4* y) { staged_copy<n>(x, y); }
// clang-format off
SUM(0) SUM(1) SUM(2) SUM(3) SUM(4) SUM(5)
REVERSE(0) REVERSE(6) REVERSE(7) REVERSE(8) REVERSE(9) REVERSE(10)
COPY(0) COPY(11) COPY(12) COPY(13)
// clang-format on
}

#if __CUDA_ARCH__ >= 900
// TMA brings a 32x32 float tile, the block adds 1, TMA stores it.
template <int Defect>
__device__ void tile_add(const CUtensorMap* in, const CUtensorMap* out) {
  extern __shared__ __align__(1024) unsigned char memory[];
  float* tile = reinterpret_cast<float*>(memory);
  const uint32_t full = shared_address(memory + 4096), stage = shared_address(tile);
  if (threadIdx.x == 0) {
    if (Defect != 14) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full) : "memory");  // 14: never initialised
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (Defect != 15) __syncthreads();  // 15: waited for before it is initialised
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(Defect == 16 ? 2048 : 4096)
                 : "memory");  // 16: wrong count
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(stage),
        "l"(in), "r"(full), "r"(0), "r"(0)
        : "memory");
  }
  if (Defect != 17)  // 17: read before the copy arrived
    asm volatile(
        "{\n.reg .pred p;\nWAIT_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@p bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::
            "r"(full)
        : "memory");
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) tile[i] += 1.f;
  if (Defect != 18) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // 18: the async proxy may miss the writes
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(out), "r"(stage), "r"(0), "r"(0)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    if (Defect != 19) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");  // 19: the store is not waited for
  }
}
// D (64x64, as the threads hold it) = A (64 x 256) B^T (64 x 256), by a warp that copies and a warpgroup that multiplies, in two stages.
template <int Defect>
__device__ void pipeline(const phx::TensorMap* a, const phx::TensorMap* b, float* d) {
  using namespace phx::sm90;
  constexpr uint32_t kTile = 8192, kStage = 2 * kTile, kSteps = 4;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t base = shared_address(memory), full = base + 2 * kStage, empty = full + 16;
  if (threadIdx.x == 0) {
    for (uint32_t s = 0; s < 2; ++s) {
      mbarrier_init(full + 8 * s, 1);
      mbarrier_init(empty + 8 * s, Defect == 27 ? 2 : 1);  // 27: one arrival more than ever comes
    }
    if (Defect != 28) mbarrier_init_fence();  // 28: the copy engine may not know the mbarriers
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x > 128) return;
    for (uint32_t step = 0; step < kSteps; ++step) {
      const uint32_t s = step % 2, stage = base + s * kStage;
      if (Defect != 20) mbarrier_wait(empty + 8 * s, step / 2 % 2 ^ 1);  // 20: the stage may still be read
      mbarrier_arrive_expect(full + 8 * s, kStage);
      load_box(stage, a, full + 8 * s, int(step) * 64, 0, 0);
      load_box(stage + kTile, b, full + 8 * s, int(step) * 64, 0, 0);
    }
    return;
  }
  float sums[32];
  for (uint32_t step = 0; step < kSteps; ++step) {
    const uint32_t s = step % 2, stage = base + s * kStage + (Defect == 24 ? 512 : 0);  // 24: not where the swizzle's pattern begins
    if (Defect != 22) mbarrier_wait(full + 8 * s, step / 2 % 2);                        // 22: the copies may not have arrived
    if (Defect == 25) {  // 25: the threads' own writes, without a fence for the tensor cores
      volatile unsigned char* byte = memory + s * kStage + threadIdx.x * 64;
      *byte = *byte;
      named_barrier(1, 128);
    }
    if (Defect != 23) products_fence();  // 23: the accumulators may still be written
    for (uint32_t k = 0; k < 4; ++k)
      multiply<false, false>(sums, operand(stage, 16) + 2 * k, operand(stage + kTile, 16) + 2 * k, int(step + k));
    products_commit();
    if (Defect == 21 && threadIdx.x == 0) mbarrier_arrive(empty + 8 * s);  // 21: released while it is read
    if (Defect != 26) products_wait<0>();                                  // 26: nobody waits
    if (Defect != 21 && threadIdx.x == 0) mbarrier_arrive(empty + 8 * s);
  }
  for (int i = 0; i < 32; ++i) d[threadIdx.x * 32 + i] = sums[i];
}
// Two blocks of a cluster copy half of a 32x32 float tile each, to both, twice through one stage; thread t of each block adds up what it
// reads.
template <int Defect>
__device__ void multicast(const phx::TensorMap* in, float* sums) {
  using namespace phx::sm90;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t stage = shared_address(memory), full = stage + 4096, empty = full + 8, rank = cluster_rank();
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init(empty, 2);
    mbarrier_init_fence();
  }
  if (Defect == 29)
    __syncthreads();  // 29: the other block's mbarriers may not be there yet
  else
    cluster_barrier();
  float sum = 0;
  for (uint32_t step = 0; step < 2; ++step) {
    if (threadIdx.x == 0) {
      mbarrier_wait(empty, step & 1 ^ 1);
      mbarrier_arrive_expect(full, 4096);
      const uint16_t mask = Defect == 31 ? uint16_t(1 << rank) : uint16_t(3);  // 31: to itself alone
      multicast_box(stage + rank * 2048, in, full, mask, 0, int(rank) * 16, 0);
    }
    mbarrier_wait(full, step & 1);
    for (uint32_t i = threadIdx.x; i < 1024; i += 128) sum += reinterpret_cast<const float*>(memory)[i];
    __syncthreads();
    if (Defect == 32 && threadIdx.x == 0) {  // 32: the block's own stage is free, the other's may be read yet
      mbarrier_arrive(empty);
      mbarrier_arrive(empty);
    }
    if (Defect != 32 && threadIdx.x < 2) mbarrier_arrive_at(empty, Defect == 33 ? rank : threadIdx.x);  // 33: the same by address
  }
  sums[blockIdx.x * 128 + threadIdx.x] = sum;
  if (Defect == 30 && rank == 0) return;  // 30: gone while the other may still arrive here
  if (Defect != 30) cluster_barrier();
  if (Defect == 30 && threadIdx.x == 0) mbarrier_arrive_at(empty, 0);
}
// D (64x64) = 4·A (64 x 16) B^T (64 x 16) of ones and of a's rows, A through registers that each step loads anew.
template <int Defect>
__device__ void registers(const uint32_t* a, float* d) {
  using namespace phx::sm90;
  extern __shared__ __align__(1024) unsigned char memory[];
  for (uint32_t i = threadIdx.x; i < 2048; i += 128) reinterpret_cast<uint32_t*>(memory)[i] = 0x3F803F80;  // two ones in bf16
  fence_async_proxy();
  __syncthreads();
  float sums[32];
#pragma unroll 1
  for (int step = 0; step < 4; ++step) {
    uint32_t of_a[4];
    for (int i = 0; i < 4; ++i) of_a[i] = a[(step * 128 + threadIdx.x) * 4 + i];
    products_fence();
    multiply<false>(sums, of_a, operand(shared_address(memory), 16), step);
    products_commit();
    if (Defect != 35) products_wait<0>();  // 35: the next step's A over that of a product under way
  }
  products_wait<0>();
  for (int i = 0; i < 32; ++i) d[threadIdx.x * 32 + i] = sums[i];
}
// Doubles, in a launch that may begin before the former one ends.
template <int Defect>
__device__ void twice(const float* x, float* y) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  float early = Defect == 34 ? x[i] : 0;  // 34: what the former launch may still write
  asm volatile("griddepcontrol.wait;" ::: "memory");
  y[i] = 2 * (Defect == 34 ? early : x[i]);
}
extern "C" {
#define TWICE(n) \
  __global__ void __launch_bounds__(32) twice_##n(const float* x, float* y) { twice<n>(x, y); }
#define TILE(n)                                                                                                                          \
  __global__ void __launch_bounds__(128) tile_add_##n(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out) { \
    tile_add<n>(&in, &out);                                                                                                              \
  }
#define REGISTERS(n) \
  __global__ void __launch_bounds__(128) registers_##n(const uint32_t* a, float* d) { registers<n>(a, d); }
#define MULTICAST(n) \
  __global__ void __launch_bounds__(128) multicast_##n(const __grid_constant__ phx::TensorMap in, float* sums) { multicast<n>(&in, sums); }
#define PIPELINE(n)                                                                                                \
  __global__ void __launch_bounds__(160)                                                                           \
      pipeline_##n(const __grid_constant__ phx::TensorMap a, const __grid_constant__ phx::TensorMap b, float* d) { \
    pipeline<n>(&a, &b, d);                                                                                        \
  }
// clang-format off
TILE(0) TILE(14) TILE(15) TILE(16) TILE(17) TILE(18) TILE(19)
TWICE(0) TWICE(34)
REGISTERS(0) REGISTERS(35)
MULTICAST(0) MULTICAST(29) MULTICAST(30) MULTICAST(31) MULTICAST(32) MULTICAST(33)
PIPELINE(0) PIPELINE(20) PIPELINE(21) PIPELINE(22) PIPELINE(23) PIPELINE(24) PIPELINE(25) PIPELINE(26) PIPELINE(27) PIPELINE(28)
// clang-format on
}
#endif
