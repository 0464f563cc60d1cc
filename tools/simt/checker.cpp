// The race checker of memory.h.
#include <algorithm>
#include <cstring>
#include "shadow.h"

namespace phoenix::simt {

static uint32_t serial = 1, block_serial, launch_serial;
static uint32_t own[kMaxThreads];         // each thread's own clock
static uint32_t row_serial[kMaxThreads];  // epoch in which rows[t] is valid
static Clock rows[kMaxThreads];           // what thread t knows of the others, this epoch
static uint32_t fenced[kMaxThreads];      // own clock at the last fence.proxy.async
static uint32_t agent_clock[kAgents], agent_seen[kMaxThreads][kAgents];
static bool agents_used;
static std::vector<Clock> pool;  // readers of cells that have more than two
static uintptr_t parameters_low, parameters_high;

// What an accessor knows of everyone's clock.
struct View {
  const uint32_t *row, *agents;
  uint32_t operator[](uint32_t who) const { return who >= grid.all() ? agents[who - grid.all()] : row ? row[who] : 0; }
};
static View view_of(uint32_t t) { return {row_serial[t] == serial ? rows[t].data() : nullptr, agent_seen[t]}; }
static uint32_t* row_of(uint32_t t) {
  if (row_serial[t] != serial) {
    rows[t].assign(grid.all(), 0);
    row_serial[t] = serial;
  }
  return rows[t].data();
}

void checker_launch(const void* parameters, size_t bytes) {
  parameters_low = uintptr_t(parameters);
  parameters_high = parameters_low + bytes;
}
void checker_grid() { launch_serial = ++serial; }
void checker_block() {
  block_serial = ++serial;
  pool.clear();
  agents_used = false;
  for (uint32_t i = 0; i < grid.all(); ++i) {
    own[i] = 1;
    fenced[i] = 0;
    memset(agent_seen[i], 0, sizeof agent_seen[i]);
  }
  memset(agent_clock, 0, sizeof agent_clock);
}
void checker_join(const uint32_t* members, uint32_t count, bool whole_block) {
  if (agents_used) {
    uint32_t known[kAgents] = {};
    for (uint32_t i = 0; i < count; ++i)
      for (uint32_t a = 0; a < kAgents; ++a) known[a] = std::max(known[a], agent_seen[members[i]][a]);
    for (uint32_t i = 0; i < count; ++i) memcpy(agent_seen[members[i]], known, sizeof known);
  }
  if (whole_block) {
    serial++;
    pool.clear();
    return;
  }
  static Clock known;
  known.assign(grid.all(), 0);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t t = members[i];
    if (row_serial[t] == serial)
      for (uint32_t k = 0; k < grid.all(); ++k) known[k] = std::max(known[k], rows[t][k]);
    known[t] = std::max(known[t], own[t]);
  }
  for (uint32_t i = 0; i < count; ++i) {
    memcpy(row_of(members[i]), known.data(), known.size() * sizeof(uint32_t));
    own[members[i]]++;
  }
}

void merge(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}
Clock clock_snapshot(uint32_t t) {
  if (!config().checks) return {};
  Clock clock(grid.all() + kAgents);
  memcpy(clock.data(), row_of(t), grid.all() * sizeof(uint32_t));
  clock[t] = own[t]++;
  memcpy(clock.data() + grid.all(), agent_seen[t], sizeof agent_seen[t]);
  return clock;
}
void clock_acquire(uint32_t t, const Clock& clock) {
  if (!config().checks || clock.empty()) return;
  uint32_t* row = row_of(t);
  for (uint32_t k = 0; k < grid.all(); ++k) row[k] = std::max(row[k], clock[k]);
  for (uint32_t a = 0; a < kAgents; ++a) agent_seen[t][a] = std::max(agent_seen[t][a], clock[grid.all() + a]);
}
uint32_t agent_tick(uint32_t agent) {
  agents_used = true;
  return ++agent_clock[agent];
}
void clock_set_agent(Clock& clock, uint32_t agent, uint32_t value) {
  if (!config().checks) return;
  clock.resize(grid.all() + kAgents);
  clock[grid.all() + agent] = std::max(clock[grid.all() + agent], value);
}
void proxy_fence(uint32_t t) {
  if (config().checks) fenced[t] = own[t]++;
}

// ---- one byte

static std::string name_of(uint32_t who) {
  return who < grid.all() ? "thread " + std::to_string(who) : "async engine " + std::to_string(who - grid.all());
}
enum class Age { Ordered, BeforeBarrier, ThisEpoch, OtherBlock };
static Age age_of(uint32_t s, bool device) {
  return s >= serial                    ? Age::ThisEpoch
         : s >= block_serial            ? Age::BeforeBarrier
         : device && s >= launch_serial ? Age::OtherBlock
                                        : Age::Ordered;
}
struct Accessor {
  uint32_t who;
  View view;
  bool write, atomic, async, device;
};

