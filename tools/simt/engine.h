// The emulator's engine: one fiber per CUDA thread, blocks one after another on one OS thread, so that a run is deterministic under a given
// schedule. State is global, one device per process: the driver front (driver.cpp) holds a lock around every call.
#pragma once
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace phoenix::simt {

constexpr uint32_t kMaxThreads = 1024;  // per block, and per cluster
constexpr uint32_t kMaxCluster = 8;     // blocks
constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kSharedArena = 256 * 1024;  // a block's window of shared memory; shared-space addresses are offsets in the cluster's

struct Dim {
  uint32_t x = 1, y = 1, z = 1;
};

// Where an instruction comes from: the kernel's source line, by nvcc's -lineinfo. The file name lives as long as the module.
struct Loc {
  const char* file = "?";
  unsigned line = 0;
};
std::string to_string(Loc loc);

enum class State : uint8_t { Ready, Waiting, Done };
struct Thread {
  void* stack_pointer = nullptr;
  uintptr_t stack_low = 0;
  Dim tid;
  uint32_t index = 0, lane = 0, warp = 0;  // index and warp: in the cluster
  uint32_t block = 0;                      // its rank in the cluster
  State state = State::Done;
  bool former_done = false;  // it has waited for the launches in front of this one (griddepcontrol.wait)
  const char* what = "";     // what it waits at, and where
  Loc loc;
};
// Blocks of a cluster run together; without clusters a block is a cluster of one.
struct Grid {
  Dim grid_dim, block_dim, first;  // the running cluster's first block
  uint32_t threads, warps;         // of a block
  uint32_t dynamic_bytes, blocks;  // of a block; of a cluster
  bool early;                      // may have begun before the launch in front of it has ended: programmatic stream serialization
  uint32_t all() const { return threads * blocks; }
  Dim block(uint32_t rank) const { return {first.x + rank, first.y, first.z}; }
};
extern Thread* self;  // the thread being executed; null in host code
extern Grid grid;     // the launch being executed
extern std::vector<Thread> threads;

struct Config {
  enum Schedule { Forward, Reverse, Random } schedule = Forward;  // PHOENIX_SIMT_SCHEDULE=forward|reverse|random:<seed>
  uint64_t seed = 1;
  bool checks = true;            // PHOENIX_SIMT_CHECK=0 turns them off (about twice as fast)
  bool quiet = false;            // PHOENIX_SIMT_QUIET=1: reports only through error strings
  uint64_t heap_mib = 1024;      // PHOENIX_SIMT_HEAP_MIB: device memory
  int major = 9;                 // PHOENIX_SIMT_CAPABILITY=8.0|9.0
  bool late_streams = true;      // PHOENIX_SIMT_STREAMS=early: work of streams of low priority is not put off until something waits for it
  std::string launches;          // PHOENIX_SIMT_LAUNCHES=FILE: launches are checked and listed there, and not run
  uint32_t shared_max = 232448;  // bytes per block: 227 KiB at 9.0, 163 KiB at 8.0 (CUDA C++ programming guide, compute capabilities)
};
const Config& config();

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A finding: counted, printed (the first eight of a launch), and the launch fails at its end.
void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
// A finding after which the block cannot go on: the launch fails at once. Fibers are left where they stand.
[[noreturn]] void fatal(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Gives the CPU away until another thread makes this one ready again.
void wait_here(const char* what, Loc loc);
void make_ready(uint32_t index);
// Work of an asynchronous engine (TMA): runs as late as possible, when no thread can run, so that a missing wait shows.
void defer(std::function<void()> job);
uint64_t switches();  // stands for the clock

// Runs body(context) in every thread of the grid. Throws Error if anything was reported.
void run_grid(const char* name, Dim grid_dim, Dim block_dim, uint32_t cluster, bool early, uint32_t static_bytes, uint32_t dynamic_bytes,
              void (*body)(void*), void* context);
uint32_t live_threads(uint32_t rank);  // of a block of the running cluster

// Barriers. `id` 0 is __syncthreads.
void sync_threads(Loc loc);
enum class Vote { Or, And, Count };
uint32_t sync_threads_vote(Vote kind, bool predicate, Loc loc);
void named_barrier(uint32_t id, uint32_t count, bool wait, Loc loc);
void cluster_arrive(Loc loc);  // barrier.cluster: all threads of the cluster that have not exited
void cluster_wait(Loc loc);

// All lanes of `mask` meet; the last to come runs fn over their frames. `orders` makes it a memory barrier among them (__syncwarp).
using WarpFn = void (*)(void** frames, uint32_t mask);
void warp_collective(const char* what, uint32_t mask, void* frame, WarpFn fn, Loc loc, bool orders = false);
uint32_t shuffle(uint32_t mask, uint32_t value, uint32_t source_lane, Loc loc);
enum class Reduce { Ballot, Match, Add, MinU, MaxU, MinS, MaxS, And, Or, Xor };
uint32_t warp_reduce(const char* what, uint32_t mask, uint32_t value, Reduce kind, Loc loc);

}  // namespace phoenix::simt
