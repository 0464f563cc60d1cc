// Device and shared memory behind memory.h. The race checker is in checker.cpp.
#include "memory.h"
#include <sys/mman.h>
#include <algorithm>
#include <cstring>
#include <map>
#include "shadow.h"

namespace phoenix::simt {

unsigned char* shared_base;
uint32_t shared_bytes;
Cell *shared_cells, *heap_cells;
unsigned char* heap;

void* map_memory(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error("no address space for " + std::to_string(bytes >> 20) + " MiB of the emulated device's memory");
  return p;
}
size_t heap_bytes() { return size_t(config().heap_mib) << 20; }

static void map_device() {
  if (heap) return;
  shared_base = static_cast<unsigned char*>(map_memory(kSharedArena * kMaxCluster + 1024));
  shared_base += (1024 - uintptr_t(shared_base) % 1024) % 1024;
  if (config().checks) {
    shared_cells = static_cast<Cell*>(map_memory(sizeof(Cell) * kSharedArena * kMaxCluster));
    heap_cells = static_cast<Cell*>(map_memory(sizeof(Cell) * heap_bytes()));
  }
  heap = static_cast<unsigned char*>(map_memory(heap_bytes()));
}

// ---- device memory

static std::map<uintptr_t, Allocation> allocations;  // by first address; the dead ones too, until their addresses are needed
static size_t used_bytes, heap_top;
constexpr size_t kAlign = 256, kGap = 256;

// The pages go back to the system, and with them the shadow: a later allocation there starts uninitialised.
static void forget(const Allocation& a) {
  const size_t page = 4096, offset = a.low - uintptr_t(heap);
  if (config().launches.empty()) memset(heap + offset, 0xFF, a.high - a.low);
  if (heap_cells) memset(static_cast<void*>(heap_cells + offset), 0, sizeof(Cell) * (a.high - a.low));
  auto drop = [&](unsigned char* base, size_t low, size_t high) {
    low = (low + page - 1) & ~(page - 1);
    high &= ~(page - 1);
    if (low < high) madvise(base + low, high - low, MADV_DONTNEED);
  };
  drop(heap, offset, offset + (a.high - a.low));
  if (heap_cells) drop(reinterpret_cast<unsigned char*>(heap_cells), offset * sizeof(Cell), (offset + a.high - a.low) * sizeof(Cell));
}
static void reclaim_dead() {
  std::erase_if(allocations, [](const auto& entry) { return !entry.second.live; });
  heap_top = allocations.empty() ? 0 : std::prev(allocations.end())->second.high + kGap - uintptr_t(heap);
}
static uintptr_t find_gap(size_t bytes) {
  uintptr_t low = uintptr_t(heap);
  for (auto& [first, a] : allocations) {
    if (first >= low + bytes + kGap) return low;
    low = (a.high + kGap + kAlign - 1) & ~(kAlign - 1);
  }
  return low + bytes + kGap <= uintptr_t(heap) + heap_bytes() ? low : 0;
}
void* device_alloc(size_t bytes) {
  map_device();
  if (bytes > heap_bytes()) return nullptr;
  heap_top = (heap_top + kAlign - 1) & ~(kAlign - 1);
  uintptr_t low = uintptr_t(heap) + heap_top;
  if (heap_top + bytes + kGap > heap_bytes()) {
    reclaim_dead();
    low = find_gap(bytes);
    if (!low) return nullptr;
  }
  allocations[low] = {low, low + bytes, true};
  heap_top = std::max(heap_top, size_t(low - uintptr_t(heap)) + bytes + kGap);
  used_bytes += bytes;
  if (config().launches.empty()) memset(reinterpret_cast<void*>(low), 0xFF, bytes);
  return reinterpret_cast<void*>(low);
}
bool device_free(void* pointer) {
  auto it = allocations.find(uintptr_t(pointer));
  if (it == allocations.end() || !it->second.live) return false;
  it->second.live = false;
  used_bytes -= it->second.high - it->second.low;
  forget(it->second);
  return true;
}
const Allocation* find_allocation(uintptr_t p) {
  static const Allocation* last;
  static size_t last_count;
  if (last && last_count == allocations.size() && p >= last->low && p < last->high && last->live) return last;
  auto it = allocations.upper_bound(p);
  if (it == allocations.begin()) return nullptr;
  last = &std::prev(it)->second;
  last_count = allocations.size();
  return last;
}
bool device_range(const void* pointer, size_t bytes) {
  const uintptr_t p = uintptr_t(pointer);
  const Allocation* a = find_allocation(p);
  return a && a->live && p <= a->high && bytes <= a->high - p;
}
void device_allocation(const void* pointer, void** base, size_t* bytes) {
  const Allocation* a = device_range(pointer, 1) ? find_allocation(uintptr_t(pointer)) : nullptr;
  *base = a ? reinterpret_cast<void*>(a->low) : nullptr;
  *bytes = a ? a->high - a->low : 0;
}
size_t device_total_bytes() { return heap_bytes(); }
size_t device_free_bytes() { return heap_bytes() - std::min(heap_bytes(), used_bytes); }

void device_written(const void* pointer, size_t bytes) {
  if (!config().checks) return;
  Cell* cell = heap_cells + (uintptr_t(pointer) - uintptr_t(heap));
  for (size_t i = 0; i < bytes; ++i) cell[i].flags |= kInitialised;
}
void device_copied(const void* to, const void* from, size_t bytes) {
  if (!config().checks) return;
  Cell* target = heap_cells + (uintptr_t(to) - uintptr_t(heap));
  const Cell* source = heap_cells + (uintptr_t(from) - uintptr_t(heap));
  std::vector<bool> initialised(bytes);  // the ranges may overlap
  for (size_t i = 0; i < bytes; ++i) initialised[i] = source[i].flags & kInitialised;
  for (size_t i = 0; i < bytes; ++i) target[i].flags = uint8_t((target[i].flags & ~kInitialised) | (initialised[i] ? kInitialised : 0));
}

// ---- shared memory

void shared_begin(uint32_t bytes) {
  map_device();
  memset(shared_base, 0xFF, size_t(kSharedArena) * grid.blocks);
  shared_bytes = bytes;
}
void shared_check(const void* p, size_t bytes, size_t align, const char* what, Loc loc) {
  const uintptr_t address = uintptr_t(p), offset = address - uintptr_t(shared_base);
  if (offset >= size_t(kSharedArena) * grid.blocks || offset % kSharedArena + bytes > shared_bytes)
    fatal("%s: address not in the block's shared memory, at %s", what, to_string(loc).c_str());
  if (address % align) fatal("%s: shared address not %zu-byte aligned, at %s", what, align, to_string(loc).c_str());
}

}  // namespace phoenix::simt
