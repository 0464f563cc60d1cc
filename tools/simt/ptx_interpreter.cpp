// Runs a kernel's instructions in every thread of a grid.
#include <alloca.h>
#include <algorithm>
#include "memory.h"
#include "ptx.h"

namespace phoenix::simt {

static uint64_t special_register(Special s) {
  const Thread& t = *self;
  switch (s) {
    case Special::TidX:
      return t.tid.x;
    case Special::TidY:
      return t.tid.y;
    case Special::TidZ:
      return t.tid.z;
    case Special::NtidX:
      return grid.block_dim.x;
    case Special::NtidY:
      return grid.block_dim.y;
    case Special::NtidZ:
      return grid.block_dim.z;
    case Special::CtaX:
      return grid.block(t.block).x;
    case Special::CtaY:
      return grid.block(t.block).y;
    case Special::CtaZ:
      return grid.block(t.block).z;
    case Special::NctaX:
      return grid.grid_dim.x;
    case Special::NctaY:
      return grid.grid_dim.y;
    case Special::NctaZ:
      return grid.grid_dim.z;
    case Special::Lane:
      return t.lane;
    case Special::Warp:
      return t.warp % grid.warps;
    case Special::Warps:
      return grid.warps;
    case Special::MaskLt:
      return (1u << t.lane) - 1;
    case Special::MaskLe:
      return uint32_t((2ull << t.lane) - 1);
    case Special::MaskGt:
      return uint32_t(~((2ull << t.lane) - 1));
    case Special::MaskGe:
      return ~((1u << t.lane) - 1);
    case Special::DynamicSize:
      return grid.dynamic_bytes;
    case Special::ClusterRank:
      return t.block;
    case Special::ClusterBlocks:
      return grid.blocks;
    case Special::ClusterX:
      return grid.first.x / grid.blocks;
    case Special::ClustersX:
      return grid.grid_dim.x / grid.blocks;
    case Special::Clock:
      return switches();
    default:
      return 0;
  }
}
static uint32_t dynamic_offset(const Function& kernel) {
  return (kernel.shared_bytes + kernel.dynamic_align - 1) & ~(kernel.dynamic_align - 1);
}
static uint32_t running_dynamic_offset;  // of the kernel that runs

static uint64_t constant(const Context& c, const Operand& o) {
  switch (o.kind) {
    case Kind::Special:
      return special_register(o.special);
    case Kind::Shared:
      return self->block * kSharedArena + o.value;
    case Kind::Dynamic:
      return self->block * kSharedArena + running_dynamic_offset + o.value;
    case Kind::Parameter:
      return uint64_t(c.parameters + o.value);
    case Kind::Global:
      return uint64_t(c.module->global_base + o.value);
    default:
      return o.value;
  }
}
static void execute(Module& module, Function& f, unsigned char* parameters) {
  // Registers and local memory start with all bits set: a use before a definition reads NaN.
  const size_t slot_bytes = size_t(f.registers + 1) * sizeof(uint64_t);
  auto* slots = static_cast<uint64_t*>(alloca(slot_bytes));
  memset(slots, 0xFF, slot_bytes);
  auto* local = static_cast<unsigned char*>(alloca(f.local_bytes + 64));
  local += (64 - uintptr_t(local) % 64) % 64;
  memset(local, 0xFF, f.local_bytes);
  Context c{&module, &f, slots, parameters, local, 0, false};
  for (auto& [slot, operand] : f.constants) slots[slot] = constant(c, operand);
  const Instruction* code = f.code.data();
  while (!c.exit) {
    const Instruction& i = code[c.next++];
    if (i.predicate >= 0 && bool(slots[i.predicate] & 1) == i.predicate_negated) continue;
    i.run(c, i);
  }
}
void call_function(Context& c, const Instruction& i) {
  if (i.label == "__assertfail") fatal("a device assertion failed");
  if (i.label == "vprintf") return;  // what a kernel prints is not shown
  auto f = std::find_if(c.module->functions.begin(), c.module->functions.end(),
                        [&](const Function& f) { return !f.kernel && f.name == i.label; });
  if (f == c.module->functions.end()) fatal("call of '%s', which has no body in this module", i.label.c_str());
  auto* parameters = static_cast<unsigned char*>(alloca(f->parameter_bytes + 16));
  memset(parameters, 0xFF, f->parameter_bytes);
  const auto& arguments = i.operands[1].parts;
  if (f->results + arguments.size() != f->parameters.size()) fatal("call of '%s' with %zu arguments", i.label.c_str(), arguments.size());
  for (size_t k = 0; k < arguments.size(); ++k) {
    const Span& to = f->parameters[f->results + k];
    memcpy(parameters + to.offset, c.local + arguments[k].value, to.bytes);
  }
  execute(*c.module, *f, parameters);
  for (size_t k = 0; k < f->results; ++k)
    memcpy(c.local + i.operands[0].parts[k].value, parameters + f->parameters[k].offset, f->parameters[k].bytes);
}

Function* find_kernel(Module& module, const std::string& name) {
  for (Function& f : module.functions)
    if (f.kernel && f.name == name) return &f;
  return nullptr;
}
void load_globals(Module& module) {
  if (!module.global_bytes) return;
  module.global_base = static_cast<unsigned char*>(device_alloc(module.global_bytes));
  if (!module.global_base) throw Error("no device memory for the module's variables: " + std::to_string(module.global_bytes) + " bytes");
  for (const GlobalVariable& g : module.globals) {
    memcpy(module.global_base + g.offset, g.initial.data(), g.initial.size());
    device_written(module.global_base + g.offset, g.initial.size());
  }
}
Module::~Module() {
  if (global_base) device_free(global_base);
}

struct Launch {
  Module& module;
  Function& kernel;
  unsigned char* parameters;
};
void launch_kernel(Module& module, Function& kernel, Dim grid_dim, Dim block_dim, uint32_t cluster, bool early, uint32_t dynamic_bytes,
                   const unsigned char* parameters) {
  const size_t align = 128;  // of a CUtensorMap parameter
  std::vector<unsigned char> copy(kernel.parameter_bytes + align);
  unsigned char* base = copy.data() + (align - uintptr_t(copy.data()) % align) % align;
  memcpy(base, parameters, kernel.parameter_bytes);
  running_dynamic_offset = dynamic_offset(kernel);
  checker_launch(base, kernel.parameter_bytes);
  Launch launch{module, kernel, base};
  auto thread = [](void* context) {
    auto& l = *static_cast<Launch*>(context);
    execute(l.module, l.kernel, l.parameters);
  };
  // A kernel without dynamic shared memory needs no more than its arrays.
  run_grid(kernel.name.c_str(), grid_dim, block_dim, cluster, early, dynamic_bytes ? running_dynamic_offset : kernel.shared_bytes,
           dynamic_bytes, thread, &launch);
}

}  // namespace phoenix::simt
