// Hopper's instructions (sm_90a), one a function: mbarriers, tensor copies (TMA) and warpgroup products (wgmma). PTX ISA 9.0, "Asynchronous
// Warpgroup Level Matrix", "Data Movement: Tensor copy", "Parallel Synchronization: mbarrier". Shared-memory addresses are 32-bit offsets.
#pragma once
#include <cstdint>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/sm80.cuh"

namespace phx::sm90 {

using sm80::named_barrier;
using sm80::shared_address;

// ---- barriers

__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised mbarriers known to the async proxy; a barrier of the block's threads follows.
__device__ inline void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and lets the phase wait for so many bytes of tensor copies.
__device__ inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the phase of this parity has completed. A fresh mbarrier's phase is 0, so parity 1 passes at once.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nWAIT_%=:\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%0], %1;\n@p bra DONE_%=;\nbra "
      "WAIT_%=;\nDONE_%=:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// What this thread wrote to shared memory becomes visible to tensor copies and wgmma.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- clusters: blocks that run together and reach each other's shared memory

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of the cluster meet.
__device__ inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
// The barrier at the same place in the block of that rank. It tells that wgmma has read a stage, which the caller has waited for, and
// nothing else: a release to the whole cluster would be a fence of the whole GPU in front of each.
__device__ inline void mbarrier_arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// ---- registers: by all warps of a warpgroup; counts are multiples of 8, and the block's sum stays what it was at launch

template <int Count>
__device__ inline void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

// ---- tensor copies; coordinates are signed, innermost first; what lies outside of the tensor is read as 0 and not written

__device__ inline void prefetch_map(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ inline void load_box(uint32_t shared, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
// To the same place in each block of the mask, whose own barrier is told.
__device__ inline void multicast_box(uint32_t shared, const TensorMap* map, uint32_t barrier, uint16_t mask, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5, %6}], [%2], "
      "%3;" ::"r"(shared),
      "l"(map), "r"(barrier), "h"(mask), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ inline void load_box(uint32_t shared, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ inline void multicast_box(uint32_t shared, const TensorMap* map, uint32_t barrier, uint16_t mask, int c0, int c1, int c2,
                                     int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5, %6, %7}], "
      "[%2], "
      "%3;" ::"r"(shared),
      "l"(map), "r"(barrier), "h"(mask), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ inline void load_box(uint32_t shared, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(
          shared),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ inline void store_box(const TensorMap* map, uint32_t shared, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(shared),
               "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's stores have read their shared memory.
__device__ inline void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
// Until they are done.
__device__ inline void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- warpgroup products: D (64 x N, fp32, registers) (+)= A (64 x 16) B (16 x N), bf16, by 4 warps whose first is a multiple of 4.
// Thread t of the warpgroup holds, for i < N/2, D[t/32*16 + t%32/4 + i/2%2*8][i/4*8 + t%4*2 + i%2].

// An operand in 128-byte swizzle that starts on a multiple of 1024 bytes. K-major: rows of 64 k, 8 rows in 1024 bytes. MN-major: rows of 64
// m (or n), a row a k; `block` bytes from one 64 m to the next. 16 k further are 32 bytes further in the first case and 2048 in the second.
__device__ inline uint64_t operand(uint32_t shared, uint32_t block) {
  constexpr uint64_t kSwizzle128 = 1ull << 62, kEightRows = uint64_t(1024 >> 4) << 32;
  return kSwizzle128 | kEightRows | uint64_t((block & 0x3FFFF) >> 4) << 16 | (shared & 0x3FFFF) >> 4;
}
// Four 8x8 blocks of 16-bit values to shared memory, as ldmatrix reads them: lane l gives the address of row l%8 of block l/8.
__device__ inline void store_blocks(uint32_t row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most Pending groups are under way.
template <int Pending>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// clang-format off
#define PHOENIX_D0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PHOENIX_D1 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PHOENIX_D2 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define PHOENIX_D3 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PHOENIX_F8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define PHOENIX_F32(i) PHOENIX_F8(i), PHOENIX_F8(i + 8), PHOENIX_F8(i + 16), PHOENIX_F8(i + 24)
#define PHOENIX_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
// Operands after the accumulators: a, b, accumulate, and which of a and b are MN-major, where they come from shared memory.
#define PHOENIX_WGMMA(shape, registers, a, b, p, mn_major)                                                     \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\nwgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" registers "}, " a ", " b \
  ", p, 1, 1, " mn_major ";\n}"
// clang-format on

// A small operand of eight n and 16 k, without swizzle: two blocks of 8 rows of 8 k, side by side.
__device__ inline uint64_t small_operand(uint32_t shared) {
  constexpr uint64_t kBlocks = uint64_t(128 >> 4);
  return kBlocks << 32 | kBlocks << 16 | (shared & 0x3FFFF) >> 4;
}

// accumulate 0: D is overwritten.
template <bool MnMajorA, bool MnMajorB>
__device__ inline void multiply(float (&d)[4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n8k16", "%0,%1,%2,%3", "%4", "%5", "%6", "%7, %8")
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(a), "l"(b), "r"(accumulate), "n"(int(MnMajorA)), "n"(int(MnMajorB)));
}
template <bool MnMajorA, bool MnMajorB>
__device__ inline void multiply(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n64k16", PHOENIX_D0, "%32", "%33", "%34", "%35, %36")
               : PHOENIX_F32(0)
               : "l"(a), "l"(b), "r"(accumulate), "n"(int(MnMajorA)), "n"(int(MnMajorB)));
}
template <bool MnMajorA, bool MnMajorB>
__device__ inline void multiply(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n128k16", PHOENIX_D0 "," PHOENIX_D1, "%64", "%65", "%66", "%67, %68")
               : PHOENIX_F32(0), PHOENIX_F32(32)
               : "l"(a), "l"(b), "r"(accumulate), "n"(int(MnMajorA)), "n"(int(MnMajorB)));
}
template <bool MnMajorA, bool MnMajorB>
__device__ inline void multiply(float (&d)[96], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n192k16", PHOENIX_D0 "," PHOENIX_D1 "," PHOENIX_D2, "%96", "%97", "%98", "%99, %100")
               : PHOENIX_F32(0), PHOENIX_F32(32), PHOENIX_F32(64)
               : "l"(a), "l"(b), "r"(accumulate), "n"(int(MnMajorA)), "n"(int(MnMajorB)));
}
template <bool MnMajorA, bool MnMajorB>
__device__ inline void multiply(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n256k16", PHOENIX_D0 "," PHOENIX_D1 "," PHOENIX_D2 "," PHOENIX_D3, "%128", "%129", "%130", "%131, %132")
               : PHOENIX_F32(0), PHOENIX_F32(32), PHOENIX_F32(64), PHOENIX_F32(96)
               : "l"(a), "l"(b), "r"(accumulate), "n"(int(MnMajorA)), "n"(int(MnMajorB)));
}

// A from registers: what lane l of warp w holds is its part of the 16 x 16 block of rows from 16·w on, as load_blocks (sm80.cuh) gives it.
// They must be left alone until the products have been waited for.
template <bool MnMajorB>
__device__ inline void multiply(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n64k16", PHOENIX_D0, "{%32,%33,%34,%35}", "%36", "%37", "%38")
               : PHOENIX_F32(0)
               : PHOENIX_A, "l"(b), "r"(accumulate), "n"(int(MnMajorB)));
}
template <bool MnMajorB>
__device__ inline void multiply(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(PHOENIX_WGMMA("m64n128k16", PHOENIX_D0 "," PHOENIX_D1, "{%64,%65,%66,%67}", "%68", "%69", "%70")
               : PHOENIX_F32(0), PHOENIX_F32(32)
               : PHOENIX_A, "l"(b), "r"(accumulate), "n"(int(MnMajorB)));
}
template <bool MnMajorB>
__device__ inline void multiply(float (&d)[128], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      PHOENIX_WGMMA("m64n256k16", PHOENIX_D0 "," PHOENIX_D1 "," PHOENIX_D2 "," PHOENIX_D3, "{%128,%129,%130,%131}", "%132", "%133", "%134")
      : PHOENIX_F32(0), PHOENIX_F32(32), PHOENIX_F32(64), PHOENIX_F32(96)
      : PHOENIX_A, "l"(b), "r"(accumulate), "n"(int(MnMajorB)));
}

}  // namespace phx::sm90