// Why the access races with an earlier write of the byte; empty if it does not.
static std::string race_with_write(const Cell& c, const Accessor& a) {
  const Age age = age_of(c.write_serial, a.device);
  const bool both_atomic = a.atomic && (c.flags & kAtomic);
  if (age == Age::OtherBlock) return both_atomic ? "" : "written by another block in the same launch";
  if (age == Age::Ordered) return "";
  const bool unordered = age == Age::ThisEpoch || (c.flags & kAsync);
  if (c.write_by != a.who && !both_atomic && unordered && c.write_clock > a.view[c.write_by])
    return "written by " + name_of(c.write_by) + ", not ordered with this access";
  if (a.async && !a.write && !(c.flags & kAsync) && c.write_by < grid.all() && c.write_clock > fenced[c.write_by])
    return "written by " + name_of(c.write_by) + " through the generic proxy without fence.proxy.async";
  return "";
}
// Why a write races with earlier reads of the byte.
static std::string race_with_reads(const Cell& c, const Accessor& a) {
  const Age age = age_of(c.read_serial, a.device);
  auto unordered = [&](uint32_t reader, uint32_t clock) { return reader != a.who && clock > a.view[reader]; };
  if (age == Age::OtherBlock) return "read by another block in the same launch";
  if (age == Age::ThisEpoch) {
    if (c.readers == kManyReaders) {
      const Clock& readers = pool[c.read_clock[0]];
      for (uint32_t r = 0; r < grid.all(); ++r)
        if (unordered(r, readers[r])) return "read by " + name_of(r) + ", not ordered with this access";
    } else {
      for (int i = 0; i < c.readers; ++i)
        if (unordered(c.read_by[i], c.read_clock[i])) return "read by " + name_of(c.read_by[i]) + ", not ordered with this access";
    }
  }
  if (c.async_serial >= block_serial && unordered(c.async_by, c.async_clock))
    return "being read by " + name_of(c.async_by) + " (not waited for)";
  return "";
}
static void remember_read(Cell& c, const Accessor& a, uint32_t clock) {
  if (age_of(c.read_serial, a.device) != Age::ThisEpoch) c.readers = 0;
  c.read_serial = serial;
  if (c.readers == kManyReaders) {
    pool[c.read_clock[0]][a.who] = clock;
    return;
  }
  int kept = 0;  // reads that happened before this one need not be remembered
  for (int i = 0; i < c.readers; ++i) {
    if (c.read_by[i] == a.who || c.read_clock[i] <= a.view[c.read_by[i]]) continue;
    c.read_by[kept] = c.read_by[i];
    c.read_clock[kept++] = c.read_clock[i];
  }
  if (kept < 2) {
    c.read_by[kept] = uint16_t(a.who);
    c.read_clock[kept] = clock;
    c.readers = uint8_t(kept + 1);
    return;
  }
  pool.emplace_back(grid.all(), 0u);
  for (int i = 0; i < 2; ++i) pool.back()[c.read_by[i]] = c.read_clock[i];
  pool.back()[a.who] = clock;
  c.readers = kManyReaders;
  c.read_clock[0] = uint32_t(pool.size() - 1);
}
static std::string touch(Cell& c, const Accessor& a) {
  std::string why = race_with_write(c, a);
  if (a.write && why.empty()) why = race_with_reads(c, a);
  const uint32_t clock = a.who < grid.all() ? own[a.who] : agent_clock[a.who - grid.all()];
  if (a.write) {
    c.write_serial = serial;
    c.write_by = uint16_t(a.who);
    c.write_clock = clock;
    c.readers = 0;
    c.read_serial = c.async_serial = 0;
    c.flags = uint8_t((c.flags & ~(kAtomic | kAsync)) | kInitialised | (a.atomic ? kAtomic : 0) | (a.async ? kAsync : 0));
  } else if (a.async) {
    c.async_serial = serial;
    c.async_by = uint16_t(a.who);
    c.async_clock = clock;
  } else if (!a.atomic) {
    remember_read(c, a, clock);
  }
  return why;
}

// ---- one access

