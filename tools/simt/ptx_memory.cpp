// Loads, stores and atomics (PTX ISA 9.0, 9.7.9 and 9.7.13), every one through the checker.
#include <algorithm>
#include "memory.h"
#include "ptx.h"

namespace phoenix::simt {

// The host address of a memory operand, or null after a report that forbids the access.
static unsigned char* address(Context& c, const Instruction& i, const Operand& m, Access access) {
  const uint64_t a = raw(c, m.parts[0]) + m.value;
  const uint32_t bytes = uint32_t(i.count * i.bytes);
  const Function& f = *c.function;
  auto finding = [&](const char* what) {
    report("%s: offset %llu, %u bytes (%s at %s)", what, static_cast<unsigned long long>(a), bytes, i.opcode.c_str(),
           to_string(i.loc).c_str());
    return nullptr;
  };
  unsigned char* p = reinterpret_cast<unsigned char*>(a);
  switch (i.space) {
    case Space::Parameter:
      return m.parts[0].kind == Kind::Local ? c.local + a : p;  // of a call, or our own
    case Space::Local:
      if (a > f.local_bytes || bytes > f.local_bytes - a) return finding("local memory out of bounds");
      return c.local + a;
    case Space::Shared:
      if (const uint32_t offset = uint32_t(a) % kSharedArena;
          offset < f.shared_bytes && std::none_of(f.shared_arrays.begin(), f.shared_arrays.end(), [&](const Span& s) {
            return offset >= s.offset && offset + bytes <= s.offset + s.bytes;
          }))
        return finding("shared array out of bounds");
      p = shared_base + uint32_t(a);
      break;
    default:
      break;
  }
  if (p >= c.local && p < c.local + f.local_bytes) return p;
  if (uintptr_t(p) % bytes) return finding("misaligned access");
  return check_access(p, bytes, access, i.opcode.c_str(), i.loc) ? p : nullptr;
}

static void load(Context& c, const Instruction& i) {  // option: sign-extend
  const unsigned char* p = address(c, i, i.operands[1], Access::Read);
  const Operand& to = i.operands[0];
  for (int k = 0; k < i.count; ++k) {
    uint64_t value = 0;
    if (p) memcpy(&value, p + k * i.bytes, size_t(i.bytes));
    if (i.option && i.bytes < 8 && value >> (i.bytes * 8 - 1)) value |= ~uint64_t(0) << i.bytes * 8;
    set<uint64_t>(c, to.kind == Kind::Vector ? to.parts[size_t(k)] : to, value);
  }
}
static void store(Context& c, const Instruction& i) {
  unsigned char* p = address(c, i, i.operands[0], Access::Write);
  const Operand& from = i.operands[1];
  for (int k = 0; p && k < i.count; ++k) {
    const uint64_t value = raw(c, from.kind == Kind::Vector ? from.parts[size_t(k)] : from);
    memcpy(p + k * i.bytes, &value, size_t(i.bytes));
  }
}

enum Atomic { AddTo, MaxOf, MinOf, Exchange, CompareSwap, AndWith, OrWith, XorWith, Increment, Decrement };
template <class T>
struct AtomicOp {  // mode: operation; option: red, which returns nothing
  static void run(Context& c, const Instruction& i) {
    const Operand& m = i.operands[i.option ? 0 : 1];
    const size_t first = i.option ? 1 : 2;
    if (!address(c, i, m, Access::AtomicRead)) return;
    unsigned char* p = address(c, i, m, Access::AtomicWrite);
    if (!p) return;
    T old;
    memcpy(&old, p, sizeof old);
    const T v = get<T>(c, i.operands[first]);
    const T result = i.mode == CompareSwap ? (old == v ? get<T>(c, i.operands[first + 1]) : old) : combine(i.mode, old, v);
    memcpy(p, &result, sizeof result);
    if (!i.option) set<T>(c, i.operands[0], old);
  }
  static T combine(int operation, T old, T v) {
    if constexpr (std::is_integral_v<T>) {
      if (operation == AndWith) return old & v;
      if (operation == OrWith) return old | v;
      if (operation == XorWith) return old ^ v;
      if (operation == Increment) return old >= v ? T(0) : T(old + 1);
      if (operation == Decrement) return old == 0 || old > v ? v : T(old - 1);
    }
    return operation == AddTo ? T(old + v) : operation == MaxOf ? std::max(old, v) : operation == MinOf ? std::min(old, v) : v;
  }
};
static Handler decode_atomic(Instruction& in, const Modifiers& m) {
  static const std::map<std::string, int> operations{{"add", AddTo},       {"max", MaxOf},    {"min", MinOf}, {"exch", Exchange},
                                                     {"cas", CompareSwap}, {"and", AndWith},  {"or", OrWith}, {"xor", XorWith},
                                                     {"inc", Increment},   {"dec", Decrement}};
  in.mode = -1;
  for (auto& word : m.words)
    if (auto it = operations.find(word); it != operations.end()) in.mode = it->second;
  in.option = m.base() == "red";
  const std::string& t = m.type();
  if (in.mode < 0 || in.count != 1 || m.has("async")) return nullptr;
  if (t == "u32" || t == "b32") return AtomicOp<uint32_t>::run;
  if (t == "s32") return AtomicOp<int32_t>::run;
  if (t == "u64" || t == "b64") return AtomicOp<uint64_t>::run;
  if (t == "s64") return AtomicOp<int64_t>::run;
  if (t == "b16" && in.mode == CompareSwap) return AtomicOp<uint16_t>::run;
  if (t == "f32" && in.mode == AddTo) return AtomicOp<float>::run;
  if (t == "f64" && in.mode == AddTo) return AtomicOp<double>::run;
  return nullptr;
}

Handler decode_memory(Instruction& in, const Modifiers& m) {
  if (m.has("async") || m.has("mmio")) return nullptr;
  in.space = m.has("shared") || m.has("shared::cta") || m.has("shared::cluster") ? Space::Shared
             : m.has("global") || m.has("const")                                 ? Space::Global
             : m.has("param") || m.has("param::entry") || m.has("param::func")   ? Space::Parameter
             : m.has("local")                                                    ? Space::Local
                                                                                 : Space::Generic;
  const size_t digits = m.type().find_first_of("0123456789");
  in.bytes = digits == std::string::npos ? 0 : atoi(m.type().c_str() + digits) / 8;
  in.count = m.has("v2") ? 2 : m.has("v4") ? 4 : m.has("v8") ? 8 : 1;
  if (in.bytes < 1 || in.bytes > 8 || in.operands.size() < 2) return nullptr;
  if (m.base() == "st") return store;
  if (m.base() == "atom" || m.base() == "red") return decode_atomic(in, m);
  in.option = m.type()[0] == 's';
  return load;
}

}  // namespace phoenix::simt
