// Ampere's instructions, one a function: matrix products of a warp (mma), loads of their operands from shared memory (ldmatrix), and
// asynchronous copies of 16 bytes (cp.async).  PTX ISA 9.0, "Warp-level Matrix Fragments for mma.m16n8k16", "ldmatrix", "cp.async", "bar".
// Lane l of a warp holds, of a 16x8 block of results, c[0], c[1] at (l/4, 2·(l%4) + {0,1}) and c[2], c[3] eight rows below.
#pragma once
#include <cstdint>

namespace phx::sm80 {

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// c (16,8) += a (16,16) · b (16,8): bf16 pairs in a and b, the lower k in the lower half; c in fp32.
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 blocks of 16-bit values: lane l gives the address of row l%8 of block l/8, and gets the values (l/4, 2·(l%4) + {0,1}) of each
// block.
__device__ inline void load_blocks(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
// The same of the blocks' transposes: values (2·(l%4) + {0,1}, l/4).
__device__ inline void load_blocks_transposed(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

__device__ inline uint32_t load_shared(uint32_t from) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
  return word;
}

// The threads that meet at one of barriers 1 to 15; count: a multiple of 32.
__device__ inline void named_barrier(uint32_t id, uint32_t count) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory"); }

// 16 bytes from global to shared memory, or 16 zeros where `inside` is false; then nothing is read, but `global` must be an address all the
// same.
__device__ inline void copy_async(uint32_t shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `Left` of this thread's committed groups are still under way.
template <int Left>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

}  // namespace phx::sm80
