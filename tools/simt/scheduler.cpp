// Fibers, the order in which they run, barriers and warp collectives.
#include <sys/mman.h>
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include "async.h"
#include "engine.h"
#include "memory.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace phoenix::simt {

std::vector<Thread> threads;
Thread* self;
Grid grid;

// ---- configuration and reports

static Config read_config() {
  Config c;
  auto text = [](const char* name) {
    const char* s = getenv(name);
    return std::string(s ? s : "");
  };
  const std::string schedule = text("PHOENIX_SIMT_SCHEDULE");
  if (schedule == "reverse") c.schedule = Config::Reverse;
  if (schedule.rfind("random", 0) == 0) {
    c.schedule = Config::Random;
    if (size_t colon = schedule.find(':'); colon != std::string::npos) c.seed = strtoull(schedule.c_str() + colon + 1, nullptr, 10);
  }
  c.launches = text("PHOENIX_SIMT_LAUNCHES");
  c.checks = text("PHOENIX_SIMT_CHECK") != "0" && c.launches.empty();
  c.late_streams = text("PHOENIX_SIMT_STREAMS") != "early";
  c.quiet = text("PHOENIX_SIMT_QUIET") == "1";
  if (uint64_t mib = strtoull(text("PHOENIX_SIMT_HEAP_MIB").c_str(), nullptr, 10)) c.heap_mib = std::min<uint64_t>(mib, 1 << 16);
  if (text("PHOENIX_SIMT_CAPABILITY") == "8.0") {
    c.major = 8;
    c.shared_max = 166912;
  }
  return c;
}
const Config& config() {
  static const Config c = read_config();
  return c;
}

constexpr uint64_t kPrintedReports = 8;
static const char* kernel_name = "?";
static uint64_t reports;  // of this launch
static std::string first_report, fatal_message;
static uint64_t switch_count;
static Thread host;  // where the launching code stands

uint64_t switches() { return switch_count; }
std::string to_string(Loc loc) {
  const char* slash = strrchr(loc.file, '/');
  return std::string(slash ? slash + 1 : loc.file) + ":" + std::to_string(loc.line);
}
static std::string where() {
  if (!self) return "";
  char text[160];
  const Dim block = grid.block(self->block), tid = self->tid;
  snprintf(text, sizeof text, ", in block (%u,%u,%u) thread (%u,%u,%u)", block.x, block.y, block.z, tid.x, tid.y, tid.z);
  return text;
}
static std::string formatted(const char* format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}
void report(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string message = formatted(format, arguments) + where();
  va_end(arguments);
  if (!reports++) first_report = message;
  if (reports <= kPrintedReports && !config().quiet) fprintf(stderr, "simt: %s: %s\n", kernel_name, message.c_str());
}
static void switch_to(Thread* from, Thread* to);
void fatal(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string message = formatted(format, arguments) + where();
  va_end(arguments);
  if (!self) throw Error(message);
  fatal_message = message;
  Thread* me = self;
  self = nullptr;
  switch_to(me, &host);
  abort();  // never resumed
}

// ---- fibers

constexpr size_t kStack = 64 * 1024, kGuard = 4096;
static unsigned char* stacks;
static void (*body)(void*);
static void* body_context;
static void finish();

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack (System V ABI), as ucontext does without its system call for signal masks.
extern "C" void phoenix_simt_swap(void** save, void* to);
asm(R"(
.text
.p2align 4
.type phoenix_simt_swap,@function
phoenix_simt_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size phoenix_simt_swap,.-phoenix_simt_swap
)");
static void swap(Thread* from, Thread* to) { phoenix_simt_swap(&from->stack_pointer, to->stack_pointer); }
static void prepare(Thread& t, void (*entry)()) {
  // Stack tops are staggered, for equal ones fall into the same cache sets.
  const uintptr_t top = (t.stack_low + kStack - t.index * 448u % 4096u) & ~uintptr_t(15);
  void** sp = reinterpret_cast<void**>(top) - 2;
  sp[1] = nullptr;
  sp[0] = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--sp = nullptr;
  t.stack_pointer = sp;
}
#else
static ucontext_t contexts[kMaxThreads + 1];
static ucontext_t* context_of(Thread* t) { return &contexts[t == &host ? kMaxThreads : t->index]; }
static void swap(Thread* from, Thread* to) { swapcontext(context_of(from), context_of(to)); }
static void prepare(Thread& t, void (*entry)()) {
  ucontext_t* c = context_of(&t);
  getcontext(c);
  c->uc_stack.ss_sp = reinterpret_cast<void*>(t.stack_low);
  c->uc_stack.ss_size = kStack;
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
}
#endif

