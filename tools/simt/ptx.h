// PTX modules: the parser makes instructions whose handler comes from the opcode table; the interpreter runs them, one fiber per thread.
// Anything whose meaning the handlers would not honour is refused when the module is loaded, never approximated.
#pragma once
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>
#include "engine.h"

namespace phoenix::simt {

enum class Kind : uint8_t { None, Register, Immediate, Special, Shared, Dynamic, Parameter, Local, Global, Memory, Vector, Sink };
enum class Special : uint8_t {
  TidX,
  TidY,
  TidZ,
  NtidX,
  NtidY,
  NtidZ,
  CtaX,
  CtaY,
  CtaZ,
  NctaX,
  NctaY,
  NctaZ,
  Lane,
  Warp,
  Warps,
  MaskLt,
  MaskLe,
  MaskGt,
  MaskGe,
  Clock,
  ClusterRank,
  ClusterBlocks,
  ClusterX,
  ClustersX,
  DynamicSize,
  Zero
};
// Constants and special registers have register slots too, filled when a thread starts: reading an operand is reading a slot.
struct Operand {
  Kind kind = Kind::None;
  int slot = -1;
  int second = -1;       // predicate|second
  bool negated = false;  // !predicate
  Special special{};
  uint64_t value = 0;          // Immediate; offset of Shared, Parameter, Local, Global, Memory
  std::vector<Operand> parts;  // Vector: its elements. Memory: base, then a tensor's coordinates
};

struct Context;
struct Instruction;
using Handler = void (*)(Context&, const Instruction&);
enum class Space : uint8_t { Global, Shared, Parameter, Local, Generic };

struct Instruction {
  Handler run = nullptr;
  int predicate = -1;
  bool predicate_negated = false;
  std::vector<Operand> operands;
  std::string opcode, label;  // label: of a branch or call
  int target = -1;
  Space space = Space::Generic;
  int count = 1, bytes = 4;  // elements and bytes of each, of memory accesses
  int mode = 0, option = 0;  // what the opcode's modifiers select; see its row in the table
  Loc loc;
};
struct Span {
  uint32_t offset, bytes;
};
struct Function {
  std::string name;
  bool kernel = false;
  std::vector<Instruction> code;
  int registers = 0;
  std::vector<std::pair<int, Operand>> constants;  // slot, what fills it
  std::vector<Span> parameters;                    // results first
  size_t results = 0;
  uint32_t parameter_bytes = 0, local_bytes = 0, max_threads = kMaxThreads;
  uint32_t shared_bytes = 0, dynamic_align = 16;  // static shared memory; where the dynamic part starts
  std::vector<Span> shared_arrays;                // with red zones between them
};
struct GlobalVariable {
  std::string name;
  uint64_t offset;
  std::vector<unsigned char> initial;
};
struct Module {
  std::deque<Function> functions;
  std::vector<GlobalVariable> globals;
  uint64_t global_bytes = 0;
  unsigned char* global_base = nullptr;  // in device memory
  std::map<int, std::string> files;
  ~Module();
  Module() = default;
  Module(const Module&) = delete;
};

// What one thread (one call) works on.
struct Context {
  Module* module;
  Function* function;
  uint64_t* slots;
  unsigned char *parameters, *local;
  int next;  // instruction
  bool exit;
};

// An opcode's modifiers: "ld.global.v4.f32" → ld, {global, v4, f32}.
struct Modifiers {
  std::vector<std::string> words;
  explicit Modifiers(const std::string& opcode);
  const std::string& base() const { return words.front(); }
  const std::string& type() const { return words.back(); }
  std::string type_before() const { return words.size() > 1 ? words[words.size() - 2] : ""; }
  bool has(const char* word) const;
};
// Sets the instruction's handler, space, count, bytes, mode and option; null: not supported.
using Decode = Handler (*)(Instruction&, const Modifiers&);
Handler decode(Instruction& instruction);
const std::vector<std::string>& supported_opcodes();

// ---- operands in handlers
inline uint64_t raw(Context& c, const Operand& o) { return o.slot >= 0 ? c.slots[o.slot] : 0; }
template <class T>
T get(Context& c, const Operand& o) {
  const uint64_t bits = raw(c, o);
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline bool predicate(Context& c, const Operand& o) { return bool(raw(c, o) & 1) != o.negated; }
template <class T>
void set(Context& c, const Operand& o, T value) {
  if (o.kind != Kind::Register) return;
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  c.slots[o.slot] = bits;
}
inline void set_slot(Context& c, int slot, bool value) {
  if (slot >= 0) c.slots[slot] = value;
}

// ---- the parts of the opcode table
Handler decode_arithmetic(Instruction&, const Modifiers&);  // add … max, neg, abs, mad, fma, special functions; integers, floats, halves
Handler decode_logic(Instruction&, const Modifiers&);       // and, or, xor, not, shifts, bit fields, prmt, lop3
Handler decode_select(Instruction&, const Modifiers&);      // setp, selp, mov
Handler decode_convert(Instruction&, const Modifiers&);     // cvt, cvta
Handler decode_memory(Instruction&, const Modifiers&);      // ld, st, atom, red
Handler decode_control(Instruction&, const Modifiers&);     // bra, call, ret, barriers, votes, shuffles
Handler decode_tensor(Instruction&, const Modifiers&);      // cp.async, ldmatrix, mma, mbarrier, TMA, wgmma

// ---- modules
std::shared_ptr<Module> parse_ptx(const std::string& text);      // throws Error with the line
Function* find_kernel(Module& module, const std::string& name);  // null if there is none
void launch_kernel(Module& module, Function& kernel, Dim grid_dim, Dim block_dim, uint32_t cluster, bool early, uint32_t dynamic_bytes,
                   const unsigned char* parameters);
void load_globals(Module& module);  // .global and .const variables go to device memory
void call_function(Context& c, const Instruction& i);

}  // namespace phoenix::simt
