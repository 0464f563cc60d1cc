// Device and shared memory, and the checker that watches every access to them: bounds, initialisation, races, asynchronous copies.
//
// Races are found as FastTrack does (Flanagan & Freund, PLDI 2009): a shadow cell per byte holds the last write and the reads since;
// threads carry vector clocks that __syncwarp, named barriers and mbarriers join. A full __syncthreads opens a new epoch, before which
// accesses of this block are ordered. Any two blocks of one launch are unordered. The asynchronous engines (TMA, wgmma) are further agents
// whose accesses stay unordered, across __syncthreads too, until their mbarrier or wait_group has been waited for.
#pragma once
#include <cstddef>
#include "engine.h"

namespace phoenix::simt {

extern unsigned char* shared_base;  // the running cluster's shared memory, a window of kSharedArena for each block; 1024-byte aligned

// ---- device memory: fresh memory holds NaN; freed addresses stay dead until the heap runs out of new ones
void* device_alloc(size_t bytes);                      // 256-byte aligned, with a gap after it; null when the heap is full
bool device_free(void* pointer);                       // false: not the start of a live allocation
bool device_range(const void* pointer, size_t bytes);  // wholly inside one live allocation?
void device_allocation(const void* pointer, void** base, size_t* bytes);  // null where there is none
size_t device_free_bytes();
size_t device_total_bytes();
void device_written(const void* pointer, size_t bytes);              // by the host
void device_copied(const void* to, const void* from, size_t bytes);  // initialisation travels with the bytes

// ---- shared memory
void shared_begin(uint32_t bytes);  // a block starts: everything uninitialised (NaN)
inline uint32_t shared_offset(const void* p) { return uint32_t(static_cast<const unsigned char*>(p) - shared_base); }
void shared_check(const void* p, size_t bytes, size_t align, const char* what, Loc loc);  // fatal if it is not in the block's shared memory

// The running thread's block's window.
inline unsigned char* shared_window() { return shared_base + size_t(self->block) * kSharedArena; }

// ---- the checker
enum class Access { Read, Write, AtomicRead, AtomicWrite };
using Clock = std::vector<uint32_t>;    // per thread, then per agent
constexpr uint32_t kMostBarriers = 48;  // of a cluster
constexpr uint32_t kAgents = 80;  // asynchronous engines: a slot per mbarrier, then per warpgroup, then for TMA stores, by storing warp
constexpr uint32_t kWarpgroupAgent = kMostBarriers, kStoreAgent = kWarpgroupAgent + kMaxThreads / 128, kStoreAgents = kAgents - kStoreAgent;

void checker_launch(const void* parameters, size_t bytes);  // the kernel's parameters may be read
void checker_grid();
void checker_block();
// An access by the running thread; false: it must not be carried out (reported).
bool check_access(const void* p, size_t bytes, Access access, const char* what, Loc loc);
// An access by an agent that knows what `clock` says.
void check_async(uint32_t agent, const Clock& clock, const void* p, size_t bytes, bool write, const char* what, Loc loc);
void checker_join(const uint32_t* members, uint32_t count, bool whole_block);
Clock clock_snapshot(uint32_t thread);  // and the thread's own clock advances
void clock_acquire(uint32_t thread, const Clock& clock);
uint32_t agent_tick(uint32_t agent);
void clock_set_agent(Clock& clock, uint32_t agent, uint32_t value);
void proxy_fence(uint32_t thread);
void mark_pending(const void* shared, size_t bytes, bool pending);  // destination of an asynchronous copy in flight
void merge(Clock& into, const Clock& from);

}  // namespace phoenix::simt