static void switch_to(Thread* from, Thread* to) {
  switch_count++;
  swap(from, to);
}
static void fiber_main() {
  body(body_context);
  finish();
  abort();  // never resumed
}
static void map_stacks() {
  if (stacks) return;
  const size_t bytes = kMaxThreads * (kStack + kGuard);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error("no address space for the threads' stacks");
  stacks = static_cast<unsigned char*>(p);
  threads.resize(kMaxThreads);
  for (uint32_t i = 0; i < kMaxThreads; ++i) {
    mprotect(stacks + i * (kStack + kGuard), kGuard, PROT_NONE);
    threads[i].stack_low = uintptr_t(stacks) + i * (kStack + kGuard) + kGuard;
  }
}

// ---- the order of threads

static uint32_t ready[kMaxThreads / kWarpSize], exited[kMaxThreads / kWarpSize];  // bits by lane
static uint32_t live[kMaxCluster], all_live;  // threads that have not exited, of each block and of the cluster
uint32_t live_threads(uint32_t rank) { return live[rank]; }
static std::mt19937_64 random_words;
static std::deque<std::function<void()>> jobs;

void make_ready(uint32_t index) {
  threads[index].state = State::Ready;
  ready[index / 32] |= 1u << index % 32;
}
void defer(std::function<void()> job) { jobs.push_back(std::move(job)); }

static Thread* pick(uint32_t from) {
  const uint32_t warp = from / 32, lane = from % 32, warps = grid.warps * grid.blocks;
  switch (config().schedule) {
    case Config::Forward:
      if (uint32_t r = ready[warp] & ~((2u << lane) - 1)) return &threads[warp * 32 + uint32_t(__builtin_ctz(r))];
      for (uint32_t i = 0; i < warps; ++i) {
        const uint32_t w = (warp + i) % warps;
        if (ready[w]) return &threads[w * 32 + uint32_t(__builtin_ctz(ready[w]))];
      }
      return nullptr;
    case Config::Reverse:
      if (uint32_t r = ready[warp] & ((1u << lane) - 1)) return &threads[warp * 32 + 31 - uint32_t(__builtin_clz(r))];
      for (uint32_t i = 0; i < warps; ++i) {
        const uint32_t w = (warp + warps - i) % warps;
        if (ready[w]) return &threads[w * 32 + 31 - uint32_t(__builtin_clz(ready[w]))];
      }
      return nullptr;
    default: {
      const uint32_t start = uint32_t(random_words() % warps);
      for (uint32_t i = 0; i < warps; ++i) {
        const uint32_t w = (start + i) % warps;
        uint32_t r = ready[w];
        if (!r) continue;
        for (uint64_t skip = random_words() % uint32_t(__builtin_popcount(r)); skip > 0; --skip) r &= r - 1;
        return &threads[w * 32 + uint32_t(__builtin_ctz(r))];
      }
      return nullptr;
    }
  }
}
static void run_job() {
  std::function<void()> job = std::move(jobs.front());
  jobs.pop_front();
  job();
}
static Thread* next_thread(uint32_t from) {
  for (;;) {
    if (Thread* t = pick(from)) return t;
    if (jobs.empty()) return nullptr;
    run_job();
  }
}
[[noreturn]] static void deadlock() {
  std::string message = "deadlock: no thread can run;", previous;
  int shown = 0;
  for (uint32_t i = 0; i < grid.all(); ++i) {
    const Thread& t = threads[i];
    const std::string text = t.state == State::Done ? "exited" : std::string(t.what) + " at " + to_string(t.loc);
    if (text != previous && shown++ < 6) message += " [thread " + std::to_string(i) + "..: " + text + "]";
    previous = text;
  }
  fatal("%s", message.c_str());
}
void wait_here(const char* what, Loc loc) {
  Thread* me = self;
  me->state = State::Waiting;
  me->what = what;
  me->loc = loc;
  ready[me->warp] &= ~(1u << me->lane);
  Thread* next = next_thread(me->index);
  if (!next) deadlock();
  if (next == me) return;
  self = next;
  switch_to(me, next);
}

