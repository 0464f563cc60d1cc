// mbarrier (PTX ISA 9.0, 9.7.13.15): a phase completes when all arrivals are in and no expected byte is outstanding.
#include <algorithm>
#include "async.h"

namespace phoenix::simt {

struct Barrier {
  uint64_t* address;
  uint32_t expected, pending, phase;
  int64_t bytes;              // expected, not arrived yet
  Clock releasing, released;  // what the arrivals of the open phase, and of the last one, know
  struct Waiter {
    uint32_t thread, parity;
  };
  std::vector<Waiter> waiters;
  uint32_t initialised_by;
  bool announced;  // to the async proxy, by a fence after the initialisation
};
static std::vector<Barrier> barriers;  // of the running block

void mbarrier_block_begin() { barriers.clear(); }
void mbarrier_block_end() {
  for (const Barrier& b : barriers)
    if (b.bytes) report("block ends with an mbarrier still expecting %lld bytes", static_cast<long long>(b.bytes));
}

uint32_t mbarrier_slot(uint64_t* address, const char* what, Loc loc) {
  shared_check(address, 8, 8, what, loc);
  for (uint32_t i = 0; i < barriers.size(); ++i) {
    if (barriers[i].address != address) continue;
    check_access(address, 8, Access::AtomicRead, what, loc);
    return i;
  }
  fatal("%s at %s: not an initialised mbarrier", what, to_string(loc).c_str());
}
static void settle(Barrier& b) {
  if (b.pending || b.bytes) return;
  b.phase++;
  b.pending = b.expected;
  b.released = b.releasing;
  auto waiters = std::move(b.waiters);
  b.waiters.clear();
  for (auto& w : waiters) {
    if ((b.phase & 1) != w.parity)
      make_ready(w.thread);
    else
      b.waiters.push_back(w);
  }
}
void mbarrier_init(uint64_t* address, uint32_t count, Loc loc) {
  shared_check(address, 8, 8, "mbarrier.init", loc);
  check_access(address, 8, Access::Write, "mbarrier.init", loc);
  if (!count || count >= 1u << 20) fatal("mbarrier.init at %s: count %u, expected 1 to 2^20 - 1", to_string(loc).c_str(), count);
  for (const Barrier& b : barriers)
    if (b.address == address) fatal("mbarrier.init at %s on a live mbarrier", to_string(loc).c_str());
  if (barriers.size() >= kMostBarriers)
    fatal("mbarrier.init at %s: the emulator holds at most %u a cluster", to_string(loc).c_str(), kMostBarriers);
  barriers.push_back({address, count, count, 0, 0, {}, {}, {}, self->index, false});
}
void mbarrier_announce() {
  for (Barrier& b : barriers) b.announced = b.announced || b.initialised_by == self->index;
}
uint32_t mbarrier_slot_of_copy(uint64_t* address, const char* what, Loc loc) {
  const uint32_t slot = mbarrier_slot(address, what, loc);
  if (!barriers[slot].announced)
    report("%s at %s: its mbarrier was initialised without fence.mbarrier_init or fence.proxy.async after it", what,
           to_string(loc).c_str());
  barriers[slot].announced = true;
  return slot;
}
void mbarrier_invalidate(uint64_t* address, Loc loc) {
  Barrier& b = barriers[mbarrier_slot(address, "mbarrier.inval", loc)];
  if (!b.waiters.empty() || b.bytes) fatal("mbarrier.inval at %s while it is waited for", to_string(loc).c_str());
  b.address = nullptr;  // the slot stays: it is an agent of the race checker
}
void mbarrier_arrive(uint64_t* address, uint32_t count, uint32_t expected_bytes, Loc loc) {
  Barrier& b = barriers[mbarrier_slot(address, "mbarrier.arrive", loc)];
  if (!count || count > b.pending)
    fatal("mbarrier.arrive at %s: %u arrival(s), but only %u of %u are still expected in this phase", to_string(loc).c_str(), count,
          b.pending, b.expected);
  b.bytes += expected_bytes;
  b.pending -= count;
  merge(b.releasing, clock_snapshot(self->index));
  settle(b);
}
void mbarrier_expect(uint64_t* address, uint32_t expected_bytes, Loc loc) {
  barriers[mbarrier_slot(address, "mbarrier.expect_tx", loc)].bytes += expected_bytes;
}
// Polling sleeps until it can succeed.
void mbarrier_wait(uint64_t* address, uint32_t parity, Loc loc) {
  const uint32_t slot = mbarrier_slot(address, "mbarrier wait", loc);
  parity &= 1;
  while ((barriers[slot].phase & 1) == parity) {
    barriers[slot].waiters.push_back({self->index, parity});
    wait_here("mbarrier wait", loc);
  }
  clock_acquire(self->index, barriers[slot].released);
}
void mbarrier_complete(uint32_t slot, uint32_t bytes, const Clock& clock) {
  Barrier& b = barriers[slot];
  merge(b.releasing, clock);
  b.bytes -= bytes;
  settle(b);
}

}  // namespace phoenix::simt