static bool check_range(const Accessor& a, uintptr_t p, size_t bytes, const char* what, Loc loc) {
  auto finding = [&](const char* kind, const std::string& why) {
    report("%s: %s of %zu bytes, %s (%s at %s)", kind, a.write ? "write" : "read", bytes, why.c_str(), what, to_string(loc).c_str());
  };
  Cell* cells;
  const char* race;
  std::string place;
  size_t origin;
  if (p - uintptr_t(shared_base) < kSharedArena * grid.blocks) {
    const size_t place_in_cluster = p - uintptr_t(shared_base), owner = place_in_cluster / kSharedArena;
    origin = place_in_cluster % kSharedArena;
    if (origin + bytes > shared_bytes) {
      finding("shared memory out of bounds",
              "offset " + std::to_string(origin) + " beyond the block's " + std::to_string(shared_bytes) + " bytes");
      return false;
    }
    if (!live_threads(uint32_t(owner))) {
      finding("shared memory of a block that has exited", "rank " + std::to_string(owner) + " of the cluster");
      return false;
    }
    cells = shared_cells + place_in_cluster;
    race = "shared memory race";
    for (size_t i = 0; i < bytes; ++i) {
      Cell& c = cells[i];
      const bool this_block = c.write_serial >= block_serial;
      if (!a.write && !(this_block && (c.flags & kInitialised))) {
        finding("uninitialised shared memory", "never written in this block, offset " + std::to_string(origin + i));
        c.write_serial = serial;
        c.write_clock = 0;
        c.flags |= kInitialised;
        return true;
      }
      if ((c.flags & kPending) && this_block && !a.async) {
        finding("shared memory hazard", "destination of an asynchronous copy still in flight, offset " + std::to_string(origin + i));
        c.flags &= uint8_t(~kPending);
        return true;
      }
    }
    place = ", offset ";
  } else if (p - uintptr_t(heap) < heap_bytes()) {
    const Allocation* allocation = find_allocation(p);
    if (!allocation || !allocation->live || p + bytes > allocation->high) {
      finding("global memory out of bounds", !allocation         ? "before every allocation"
                                             : !allocation->live ? "in freed memory"
                                                                 : "byte " + std::to_string(p - allocation->low) + " of an allocation of " +
                                                                       std::to_string(allocation->high - allocation->low));
      return false;
    }
    cells = heap_cells + (p - uintptr_t(heap));
    origin = p - allocation->low;
    race = "global memory race";
    for (size_t i = 0; i < bytes && !a.write; ++i) {
      if (cells[i].flags & kInitialised) continue;
      finding("uninitialised global memory", "never written, byte " + std::to_string(origin + i) + " of its allocation");
      cells[i].flags |= kInitialised;
      return true;
    }
    place = " of its allocation, byte ";
  } else if (p >= parameters_low && p + bytes <= parameters_high) {
    if (a.write) finding("parameter access", "the kernel's parameters are read-only");
    return !a.write;
  } else {
    finding("host memory access", "not a device pointer");
    return false;
  }
  for (size_t i = 0; i < bytes; ++i) {
    const Cell before = cells[i];
    if (std::string why = touch(cells[i], a); !why.empty()) {
      finding(race, why + place + std::to_string(origin + i));
      return true;
    }
    while (i + 1 < bytes && !memcmp(&cells[i + 1], &before, sizeof before)) {  // like the byte before it
      cells[i + 1] = cells[i];
      ++i;
    }
  }
  return true;
}
bool check_access(const void* pointer, size_t bytes, Access access, const char* what, Loc loc) {
  if (!config().checks) return true;
  const uintptr_t p = uintptr_t(pointer);
  constexpr size_t stack = 64 * 1024;
  if (p - self->stack_low < stack) return true;  // its own local memory
  for (uint32_t i = 0; i < grid.all(); ++i) {
    if (p - uintptr_t(shared_base) < kSharedArena * grid.blocks || p - uintptr_t(heap) < heap_bytes()) break;
    if (p - threads[i].stack_low >= stack) continue;
    report("local memory access: another thread's local memory (%s at %s)", what, to_string(loc).c_str());
    return false;
  }
  if (grid.early && !self->former_done && p - uintptr_t(heap) < heap_bytes())
    report("device memory before griddepcontrol.wait, in a launch that may begin before the former one ends (%s at %s)", what,
           to_string(loc).c_str());
  const bool write = access == Access::Write || access == Access::AtomicWrite;
  const bool atomic = access == Access::AtomicRead || access == Access::AtomicWrite;
  return check_range({self->index, view_of(self->index), write, atomic, false, p - uintptr_t(heap) < heap_bytes()}, p, bytes, what, loc);
}
void check_async(uint32_t agent, const Clock& clock, const void* pointer, size_t bytes, bool write, const char* what, Loc loc) {
  if (!config().checks) return;
  const uintptr_t p = uintptr_t(pointer);
  const View view{clock.data(), clock.data() + grid.all()};
  check_range({grid.all() + agent, view, write, false, true, p - uintptr_t(heap) < heap_bytes()}, p, bytes, what, loc);
}
void mark_pending(const void* shared, size_t bytes, bool pending) {
  if (!config().checks) return;
  Cell* cells = shared_cells + shared_offset(shared);
  for (size_t i = 0; i < bytes; ++i) {
    if (pending) {
      cells[i].flags |= kPending;
      cells[i].write_serial = serial;
    } else {
      cells[i].flags &= uint8_t(~kPending);
    }
  }
}

}  // namespace phoenix::simt
