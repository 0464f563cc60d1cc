// Tensor cores and asynchronous copies: cp.async and mma (sm_80), mbarrier, TMA and wgmma (sm_90). Collective functions are called by every
// lane of the warp (or warpgroup). Layouts and rules: PTX ISA 9.0, "Warp Level Matrix", "Data Movement", "Parallel Synchronization".
#pragma once
#include <cuda.h>
#include "memory.h"

namespace phoenix::simt {

// ---- sm_80
void cp_async(void* shared, const void* global, uint32_t read_bytes, uint32_t bytes, Loc loc);  // the rest of `bytes` is zeroed
void cp_async_commit();
void cp_async_wait(int pending_groups);
void ldmatrix(uint32_t* registers, const void* row, int matrices, bool transposed, Loc loc);
void stmatrix(const uint32_t* registers, void* row, int matrices, bool transposed, Loc loc);
enum class Half { F16, Bf16 };
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Half type, Loc loc);
float half_to_float(uint32_t bits, Half type);

// ---- mbarrier (64 bits of shared memory)
void mbarrier_init(uint64_t* barrier, uint32_t count, Loc loc);
void mbarrier_invalidate(uint64_t* barrier, Loc loc);
void mbarrier_arrive(uint64_t* barrier, uint32_t count, uint32_t expected_bytes, Loc loc);
void mbarrier_expect(uint64_t* barrier, uint32_t expected_bytes, Loc loc);
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Loc loc);
uint32_t mbarrier_slot(uint64_t* barrier, const char* what, Loc loc);          // its agent
uint32_t mbarrier_slot_of_copy(uint64_t* barrier, const char* what, Loc loc);  // the same, and it must be known to the async proxy
void mbarrier_announce();                                                      // the running thread's mbarriers, by a fence
void mbarrier_complete(uint32_t slot, uint32_t bytes, const Clock& clock);     // a copy has arrived

// ---- TMA. coordinates: `rank` of them; offsets: im2col offsets or null for a tile
void tma_load(void* shared, const CUtensorMap* map, uint64_t* barrier, const int* coordinates, int rank, const uint16_t* offsets, Loc loc);
void tma_store(const CUtensorMap* map, const void* shared, const int* coordinates, int rank, Loc loc);
void tma_store_commit();
void tma_store_wait(int pending_groups);
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, uint32_t rank, void* base, const cuuint64_t* dims,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle);
CUresult encode_im2col(CUtensorMap* map, CUtensorMapDataType type, uint32_t rank, void* base, const cuuint64_t* dims,
                       const cuuint64_t* strides, const int* lower, const int* upper, cuuint32_t channels, cuuint32_t pixels,
                       const cuuint32_t* element_strides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle);

// ---- wgmma m64nNk16, bf16 or f16 operands, f32 accumulators d[n/2]. a_registers: operand A from 4 registers, or null: from descriptor_a
void wgmma_fence();
void wgmma(float* d, int n, const uint32_t* a_registers, uint64_t descriptor_a, uint64_t descriptor_b, bool accumulate, bool transposed_a,
           bool transposed_b, Half type, Loc loc);
void wgmma_hold(const uint64_t* const (&slots)[4], Loc loc);  // the registers of A of the product just issued; by every thread
void wgmma_commit();
void wgmma_wait(int pending_groups, Loc loc);

// ---- called by the scheduler
void async_thread_end();  // the running thread exits
void async_block_begin();
void async_block_end();

}  // namespace phoenix::simt