// ---- barriers

struct NamedBarrier {
  uint32_t arrived = 0, needed = 0;
  std::vector<uint32_t> waiting, all;
};
struct Meeting {  // lanes of a warp on their way into one collective
  const char* what;
  uint32_t mask, arrived;
  void* frames[kWarpSize];
  WarpFn fn;
  Loc loc;
};
static NamedBarrier named[kMaxCluster][16];
static std::vector<Meeting> meetings[kMaxThreads / kWarpSize];
static uint32_t barrier_arrived[kMaxCluster];

static void barrier(const char* what, Loc loc) {
  const uint32_t block = self->block, first_index = block * grid.threads;
  if (live[block] != grid.threads)
    fatal("barrier at %s after %u thread(s) of the block exited", to_string(loc).c_str(), grid.threads - live[block]);
  self->what = what;
  self->loc = loc;
  if (++barrier_arrived[block] < grid.threads) return wait_here(what, loc);
  const Thread* first = &threads[first_index];
  for (uint32_t i = 1; i < grid.threads; ++i) {
    const Thread& t = first[i];
    if (t.loc.line != first->loc.line || strcmp(t.loc.file, first->loc.file) || t.what != first->what)
      fatal("divergent barrier: thread 0 waits at %s, thread %u at %s", to_string(first->loc).c_str(), i, to_string(t.loc).c_str());
  }
  barrier_arrived[block] = 0;
  if (config().checks) {
    static std::vector<uint32_t> all;
    all.resize(grid.threads);
    for (uint32_t i = 0; i < grid.threads; ++i) all[i] = first_index + i;
    checker_join(all.data(), grid.threads, grid.blocks == 1);  // it is no epoch of the cluster's other blocks
  }
  for (uint32_t i = 0; i < grid.threads; ++i) make_ready(first_index + i);
}
void sync_threads(Loc loc) { barrier("__syncthreads", loc); }
uint32_t sync_threads_vote(Vote kind, bool predicate, Loc loc) {
  static uint32_t sums[kMaxCluster], results[kMaxCluster];  // every thread reads the result before it can reach the next vote
  uint32_t &sum = sums[self->block], &result = results[self->block], arrived = barrier_arrived[self->block];
  if (arrived == 0) sum = 0;
  sum += predicate;
  if (arrived + 1 == grid.threads) result = sum;
  barrier("__syncthreads with a vote", loc);
  return kind == Vote::Or ? result != 0 : kind == Vote::And ? result == grid.threads : result;
}
void named_barrier(uint32_t id, uint32_t count, bool wait, Loc loc) {
  if (id > 15 || count == 0 || count % 32 || count > grid.threads)
    fatal("barrier %u for %u threads at %s: ids are 0 to 15, counts multiples of 32 up to the block's threads", id, count,
          to_string(loc).c_str());
  NamedBarrier& b = named[self->block][id];
  if (b.arrived && b.needed != count)
    fatal("barrier %u at %s is used with %u and with %u threads", id, to_string(loc).c_str(), b.needed, count);
  b.needed = count;
  b.arrived++;
  b.all.push_back(self->index);
  if (b.arrived == count) {
    if (config().checks) checker_join(b.all.data(), uint32_t(b.all.size()), false);
    for (uint32_t waiter : b.waiting) make_ready(waiter);
    b = {};
    return;
  }
  if (!wait) return;
  b.waiting.push_back(self->index);
  wait_here("a named barrier", loc);
}

// Of all threads of the cluster that have not exited.
struct ClusterBarrier {
  std::vector<uint32_t> arrived, waiting;
  uint32_t phase = 0;
};
static ClusterBarrier cluster_barrier;
static uint32_t cluster_phase[kMaxThreads];  // in which a thread arrived last, plus 1; 0: it has waited since

static void complete_cluster_barrier() {
  ClusterBarrier& b = cluster_barrier;
  if (b.arrived.empty() || b.arrived.size() < all_live) return;
  if (config().checks) checker_join(b.arrived.data(), uint32_t(b.arrived.size()), false);
  for (uint32_t waiter : b.waiting) make_ready(waiter);
  b.arrived.clear();
  b.waiting.clear();
  b.phase++;
}
void cluster_arrive(Loc loc) {
  if (cluster_phase[self->index]) fatal("barrier.cluster.arrive at %s without a wait since the last one", to_string(loc).c_str());
  cluster_phase[self->index] = cluster_barrier.phase + 1;
  cluster_barrier.arrived.push_back(self->index);
  complete_cluster_barrier();
}
void cluster_wait(Loc loc) {
  uint32_t& phase = cluster_phase[self->index];
  if (!phase) fatal("barrier.cluster.wait at %s without an arrive before it", to_string(loc).c_str());
  if (phase == cluster_barrier.phase + 1) {
    cluster_barrier.waiting.push_back(self->index);
    wait_here("barrier.cluster", loc);
  }
  phase = 0;
}

