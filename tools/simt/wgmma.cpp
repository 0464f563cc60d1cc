// wgmma m64nNk16 (PTX ISA 9.0, 9.7.15). The product is computed when it is issued: between issue and wait nvcc's PTX copies accumulators
// from register to register, which only ptxas folds away. What is checked all the same: fences, groups, and that nobody overwrites an
// operand in shared memory, or registers of A, before its group has been waited for.
#include <algorithm>
#include <cstring>
#include <deque>
#include "async.h"

namespace phoenix::simt {

constexpr uint32_t kWarpgroup = 128;
struct Frame {
  float* d;
  const uint32_t* a;
  uint64_t descriptor_a, descriptor_b;
  bool accumulate;
};
struct Warpgroup {
  uint32_t arrived = 0, committed = 0;
  const char* what = nullptr;
  Loc loc;
  Frame* frames[kWarpgroup];
  bool fenced[kWarpgroup] = {};
  bool open = false;            // products issued and not committed
  std::deque<uint32_t> groups;  // agent clock of each committed group
  uint32_t done = 0;            // agent clock of the last one waited for
};
static Warpgroup warpgroups[kMaxThreads / kWarpgroup];

// Registers that hold A for products under way, and what they held.
struct Held {
  const uint64_t* slots[4];
  uint32_t values[4];
  uint32_t group;  // of the thread's
  Loc loc;
};
static std::vector<Held> held[kMaxThreads];
static uint32_t committed_groups[kMaxThreads];  // by a thread

void wgmma_block_begin() {
  for (auto& w : warpgroups) w = {};
  for (auto& h : held) h.clear();
  std::fill(std::begin(committed_groups), std::end(committed_groups), 0);
}
void wgmma_block_end() {
  for (const auto& w : warpgroups)
    if (w.open || !w.groups.empty()) report("block ends with wgmma groups not waited for");
}
static Warpgroup& mine() { return warpgroups[self->index / kWarpgroup]; }
static uint32_t agent_of(uint32_t thread) { return kWarpgroupAgent + thread / kWarpgroup; }

// All 128 threads of the warpgroup meet; the last to come runs fn.
template <class Fn>
static void meet(const char* what, Loc loc, Frame* frame, Fn fn) {
  Warpgroup& w = mine();
  const uint32_t first = self->index / kWarpgroup * kWarpgroup;
  if (first % grid.threads + kWarpgroup > grid.threads) fatal("%s at %s: incomplete warpgroup", what, to_string(loc).c_str());
  if (w.arrived && (strcmp(w.what, what) || w.loc.line != loc.line))
    fatal("%s at %s: other threads of the warpgroup are at %s (%s)", what, to_string(loc).c_str(), w.what, to_string(w.loc).c_str());
  w.what = what;
  w.loc = loc;
  w.frames[self->index - first] = frame;
  if (++w.arrived < kWarpgroup) return wait_here(what, loc);
  w.arrived = 0;
  fn(w, first);
  for (uint32_t i = first; i < first + kWarpgroup; ++i)
    if (i != self->index) make_ready(i);
}

// Shared-memory offset of element (row, k) of an operand: 16-bit elements, matrix descriptor as in PTX ISA 9.0, 9.7.15.5.
static uint32_t element_offset(uint64_t descriptor, bool transposed, uint32_t row, uint32_t k) {
  const uint32_t start = uint32_t(descriptor & 0x3FFF) << 4, leading = uint32_t(descriptor >> 16 & 0x3FFF) << 4,
                 stride = uint32_t(descriptor >> 32 & 0x3FFF) << 4;
  const int swizzle = int(descriptor >> 62);  // 0 none, 1 128 bytes, 2 64, 3 32
  if (!swizzle) {
    const uint32_t inner = transposed ? k % 8 * 16 + row % 8 * 2 : row % 8 * 16 + k % 8 * 2;
    return start + row / 8 * stride + k / 8 * leading + inner;
  }
  const uint32_t span = 256u >> swizzle;
  const uint32_t offset = transposed ? start + row / (span / 2) * leading + k / 8 * stride + k % 8 * span + row % (span / 2) * 2
                                     : start + row / 8 * stride + row % 8 * span + k * 2;
  return offset ^ (offset >> 7 & (span / 16 - 1)) << 4;
}
static float element(uint32_t offset, Half type) {
  if (offset >= kSharedArena) return 0;  // reported by check_operand
  uint16_t bits;
  memcpy(&bits, shared_window() + offset, 2);
  return half_to_float(bits, type);
}
// A swizzled operand starts on a whole pattern; steps along k may move inside its first 128-byte row only.
static void check_start(uint64_t descriptor, Loc loc) {
  const int swizzle = int(descriptor >> 62);
  const uint32_t pattern = swizzle ? 2048u >> swizzle : 16, start = uint32_t(descriptor & 0x3FFF) << 4;
  if (swizzle && (start & (pattern - 1) & ~127u) && !(descriptor >> 49 & 7))
    report("wgmma at %s: a swizzled operand starts at shared offset %u, not %u-byte aligned, base offset 0", to_string(loc).c_str(), start,
           pattern);
}
static void check_operand(uint64_t descriptor, bool transposed, int rows, uint32_t agent, const Clock& clock, const char* what, Loc loc) {
  for (int row = 0; row < rows; row += transposed ? 8 : 1)
    for (int k = 0; k < 16; k += transposed ? 1 : 8)
      check_async(agent, clock, shared_window() + (element_offset(descriptor, transposed, uint32_t(row), uint32_t(k)) & ~15u), 16, false,
                  what, loc);
}
// What every thread of the warpgroup knows; within a warp the lanes' knowledge is pooled, for they issue together.
static Clock common_clock(uint32_t first) {
  Clock common;
  for (uint32_t warp = 0; warp < 4; ++warp) {
    Clock pooled;
    for (uint32_t lane = 0; lane < 32; ++lane) merge(pooled, clock_snapshot(first + warp * 32 + lane));
    if (!warp) common = pooled;
    for (size_t i = 0; i < common.size(); ++i) common[i] = std::min(common[i], pooled[i]);
  }
  return common;
}
// D fragment: thread t's register i holds this element.
static void fragment(uint32_t t, int i, int& row, int& column) {
  row = int(t / 32 * 16 + t % 32 / 4) + i / 2 % 2 * 8;
  column = i / 4 * 8 + int(t % 4) * 2 + i % 2;
}

void wgmma_fence() { mine().fenced[self->index % kWarpgroup] = true; }
void wgmma(float* d, int n, const uint32_t* a_registers, uint64_t descriptor_a, uint64_t descriptor_b, bool accumulate, bool transposed_a,
           bool transposed_b, Half type, Loc loc) {
  Frame frame{d, a_registers, descriptor_a, descriptor_b, accumulate};
  meet("wgmma.mma_async", loc, &frame, [&](Warpgroup& w, uint32_t first) {
    const Frame f = *w.frames[0];
    for (const Frame* other : w.frames)
      if (other->descriptor_a != f.descriptor_a || other->descriptor_b != f.descriptor_b || other->accumulate != f.accumulate)
        fatal("wgmma at %s: descriptors differ between the threads of the warpgroup", to_string(loc).c_str());
    if (!std::all_of(w.fenced, w.fenced + kWarpgroup, [](bool fenced) { return fenced; }))
      report("wgmma at %s without wgmma.fence since its registers were last written", to_string(loc).c_str());
    if (!f.a) check_start(f.descriptor_a, loc);
    check_start(f.descriptor_b, loc);
    if (config().checks) {
      const Clock clock = common_clock(first);
      const uint32_t agent = agent_of(first);
      agent_tick(agent);
      if (!f.a) check_operand(f.descriptor_a, transposed_a, 64, agent, clock, "wgmma operand A", loc);
      check_operand(f.descriptor_b, transposed_b, n, agent, clock, "wgmma operand B", loc);
    }
    static std::vector<float> A, B, D;
    A.resize(64 * 16);
    B.resize(size_t(n) * 16);
    D.assign(size_t(n) * 64, 0.f);
    if (f.a) {  // each warp holds 16 rows, as in mma.m16n8k16
      for (uint32_t t = 0; t < kWarpgroup; ++t)
        for (uint32_t i = 0; i < 8; ++i) {
          const uint32_t row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, k = t % 4 * 2 + i / 4 * 8 + i % 2;
          A[row * 16 + k] = half_to_float(w.frames[t]->a[i / 2] >> i % 2 * 16 & 0xFFFF, type);
        }
    } else {
      for (uint32_t row = 0; row < 64; ++row)
        for (uint32_t k = 0; k < 16; ++k) A[row * 16 + k] = element(element_offset(f.descriptor_a, transposed_a, row, k), type);
    }
    for (uint32_t k = 0; k < 16; ++k)
      for (uint32_t column = 0; column < uint32_t(n); ++column)
        B[k * uint32_t(n) + column] = element(element_offset(f.descriptor_b, transposed_b, column, k), type);
    auto each = [&](auto visit) {
      for (uint32_t t = 0; t < kWarpgroup; ++t)
        for (int i = 0; i < n / 2; ++i) {
          int row, column;
          fragment(t, i, row, column);
          visit(D[size_t(row * n + column)], w.frames[t]->d[i]);
        }
    };
    if (f.accumulate) each([](float& sum, float& value) { sum = value; });
    for (int row = 0; row < 64; ++row)
      for (int k = 0; k < 16; ++k)
        for (int column = 0; column < n; ++column) D[size_t(row * n + column)] += A[size_t(row * 16 + k)] * B[size_t(k * n + column)];
    each([](float& sum, float& value) { value = sum; });
    w.open = true;
  });
}
void wgmma_hold(const uint64_t* const (&slots)[4], Loc loc) {
  Held h{{}, {}, committed_groups[self->index], loc};
  for (int i = 0; i < 4; ++i) {
    h.slots[i] = slots[i];
    h.values[i] = uint32_t(*slots[i]);
  }
  held[self->index].push_back(h);
}
void wgmma_commit() {
  ++committed_groups[self->index];
  Warpgroup& w = mine();
  if (++w.committed < kWarpgroup) return;
  w.committed = 0;
  w.open = false;
  w.groups.push_back(config().checks ? agent_tick(agent_of(self->index)) : 0);
}
void wgmma_wait(int pending_groups, Loc loc) {
  meet("wgmma.wait_group", loc, nullptr, [&](Warpgroup& w, uint32_t) {
    if (w.committed) fatal("wgmma.wait_group at %s: commit_group not executed by the whole warpgroup", to_string(loc).c_str());
    for (; int(w.groups.size()) > pending_groups; w.groups.pop_front()) w.done = w.groups.front();
    if (!pending_groups) std::fill(w.fenced, w.fenced + kWarpgroup, false);
  });
  auto& mine_held = held[self->index];
  auto waited_for = [&](const Held& h) { return h.group + uint32_t(pending_groups) < committed_groups[self->index]; };
  for (const Held& h : mine_held)
    for (int i = 0; i < 4 && waited_for(h); ++i)
      if (uint32_t(*h.slots[i]) != h.values[i]) {
        report("wgmma at %s: a register of A was overwritten before its group had been waited for", to_string(h.loc).c_str());
        break;
      }
  std::erase_if(mine_held, waited_for);
  Clock clock;
  clock_set_agent(clock, agent_of(self->index), mine().done);
  clock_acquire(self->index, clock);
}

}  // namespace phoenix::simt
