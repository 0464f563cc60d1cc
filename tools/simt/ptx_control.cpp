// Branches, barriers, warp collectives (PTX ISA 9.0, 9.7.12 and 9.7.13), and the tensor and asynchronous instructions in front of async.h.
#include <algorithm>
#include <cstdlib>
#include "async.h"
#include "ptx.h"

namespace phoenix::simt {

#define HANDLER(...) +[](Context& c, const Instruction& i) { __VA_ARGS__; }

// ---- control

static void block_barrier(Context& c, const Instruction& i) {  // option: arrive only
  const uint32_t id = get<uint32_t>(c, i.operands[0]);
  if (!id && i.operands.size() == 1 && !i.option) return sync_threads(i.loc);
  named_barrier(id, i.operands.size() > 1 ? get<uint32_t>(c, i.operands[1]) : grid.threads, !i.option, i.loc);
}
static void block_vote(Context& c, const Instruction& i) {  // bar.red.{or,and,popc} d, id, predicate
  if (get<uint32_t>(c, i.operands[1])) fatal("barrier reduction at %s: only barrier 0 is emulated", to_string(i.loc).c_str());
  const uint32_t result = sync_threads_vote(Vote(i.mode), predicate(c, i.operands[2]), i.loc);
  if (Vote(i.mode) == Vote::Count)
    set<uint32_t>(c, i.operands[0], result);
  else
    set_slot(c, i.operands[0].slot, result);
}
enum ShuffleMode { ShuffleUp, ShuffleDown, ShuffleButterfly, ShuffleIndex };
static void shuffle_lanes(Context& c, const Instruction& i) {
  const uint32_t value = get<uint32_t>(c, i.operands[1]), b = get<uint32_t>(c, i.operands[2]) & 31, clamp = get<uint32_t>(c, i.operands[3]);
  const uint32_t lane = self->lane, segment = clamp >> 8 & 31, limit = clamp & 31;
  const int last = int((lane & segment) | (limit & ~segment)), first = int(lane & segment);
  const int source = i.mode == ShuffleUp          ? int(lane) - int(b)
                     : i.mode == ShuffleDown      ? int(lane + b)
                     : i.mode == ShuffleButterfly ? int(lane ^ b)
                                                  : first | int(b & ~segment);
  const bool inside = i.mode == ShuffleUp ? source >= last : source <= last;
  set<uint32_t>(c, i.operands[0], shuffle(get<uint32_t>(c, i.operands[4]), value, inside ? uint32_t(source) : lane, i.loc));
  set_slot(c, i.operands[0].second, inside);
}
static void vote(Context& c, const Instruction& i) {  // mode: ballot, any, all
  const uint32_t mask = get<uint32_t>(c, i.operands[2]);
  const uint32_t lanes = warp_reduce("vote.sync", mask, predicate(c, i.operands[1]), Reduce::Ballot, i.loc);
  if (i.mode == 0)
    set<uint32_t>(c, i.operands[0], lanes);
  else
    set_slot(c, i.operands[0].slot, i.mode == 1 ? lanes != 0 : lanes == mask);
}
static void elect(Context& c, const Instruction& i) {
  const uint32_t mask = get<uint32_t>(c, i.operands[1]);
  warp_collective("elect.sync", mask, nullptr, nullptr, i.loc);
  set<uint32_t>(c, i.operands[0], uint32_t(__builtin_ctz(mask)));
  set_slot(c, i.operands[0].second, uint32_t(__builtin_ctz(mask)) == self->lane);
}
static Handler decode_redux(Instruction& in, const Modifiers& m) {
  const bool is_signed = m.type() == "s32";
  if (m.type() != "u32" && m.type() != "s32" && m.type() != "b32") return nullptr;
  in.mode = int(m.has("add")   ? Reduce::Add
                : m.has("min") ? (is_signed ? Reduce::MinS : Reduce::MinU)
                : m.has("max") ? (is_signed ? Reduce::MaxS : Reduce::MaxU)
                : m.has("and") ? Reduce::And
                : m.has("or")  ? Reduce::Or
                               : Reduce::Xor);
  return HANDLER(
      set<uint32_t>(c, i.operands[0],
                    warp_reduce("redux.sync", get<uint32_t>(c, i.operands[2]), get<uint32_t>(c, i.operands[1]), Reduce(i.mode), i.loc)));
}
Handler decode_control(Instruction& in, const Modifiers& m) {
  const std::string& b = m.base();
  if (b == "bra") return HANDLER((void)c; c.next = i.target);
  if (b == "ret" || b == "exit") return HANDLER((void)i; c.exit = true);
  if (b == "trap") return HANDLER((void)c; fatal("trap at %s", to_string(i.loc).c_str()));
  if (b == "call") return call_function;
  if (b == "griddepcontrol") {
    if (m.has("launch_dependents")) return HANDLER((void)c; (void)i);
    return m.has("wait") ? HANDLER((void)c; (void)i; self->former_done = true) : nullptr;
  }
  if (b == "bar" || b == "barrier") {
    if (m.has("cluster")) {
      if (m.has("arrive")) return HANDLER((void)c; cluster_arrive(i.loc));
      return m.has("wait") ? HANDLER((void)c; cluster_wait(i.loc)) : nullptr;
    }
    if (m.has("warp")) return HANDLER(warp_collective("bar.warp.sync", get<uint32_t>(c, i.operands[0]), nullptr, nullptr, i.loc, true));
    if (m.has("red")) {
      in.mode = int(m.has("popc") ? Vote::Count : m.has("and") ? Vote::And : Vote::Or);
      return in.operands.size() == 3 ? block_vote : nullptr;
    }
    in.option = m.has("arrive");
    return in.operands.empty() ? nullptr : block_barrier;
  }
  if (b == "shfl") {
    in.mode = m.has("up") ? ShuffleUp : m.has("down") ? ShuffleDown : m.has("bfly") ? ShuffleButterfly : ShuffleIndex;
    return m.has("sync") && in.operands.size() == 5 ? shuffle_lanes : nullptr;
  }
  if (b == "vote") {
    in.mode = m.has("ballot") ? 0 : m.has("any") ? 1 : 2;
    return m.has("sync") && in.operands.size() == 3 ? vote : nullptr;
  }
  if (b == "match")
    return m.has("any") && m.type() == "b32" ? HANDLER(set<uint32_t>(c, i.operands[0],
                                                                     warp_reduce("match.sync", get<uint32_t>(c, i.operands[2]),
                                                                                 get<uint32_t>(c, i.operands[1]), Reduce::Match, i.loc)))
                                             : nullptr;
  if (b == "redux") return decode_redux(in, m);
  return b == "elect" ? elect : nullptr;
}

// ---- tensor and asynchronous instructions

static unsigned char* shared_pointer(Context& c, const Operand& m) { return shared_base + uint32_t(raw(c, m.parts[0]) + m.value); }
static uint64_t* barrier_pointer(Context& c, const Operand& m) { return reinterpret_cast<uint64_t*>(shared_pointer(c, m)); }
static const Operand& part(const Operand& o, int k) { return o.kind == Kind::Vector ? o.parts[size_t(k)] : o; }

static void copy_async(Context& c, const Instruction& i) {
  const uint32_t bytes = get<uint32_t>(c, i.operands[2]);
  const uint32_t read = i.operands.size() > 3 ? std::min(bytes, get<uint32_t>(c, i.operands[3])) : bytes;
  cp_async(shared_pointer(c, i.operands[0]), reinterpret_cast<const void*>(raw(c, i.operands[1].parts[0]) + i.operands[1].value), read,
           bytes, i.loc);
}
static void load_matrix(Context& c, const Instruction& i) {  // count: matrices; option: transposed
  uint32_t r[4];
  ldmatrix(r, shared_pointer(c, i.operands[1]), i.count, i.option, i.loc);
  for (int k = 0; k < i.count; ++k) set<uint32_t>(c, part(i.operands[0], k), r[k]);
}
static void store_matrix(Context& c, const Instruction& i) {
  uint32_t r[4];
  for (int k = 0; k < i.count; ++k) r[k] = get<uint32_t>(c, part(i.operands[1], k));
  stmatrix(r, shared_pointer(c, i.operands[0]), i.count, i.option, i.loc);
}
static void multiply(Context& c, const Instruction& i) {  // option: Half
  float d[4], add[4];
  uint32_t a[4], b[2];
  for (int k = 0; k < 4; ++k) {
    a[k] = get<uint32_t>(c, part(i.operands[1], k));
    add[k] = get<float>(c, part(i.operands[3], k));
  }
  for (int k = 0; k < 2; ++k) b[k] = get<uint32_t>(c, part(i.operands[2], k));
  mma_m16n8k16(d, a, b, add, Half(i.option), i.loc);
  for (int k = 0; k < 4; ++k) set<float>(c, part(i.operands[0], k), d[k]);
}
// wgmma d, a, b, scale-d, imm-scale-a, imm-scale-b [, imm-trans-a] [, imm-trans-b]; count: n; mode: a is in registers; option: Half
static void multiply_warpgroup(Context& c, const Instruction& i) {
  float d[128];
  uint32_t a[4];
  const int registers = i.count / 2;
  for (int k = 0; k < registers; ++k) d[k] = get<float>(c, part(i.operands[0], k));
  for (int k = 0; k < 4 && i.mode; ++k) a[k] = get<uint32_t>(c, part(i.operands[1], k));
  auto flag = [&](size_t k) { return i.operands.size() > k && i.operands[k].value != 0; };
  const bool transposed_a = !i.mode && flag(6), transposed_b = flag(i.mode ? 6 : 7);
  wgmma(d, i.count, i.mode ? a : nullptr, i.mode ? 0 : get<uint64_t>(c, i.operands[1]), get<uint64_t>(c, i.operands[2]),
        predicate(c, i.operands[3]), transposed_a, transposed_b, Half(i.option), i.loc);
  for (int k = 0; k < registers; ++k) set<float>(c, part(i.operands[0], k), d[k]);
  if (!i.mode) return;
  const uint64_t* slots[4];
  for (int k = 0; k < 4; ++k) slots[k] = c.slots + part(i.operands[1], k).slot;
  wgmma_hold(slots, i.loc);
}
// mapa d, a, rank: the same place in another block's shared memory
static void map_address(Context& c, const Instruction& i) {
  const uint32_t rank = get<uint32_t>(c, i.operands[2]);
  if (rank >= grid.blocks) fatal("mapa at %s: rank %u in a cluster of %u blocks", to_string(i.loc).c_str(), rank, grid.blocks);
  set<uint32_t>(c, i.operands[0], rank * kSharedArena + get<uint32_t>(c, i.operands[1]) % kSharedArena);
}
enum TmaMode { TmaTile, TmaIm2col, TmaStore };
static void tensor_copy(Context& c, const Instruction& i) {  // mode: TmaMode; count: rank
  const Operand& tensor = i.operands[i.mode == TmaStore ? 0 : 1];
  const auto* map = reinterpret_cast<const CUtensorMap*>(raw(c, tensor.parts[0]) + tensor.value);
  int coordinates[5] = {};
  uint16_t offsets[3] = {};
  for (int k = 0; k < i.count; ++k) coordinates[k] = get<int>(c, tensor.parts[1].parts[size_t(k)]);
  if (i.mode == TmaStore) return tma_store(map, shared_pointer(c, i.operands[1]), coordinates, i.count, i.loc);
  if (i.mode == TmaIm2col)
    for (size_t k = 0; k < i.operands[3].parts.size(); ++k) offsets[k] = get<uint16_t>(c, i.operands[3].parts[k]);
  auto load = [&](unsigned char* to, uint64_t* barrier) {
    tma_load(to, map, barrier, coordinates, i.count, i.mode == TmaIm2col ? offsets : nullptr, i.loc);
  };
  unsigned char* to = shared_pointer(c, i.operands[0]);
  uint64_t* barrier = barrier_pointer(c, i.operands[2]);
  if (!i.option) return load(to, barrier);
  // Multicast: to the same place in each block of the mask, whose own mbarrier is told.
  const uint32_t mask = get<uint16_t>(c, i.operands.back());
  if (!mask || mask >> grid.blocks)
    fatal("TMA load at %s: multicast mask %#x in a cluster of %u blocks", to_string(i.loc).c_str(), mask, grid.blocks);
  for (uint32_t rank = 0; rank < grid.blocks; ++rank)
    if (mask >> rank & 1)
      load(shared_base + rank * kSharedArena + shared_offset(to) % kSharedArena,
           reinterpret_cast<uint64_t*>(shared_base + rank * kSharedArena + shared_offset(barrier) % kSharedArena));
}

static Handler decode_copy(Instruction& in, const Modifiers& m) {
  if (!m.has("async")) return nullptr;
  if (!m.has("bulk")) {
    if (m.has("commit_group")) return HANDLER((void)c; (void)i; cp_async_commit());
    if (m.has("wait_group")) return HANDLER((void)c; cp_async_wait(int(i.operands[0].value)));
    if (m.has("wait_all")) return HANDLER((void)c; (void)i; cp_async_commit(); cp_async_wait(0));
    const bool plain = !m.has("mbarrier") && in.operands.size() >= 3 && in.operands[2].kind == Kind::Immediate;
    const uint64_t bytes = plain ? in.operands[2].value : 0;
    return bytes == 4 || bytes == 8 || bytes == 16 ? copy_async : nullptr;
  }
  if (m.has("commit_group")) return HANDLER((void)c; (void)i; tma_store_commit());
  if (m.has("wait_group")) return HANDLER((void)c; tma_store_wait(int(i.operands[0].value)));
  in.count = 0;
  for (auto& word : m.words)
    if (word.size() == 2 && word[1] == 'd') in.count = word[0] - '0';
  in.mode = m.has("bulk_group") ? TmaStore : m.has("im2col") ? TmaIm2col : TmaTile;
  in.option = m.has("multicast::cluster");
  const size_t tensor = in.mode == TmaStore ? 0 : 1, wanted = size_t(in.option) + (in.mode == TmaStore ? 2 : in.mode == TmaIm2col ? 4 : 3);
  if (!m.has("tensor") || m.has("prefetch") || in.count < 1 || in.count > 5 || in.operands.size() < wanted) return nullptr;
  const Operand& map = in.operands[tensor];
  if (map.parts.size() != 2 || map.parts[1].parts.size() != size_t(in.count)) return nullptr;
  if (in.mode == TmaIm2col && (in.count != 4 || in.operands[3].parts.size() != 2)) return nullptr;
  return tensor_copy;
}
static Handler decode_mbarrier(Instruction& in, const Modifiers& m) {
  const size_t n = in.operands.size();
  if (m.has("shared::cluster") && !m.has("arrive")) return nullptr;
  if (m.has("init") && n == 2) return HANDLER(mbarrier_init(barrier_pointer(c, i.operands[0]), get<uint32_t>(c, i.operands[1]), i.loc));
  if (m.has("inval") && n == 1) return HANDLER(mbarrier_invalidate(barrier_pointer(c, i.operands[0]), i.loc));
  if (m.has("arrive") && m.has("expect_tx") && n == 3)
    return HANDLER(mbarrier_arrive(barrier_pointer(c, i.operands[1]), 1, get<uint32_t>(c, i.operands[2]), i.loc));
  if (m.has("arrive") && !m.has("noComplete") && (n == 2 || n == 3))
    return HANDLER(
        mbarrier_arrive(barrier_pointer(c, i.operands[1]), i.operands.size() > 2 ? get<uint32_t>(c, i.operands[2]) : 1, 0, i.loc));
  if (m.has("expect_tx") && n == 2)
    return HANDLER(mbarrier_expect(barrier_pointer(c, i.operands[0]), get<uint32_t>(c, i.operands[1]), i.loc));
  if ((m.has("try_wait") || m.has("test_wait")) && m.has("parity") && n >= 3)
    return HANDLER(mbarrier_wait(barrier_pointer(c, i.operands[1]), get<uint32_t>(c, i.operands[2]), i.loc);
                   set_slot(c, i.operands[0].slot, true));
  return nullptr;
}
static Handler decode_wgmma(Instruction& in, const Modifiers& m) {
  if (m.has("fence")) return HANDLER((void)c; (void)i; wgmma_fence());
  if (m.has("commit_group")) return HANDLER((void)c; (void)i; wgmma_commit());
  if (m.has("wait_group")) return HANDLER((void)c; wgmma_wait(int(i.operands[0].value), i.loc));
  const std::string& type = m.type();
  if (!m.has("mma_async") || !m.has("f32") || m.type_before() != type || (type != "bf16" && type != "f16") || in.operands.size() < 6)
    return nullptr;
  for (auto& word : m.words)
    if (word.rfind("m64n", 0) == 0 && word.find("k16") != std::string::npos) in.count = atoi(word.c_str() + 4);
  in.mode = in.operands[1].kind == Kind::Vector;
  in.option = int(type == "bf16" ? Half::Bf16 : Half::F16);
  for (size_t k : {size_t(4), size_t(5)})
    if (in.operands[k].value != 1) return nullptr;  // negated operands
  if (in.count < 8 || in.count > 256 || in.count % 8 || in.operands[0].parts.size() != size_t(in.count / 2)) return nullptr;
  return in.mode && in.operands[1].parts.size() != 4 ? nullptr : multiply_warpgroup;
}
static Handler decode_matrix(Instruction& in, const Modifiers& m) {
  const bool load = m.base() == "ldmatrix";
  in.count = m.has("x1") ? 1 : m.has("x2") ? 2 : m.has("x4") ? 4 : 0;
  in.option = m.has("trans");
  if (!in.count || !m.has("m8n8") || m.type() != "b16" || in.operands.size() != 2) return nullptr;
  const Operand& registers = in.operands[load ? 0 : 1];
  if (registers.kind == Kind::Vector && registers.parts.size() != size_t(in.count)) return nullptr;
  return load ? load_matrix : store_matrix;
}
static Handler decode_mma(Instruction& in, const Modifiers& m) {
  const size_t n = m.words.size();
  if (n < 9 || in.operands.size() != 4 || !m.has("m16n8k16") || !m.has("row") || !m.has("col")) return nullptr;
  const std::string &d = m.words[n - 4], &a = m.words[n - 3], &b = m.words[n - 2], &c = m.words[n - 1];
  if (d != "f32" || c != "f32" || a != b || (a != "bf16" && a != "f16")) return nullptr;
  const size_t sizes[] = {4, 4, 2, 4};
  for (size_t k = 0; k < 4; ++k)
    if (in.operands[k].parts.size() != sizes[k]) return nullptr;
  in.option = int(a == "bf16" ? Half::Bf16 : Half::F16);
  return multiply;
}
Handler decode_tensor(Instruction& in, const Modifiers& m) {
  const std::string& b = m.base();
  if (b == "cp") return decode_copy(in, m);
  if (b == "mbarrier") return decode_mbarrier(in, m);
  if (b == "mapa") return m.has("shared::cluster") && m.type() == "u32" && in.operands.size() == 3 ? map_address : nullptr;
  if (b == "wgmma") return decode_wgmma(in, m);
  if (b == "mma") return decode_mma(in, m);
  if (b == "fence") {
    if (m.has("mbarrier_init")) return HANDLER((void)c; (void)i; mbarrier_announce());
    return m.has("proxy") ? HANDLER((void)c; (void)i; proxy_fence(self->index); mbarrier_announce()) : HANDLER((void)c; (void)i);
  }
  if (b == "setmaxnreg") {  // registers are not allocated here; the count must be one that the hardware takes
    const uint64_t count = in.operands.empty() ? 0 : in.operands[0].value;
    return count >= 24 && count <= 256 && count % 8 == 0 ? HANDLER((void)c; (void)i) : nullptr;
  }
  return decode_matrix(in, m);
}

}  // namespace phoenix::simt