// ---- warp collectives

void warp_collective(const char* what, uint32_t mask, void* frame, WarpFn fn, Loc loc, bool orders) {
  Thread* t = self;
  if (!(mask >> t->lane & 1)) fatal("%s at %s: the calling lane %u is not in its mask %08x", what, to_string(loc).c_str(), t->lane, mask);
  if (mask & exited[t->warp])
    fatal("%s at %s: mask %08x names lanes that have exited (%08x)", what, to_string(loc).c_str(), mask, exited[t->warp]);
  auto& open = meetings[t->warp];
  auto meeting = std::find_if(open.begin(), open.end(), [&](const Meeting& m) {
    return m.mask == mask && m.fn == fn && !strcmp(m.what, what) && m.loc.line == loc.line && !(m.arrived >> t->lane & 1);
  });
  if (meeting == open.end()) meeting = open.insert(open.end(), Meeting{what, mask, 0, {}, fn, loc});
  meeting->arrived |= 1u << t->lane;
  meeting->frames[t->lane] = frame;
  if (meeting->arrived != mask) return wait_here(what, loc);
  Meeting complete = *meeting;
  open.erase(meeting);
  if (fn) fn(complete.frames, mask);
  if (orders && config().checks) {
    uint32_t members[kWarpSize], count = 0;
    for (uint32_t m = mask; m; m &= m - 1) members[count++] = t->warp * 32 + uint32_t(__builtin_ctz(m));
    checker_join(members, count, false);
  }
  for (uint32_t m = mask & ~(1u << t->lane); m; m &= m - 1) make_ready(t->warp * 32 + uint32_t(__builtin_ctz(m)));
}

struct ShuffleFrame {
  uint32_t in, out, source;
};
uint32_t shuffle(uint32_t mask, uint32_t value, uint32_t source_lane, Loc loc) {
  ShuffleFrame frame{value, 0, source_lane};
  auto exchange = [](void** frames, uint32_t mask) {
    for (uint32_t m = mask; m; m &= m - 1) {
      auto& f = *static_cast<ShuffleFrame*>(frames[__builtin_ctz(m)]);
      if (!(mask >> f.source & 1))
        fatal("shuffle: lane %d reads from lane %u, which is not in the mask %08x", __builtin_ctz(m), f.source, mask);
      f.out = static_cast<ShuffleFrame*>(frames[f.source])->in;
    }
  };
  warp_collective("shfl.sync", mask, &frame, exchange, loc);
  return frame.out;
}

struct ReduceFrame {
  uint32_t value, result;
  Reduce kind;
};
static uint32_t reduce_pair(Reduce kind, uint32_t a, uint32_t b) {
  switch (kind) {
    case Reduce::Add:
      return a + b;
    case Reduce::MinU:
      return std::min(a, b);
    case Reduce::MaxU:
      return std::max(a, b);
    case Reduce::MinS:
      return uint32_t(std::min(int32_t(a), int32_t(b)));
    case Reduce::MaxS:
      return uint32_t(std::max(int32_t(a), int32_t(b)));
    case Reduce::And:
      return a & b;
    case Reduce::Or:
      return a | b;
    default:
      return a ^ b;
  }
}
uint32_t warp_reduce(const char* what, uint32_t mask, uint32_t value, Reduce kind, Loc loc) {
  ReduceFrame frame{value, 0, kind};
  auto reduce = [](void** frames, uint32_t mask) {
    auto at = [&](uint32_t lane) -> ReduceFrame& { return *static_cast<ReduceFrame*>(frames[lane]); };
    auto equal_to = [&](uint32_t v) {
      uint32_t lanes = 0;
      for (uint32_t m = mask; m; m &= m - 1) lanes |= uint32_t(at(uint32_t(__builtin_ctz(m))).value == v) << __builtin_ctz(m);
      return lanes;
    };
    const Reduce kind = at(uint32_t(__builtin_ctz(mask))).kind;
    uint32_t all = at(uint32_t(__builtin_ctz(mask))).value;
    if (kind == Reduce::Ballot)
      all = equal_to(1);
    else
      for (uint32_t m = mask & (mask - 1); m; m &= m - 1) all = reduce_pair(kind, all, at(uint32_t(__builtin_ctz(m))).value);
    for (uint32_t m = mask; m; m &= m - 1) {
      ReduceFrame& f = at(uint32_t(__builtin_ctz(m)));
      f.result = kind == Reduce::Match ? equal_to(f.value) : all;
    }
  };
  warp_collective(what, mask, &frame, reduce, loc);
  return frame.result;
}

