// What memory.cpp and checker.cpp share: the shadow cells and where memory lies.
#pragma once
#include "memory.h"

namespace phoenix::simt {

// One per byte of shared and device memory. A serial is an epoch: it advances at every block and every __syncthreads. All zero: never
// touched.
struct Cell {
  uint32_t write_serial, read_serial, async_serial;
  uint32_t write_clock, read_clock[2], async_clock;
  uint16_t write_by, read_by[2], async_by;
  uint8_t readers;  // how many of read_by hold a reader; kManyReaders: read_clock[0] is a row of the pool
  uint8_t flags;
};
constexpr uint8_t kManyReaders = 255;
enum : uint8_t { kInitialised = 1, kAtomic = 2, kPending = 4, kAsync = 8 };

struct Allocation {
  uintptr_t low, high;
  bool live;
};

extern Cell *shared_cells, *heap_cells;
extern unsigned char* heap;
extern uint32_t shared_bytes;  // of a block of the running kernel
size_t heap_bytes();
const Allocation* find_allocation(uintptr_t p);  // the last that starts at or before p, dead or alive

}  // namespace phoenix::simt