// ---- launch

static void finish() {
  Thread* me = self;
  async_thread_end();
  me->state = State::Done;
  ready[me->warp] &= ~(1u << me->lane);
  exited[me->warp] |= 1u << me->lane;
  const uint32_t alive = --live[me->block];
  --all_live;
  for (const Meeting& m : meetings[me->warp])
    if (m.mask >> me->lane & 1) fatal("thread exits while %s at %s waits for its lane", m.what, to_string(m.loc).c_str());
  if (alive && barrier_arrived[me->block])
    fatal("thread exits while other threads wait at a barrier, which all threads of a block must reach");
  complete_cluster_barrier();
  Thread* next = all_live ? next_thread(me->index) : &host;
  if (!next) deadlock();
  if (!all_live && !jobs.empty()) {
    report("block ends with an asynchronous copy still in flight");
    while (!jobs.empty()) run_job();
  }
  self = next == &host ? nullptr : next;
  switch_to(me, next);
}

static void run_cluster() {
  const Dim b = grid.block_dim;
  all_live = grid.all();
  jobs.clear();
  cluster_barrier = {};
  for (uint32_t block = 0; block < grid.blocks; ++block) {
    live[block] = grid.threads;
    barrier_arrived[block] = 0;
    for (auto& barrier : named[block]) barrier = {};
  }
  for (uint32_t w = 0; w < grid.warps * grid.blocks; ++w) {
    ready[w] = ~0u;
    exited[w] = 0;
    meetings[w].clear();
  }
  for (uint32_t i = 0; i < grid.all(); ++i) {
    Thread& t = threads[i];
    const uint32_t in_block = i % grid.threads;
    t.index = i;
    t.lane = i % 32;
    t.warp = i / 32;
    t.block = i / grid.threads;
    t.tid = {in_block % b.x, in_block / b.x % b.y, in_block / (b.x * b.y)};
    cluster_phase[i] = 0;
    t.former_done = false;
    t.state = State::Ready;
    prepare(t, fiber_main);
  }
  if (config().checks) checker_block();
  async_block_begin();
  const uint32_t first = config().schedule == Config::Reverse  ? grid.all() - 1
                         : config().schedule == Config::Random ? uint32_t(random_words() % grid.all())
                                                               : 0;
  self = &threads[first];
  switch_to(&host, self);
  self = nullptr;
  if (!fatal_message.empty()) throw Error(std::string(kernel_name) + ": " + fatal_message);
  async_block_end();
}

void run_grid(const char* name, Dim grid_dim, Dim block_dim, uint32_t cluster, bool early, uint32_t static_bytes, uint32_t dynamic_bytes,
              void (*thread_body)(void*), void* context) {
  map_stacks();
  const uint32_t count = block_dim.x * block_dim.y * block_dim.z;  // the driver front has checked the sizes
  kernel_name = name;
  reports = 0;
  fatal_message.clear();
  random_words.seed(config().seed);
  body = thread_body;
  body_context = context;
  grid = {grid_dim, block_dim, {}, count, count / 32, dynamic_bytes, cluster, early};
  checker_grid();
  for (uint32_t z = 0; z < grid_dim.z; ++z)
    for (uint32_t y = 0; y < grid_dim.y; ++y)
      for (uint32_t x = 0; x < grid_dim.x; x += cluster) {
        grid.first = {x, y, z};
        shared_begin(static_bytes + dynamic_bytes);
        run_cluster();
      }
  if (reports) throw Error(std::string(kernel_name) + ": " + std::to_string(reports) + " report(s), first: " + first_report);
}

}  // namespace phoenix::simt
