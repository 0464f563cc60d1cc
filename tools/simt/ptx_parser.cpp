// Reads the PTX text that nvcc writes (PTX ISA 9.0, chapters 4 and 5).
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <tuple>
#include <unordered_map>
#include "ptx.h"

namespace phoenix::simt {

static bool starts(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }
static std::string trim(const std::string& s) {
  const size_t first = s.find_first_not_of(" \t\n\r"), last = s.find_last_not_of(" \t\n\r");
  return first == std::string::npos ? "" : s.substr(first, last - first + 1);
}
// At commas outside of brackets.
static std::vector<std::string> split_list(const std::string& s) {
  std::vector<std::string> items;
  std::string item;
  int depth = 0;
  for (char ch : s) {
    if (strchr("{[(", ch)) depth++;
    if (strchr("}])", ch)) depth--;
    if (ch == ',' && !depth) {
      items.push_back(trim(item));
      item.clear();
    } else {
      item += ch;
    }
  }
  if (!trim(item).empty()) items.push_back(trim(item));
  return items;
}
static uint32_t align_up(uint32_t offset, uint32_t align) { return (offset + align - 1) & ~(align - 1); }

constexpr uint32_t kRedZone = 16;                // between static shared arrays
constexpr uint32_t kLargestVariable = 1u << 30;  // bytes

struct Variable {
  std::string name;
  uint32_t align = 0, element = 1, bytes = 0;
};
struct Symbol {
  Kind kind;
  uint32_t offset;
};
using Symbols = std::unordered_map<std::string, Symbol>;

struct Parser {
  Module& module;
  std::string text;
  size_t at = 0;
  Symbols globals;
  uint32_t global_shared = 0, dynamic_align = 16;
  std::vector<Span> global_arrays;
  // of the function being read
  Function* function = nullptr;
  Symbols symbols;
  std::unordered_map<std::string, int> registers, labels;
  std::map<std::tuple<Kind, Special, uint64_t>, int> constant_slots;
  std::vector<std::string> scopes;                                    // names inside { } hide those outside
  std::vector<std::pair<size_t, std::vector<std::string>>> branches;  // instruction, scopes it stands in
  int scope_count = 0;
  Loc loc;

  Parser(Module& m, const std::string& t) : module(m), text(t) {}
  [[noreturn]] void bad(const std::string& what) const {
    const auto lines = std::count(text.begin(), text.begin() + long(std::min(at, text.size())), '\n');
    throw Error("PTX line " + std::to_string(lines + 1) + ": " + what);
  }
  void skip_space() {
    while (at < text.size() && isspace(static_cast<unsigned char>(text[at]))) ++at;
  }
  char here() const { return at < text.size() ? text[at] : '\0'; }
  size_t find(char ch, size_t from) const {
    const size_t found = text.find(ch, from);
    if (found == std::string::npos) bad(std::string("the text ends before '") + ch + "'");
    return found;
  }
  std::string until(char ch) {
    const size_t end = find(ch, at);
    std::string s = trim(text.substr(at, end - at));
    at = end + 1;
    return s;
  }
  uint64_t number(const std::string& s) const {
    if (s.empty()) bad("a number was expected");
    return s[0] == '-' ? uint64_t(strtoll(s.c_str(), nullptr, 0)) : strtoull(s.c_str(), nullptr, 0);
  }

  // ---- operands

  int register_slot(const std::string& name) {
    for (size_t k = scopes.size(); k-- > 0;)
      if (auto it = registers.find(scopes[k] + name); it != registers.end()) return it->second;
    if (name[0] != '%') return -1;
    return registers[name] = function->registers++;
  }
  Operand constant(Operand o) {
    if (!function) return o;
    auto [it, fresh] = constant_slots.try_emplace({o.kind, o.special, o.value}, function->registers);
    if (fresh) {
      function->registers++;
      function->constants.push_back({it->second, o});
    }
    o.slot = it->second;
    return o;
  }
  Operand immediate(uint64_t value) {
    Operand o;
    o.kind = Kind::Immediate;
    o.value = value;
    return constant(o);
  }
  Operand vector(const std::string& inside) {
    Operand o;
    o.kind = Kind::Vector;
    for (auto& item : split_list(inside)) o.parts.push_back(operand(item));
    return o;
  }
  Operand memory(const std::string& inside) {
    Operand o;
    o.kind = Kind::Memory;
    const auto items = split_list(inside);
    if (items.empty()) bad("an empty address");
    std::string base = items[0];
    if (size_t plus = base.find('+'); plus != std::string::npos) {
      o.value = number(trim(base.substr(plus + 1)));
      base = trim(base.substr(0, plus));
    }
    o.parts.push_back(operand(base));
    if (items.size() > 1) o.parts.push_back(operand(items[1]));
    return o;
  }
  Operand operand(const std::string& s) {
    static const std::unordered_map<std::string, Special> specials{{"%tid.x", Special::TidX},
                                                                   {"%tid.y", Special::TidY},
                                                                   {"%tid.z", Special::TidZ},
                                                                   {"%ntid.x", Special::NtidX},
                                                                   {"%ntid.y", Special::NtidY},
                                                                   {"%ntid.z", Special::NtidZ},
                                                                   {"%ctaid.x", Special::CtaX},
                                                                   {"%ctaid.y", Special::CtaY},
                                                                   {"%ctaid.z", Special::CtaZ},
                                                                   {"%nctaid.x", Special::NctaX},
                                                                   {"%cluster_ctarank", Special::ClusterRank},
                                                                   {"%cluster_ctaid.x", Special::ClusterRank},
                                                                   {"%cluster_nctarank", Special::ClusterBlocks},
                                                                   {"%cluster_nctaid.x", Special::ClusterBlocks},
                                                                   {"%clusterid.x", Special::ClusterX},
                                                                   {"%nclusterid.x", Special::ClustersX},
                                                                   {"%nctaid.y", Special::NctaY},
                                                                   {"%nctaid.z", Special::NctaZ},
                                                                   {"%laneid", Special::Lane},
                                                                   {"%warpid", Special::Warp},
                                                                   {"%nwarpid", Special::Warps},
                                                                   {"%lanemask_lt", Special::MaskLt},
                                                                   {"%lanemask_le", Special::MaskLe},
                                                                   {"%lanemask_gt", Special::MaskGt},
                                                                   {"%lanemask_ge", Special::MaskGe},
                                                                   {"%clock", Special::Clock},
                                                                   {"%clock64", Special::Clock},
                                                                   {"%globaltimer", Special::Clock},
                                                                   {"%dynamic_smem_size", Special::DynamicSize},
                                                                   {"%cluster_ctarank", Special::Zero},
                                                                   {"%cluster_ctaid.x", Special::Zero},
                                                                   {"%cluster_ctaid.y", Special::Zero},
                                                                   {"%cluster_ctaid.z", Special::Zero}};
    if (s.empty()) bad("an operand is missing");
    Operand o;
    if (s == "_") {
      o.kind = Kind::Sink;
      return o;
    }
    if (s[0] == '{' || s[0] == '(') return vector(s.substr(1, s.size() - 2));
    if (s[0] == '[') return memory(s.substr(1, s.size() - 2));
    if (s[0] == '!') {
      o = operand(trim(s.substr(1)));
      o.negated = !o.negated;
      return o;
    }
    if (size_t bar = s.find('|'); bar != std::string::npos) {
      o = operand(trim(s.substr(0, bar)));
      o.second = operand(trim(s.substr(bar + 1))).slot;
      return o;
    }
    if (auto it = specials.find(s); it != specials.end()) {
      o.kind = Kind::Special;
      o.special = it->second;
      return constant(o);
    }
    if (s.size() == 10 && (starts(s, "0f") || starts(s, "0F"))) return immediate(strtoull(s.c_str() + 2, nullptr, 16));
    if (s.size() == 18 && (starts(s, "0d") || starts(s, "0D"))) return immediate(strtoull(s.c_str() + 2, nullptr, 16));
    if (isdigit(static_cast<unsigned char>(s[0])) || s[0] == '-') return immediate(number(s));
    if (s == "WARP_SZ") return immediate(kWarpSize);
    for (const Symbols* table : {&symbols, &globals}) {
      auto it = table->find(s);
      if (it == table->end()) continue;
      o.kind = it->second.kind;
      o.value = it->second.offset;
      return constant(o);
    }
    if (!function) bad("unknown name " + s);
    o.kind = Kind::Register;
    o.slot = register_slot(s);
    if (o.slot < 0) bad("unknown operand " + s);
    return o;
  }

  // ---- declarations: ".shared .align 16 .b8 name[64]", ".param .u64 name"

  Variable variable(const std::string& declaration) const {
    Variable v;
    std::istringstream words(declaration);
    for (std::string w; words >> w;) {
      if (w == ".align") {
        words >> v.align;
      } else if (w[0] == '.') {
        if (strchr("busf", w[1]) && w.size() > 2 && isdigit(static_cast<unsigned char>(w[2])))
          v.element = uint32_t(atoi(w.c_str() + 2)) / 8;
      } else {
        v.name = w;
        break;
      }
    }
    if (!v.align) v.align = v.element;
    if (!v.align || v.align & (v.align - 1) || v.align > 4096) bad("an alignment that is no power of two up to 4096");
    uint64_t bytes = v.element;
    if (size_t bracket = v.name.find('['); bracket != std::string::npos) {
      bytes *= strtoull(v.name.c_str() + bracket + 1, nullptr, 0);
      v.name.resize(bracket);
    }
    if (bytes > kLargestVariable) bad("a variable of " + std::to_string(bytes) + " bytes");
    v.bytes = uint32_t(bytes);
    return v;
  }
  void global_variable(const Variable& v, const std::string& declaration) {
    module.global_bytes = (module.global_bytes + std::max(v.align, 16u) - 1) & ~uint64_t(std::max(v.align, 16u) - 1);
    if (module.global_bytes + v.bytes > kLargestVariable) bad("more than 1 GiB of global variables");
    globals[v.name] = {Kind::Global, uint32_t(module.global_bytes)};
    std::vector<unsigned char> initial(v.bytes);
    if (size_t equals = declaration.find('='); equals != std::string::npos) {
      const size_t open = declaration.find('{', equals);
      const std::string values =
          open == std::string::npos ? declaration.substr(equals + 1) : declaration.substr(open + 1, declaration.find('}', open) - open - 1);
      size_t offset = 0;
      for (auto& item : split_list(values)) {
        const Operand element = operand(trim(item));
        if (element.kind != Kind::Immediate) bad("an initial value that is not a number: " + item);
        const uint64_t bits = element.value;
        if (offset + v.element > initial.size()) bad("more initial values than " + v.name + " has elements");
        memcpy(&initial[offset], &bits, v.element);
        offset += v.element;
      }
    }
    module.globals.push_back({v.name, module.global_bytes, std::move(initial)});
    module.global_bytes += v.bytes;
  }
  void declare(const std::string& declaration, Symbols& table) {
    const Variable v = variable(declaration);
    const bool shared = declaration.find(".shared") != std::string::npos;
    if (shared && declaration.find(".extern") != std::string::npos) {
      table[v.name] = {Kind::Dynamic, 0};
      dynamic_align = std::max(dynamic_align, v.align);
    } else if (shared) {
      uint32_t& top = function ? function->shared_bytes : global_shared;
      top = align_up(top, v.align);
      table[v.name] = {Kind::Shared, top};
      (function ? function->shared_arrays : global_arrays).push_back({top, v.bytes});
      top += v.bytes + kRedZone;
      if (top > kSharedArena) bad("static shared memory over " + std::to_string(kSharedArena) + " bytes");
    } else if (function && (starts(declaration, ".param") || starts(declaration, ".local"))) {
      function->local_bytes = align_up(function->local_bytes, std::max(v.align, 16u));
      table[v.name] = {Kind::Local, function->local_bytes};
      function->local_bytes += v.bytes;
      if (function->local_bytes > 32 * 1024) bad("more than 32 KiB of local memory in a thread: the emulator's stacks hold no more");
    } else if (!function && (declaration.find(".global") != std::string::npos || declaration.find(".const") != std::string::npos)) {
      global_variable(v, declaration);
    } else {
      bad("a declaration that the emulator does not know: " + declaration);
    }
  }

  // ---- statements

  void line_mark() {
    const size_t end = find('\n', at);
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    int file = 0;
    unsigned number = 0;
    sscanf(line.c_str(), ".loc %d %u", &file, &number);
    if (!number) return;
    // Code inlined from CUDA's own headers is shown where the kernel calls it.
    if (size_t inlined = line.find("inlined_at");
        inlined != std::string::npos && module.files.count(file) && module.files[file].find("/cuda") != std::string::npos)
      sscanf(line.c_str() + inlined, "inlined_at %d %u", &file, &number);
    auto it = module.files.find(file);
    loc = {it == module.files.end() ? "?" : it->second.c_str(), number};
  }
  void declare_registers(const std::string& declaration) {  // ".reg .b32 t" inside a scope; "%r<9>" are made when they are used
    std::istringstream words(declaration);
    std::string word, names;
    words >> word >> word;
    std::getline(words, names);
    for (auto& name : split_list(names))
      if (name.find('<') == std::string::npos) registers[scopes.back() + name] = function->registers++;
  }
  void instruction(std::string s) {
    Instruction in;
    in.loc = loc;
    if (s[0] == '@') {
      const size_t space = s.find_first_of(" \t");
      if (space == std::string::npos) bad("a predicate without an instruction");
      std::string name = s.substr(1, space - 1);
      if (name[0] == '!') {
        in.predicate_negated = true;
        name = name.substr(1);
      }
      in.predicate = register_slot(name);
      if (in.predicate < 0) bad("unknown predicate " + name);
      s = trim(s.substr(space));
    }
    const size_t space = s.find_first_of(" \t\n");
    in.opcode = s.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : trim(s.substr(space));
    if (starts(in.opcode, "call")) {
      const auto items = split_list(rest);
      if (items.empty()) bad("a call of nothing");
      const size_t name = items[0][0] == '(' ? 1 : 0;
      if (name >= items.size()) bad("a call of nothing");
      in.label = items[name];
      in.operands.resize(2);  // results, arguments
      if (name) in.operands[0] = operand(items[0]);
      if (items.size() > name + 1) in.operands[1] = operand(items[name + 1]);
    } else if (starts(in.opcode, "bra")) {
      in.label = rest;
      branches.push_back({function->code.size(), scopes});
    } else {
      for (auto& item : split_list(rest)) in.operands.push_back(operand(item));
    }
    in.run = decode(in);
    if (!in.run) bad("instruction not supported by the emulator: " + in.opcode);
    function->code.push_back(std::move(in));
  }
  void statement() {
    if (here() == '{') {
      ++at;
      scopes.push_back("scope" + std::to_string(++scope_count) + ":");
      return;
    }
    if (here() == '}') {
      ++at;
      scopes.pop_back();
      return;
    }
    if (here() == '.') {
      if (text.compare(at, 5, ".loc ") == 0 || text.compare(at, 5, ".loc\t") == 0) return line_mark();
      const std::string declaration = until(';');
      if (starts(declaration, ".pragma")) return;
      if (starts(declaration, ".reg")) return declare_registers(declaration);
      return declare(declaration, symbols);
    }
    size_t end = at;
    while (end < text.size() && (isalnum(static_cast<unsigned char>(text[end])) || strchr("_$%", text[end]))) ++end;
    if (end + 1 < text.size() && text[end] == ':' && text[end + 1] != ':') {
      labels[scopes.back() + text.substr(at, end - at)] = int(function->code.size());
      at = end + 1;
      return;
    }
    if (std::string s = until(';'); !s.empty()) instruction(s);
  }

  // ---- functions and the module

  void parameters(const std::string& list) {
    for (auto& declaration : split_list(list)) {
      const Variable v = variable(declaration);
      function->parameter_bytes = align_up(function->parameter_bytes, v.align);
      symbols[v.name] = {Kind::Parameter, function->parameter_bytes};
      function->parameters.push_back({function->parameter_bytes, v.bytes});
      function->parameter_bytes += v.bytes;
      if (function->parameter_bytes > 32764) bad("more than 32764 bytes of parameters");
    }
  }
  void read_function(bool kernel) {
    module.functions.emplace_back();
    function = &module.functions.back();
    function->kernel = kernel;
    function->shared_bytes = global_shared;
    function->shared_arrays = global_arrays;
    registers.clear();
    symbols.clear();
    labels.clear();
    branches.clear();
    constant_slots.clear();
    scopes = {""};
    skip_space();
    if (!kernel && here() == '(') {
      const size_t close = find(')', at);
      parameters(text.substr(at + 1, close - at - 1));
      function->results = function->parameters.size();
      at = close + 1;
    }
    const size_t open = find('(', at), close = find(')', open), brace = find('{', close);
    function->name = trim(text.substr(at, open - at));
    parameters(text.substr(open + 1, close - open - 1));
    const std::string head = text.substr(close + 1, brace - close - 1);
    if (head.find("cluster") != std::string::npos) bad("clusters are not emulated");
    if (size_t bound = head.find(".maxntid"); bound != std::string::npos) {
      unsigned x = 1, y = 1, z = 1;
      sscanf(head.c_str() + bound, ".maxntid %u, %u, %u", &x, &y, &z);
      function->max_threads = std::min<uint64_t>(uint64_t(x) * y * z, kMaxThreads);
    }
    at = brace + 1;
    while (true) {
      skip_space();
      if (at >= text.size()) bad("the text ends inside " + function->name);
      if (here() == '}' && scopes.size() == 1) break;
      statement();
    }
    ++at;
    for (auto& [index, chain] : branches) {
      Instruction& in = function->code[index];
      for (size_t k = chain.size(); k-- > 0 && in.target < 0;)
        if (auto it = labels.find(chain[k] + in.label); it != labels.end()) in.target = it->second;
      if (in.target < 0) bad("unknown label " + in.label);
    }
    Instruction last;  // falling off the end returns
    last.opcode = "ret";
    last.run = decode(last);
    function->code.push_back(std::move(last));
    function = nullptr;
  }
  void strip_comments_and_sections() {
    std::string kept;
    kept.reserve(text.size());
    for (size_t i = 0; i < text.size(); ++i) {
      if (text.compare(i, 2, "//") == 0) {
        i = text.find('\n', i);
        if (i == std::string::npos) break;
      }
      kept += text[i];
    }
    text = std::move(kept);
    for (size_t i = 0; (i = text.find(".file", i)) != std::string::npos; i += 5) {
      int number;
      char name[512];
      if (sscanf(text.c_str() + i, ".file %d \"%511[^\"]", &number, name) == 2) module.files[number] = name;
    }
    for (size_t i = 0; (i = text.find(".section", i)) != std::string::npos;) text.erase(i, find('}', i) - i + 1);
  }
  void run() {
    strip_comments_and_sections();
    while (skip_space(), at < text.size()) {
      if (text.compare(at, 8, ".version") == 0 || text.compare(at, 7, ".target") == 0 || text.compare(at, 13, ".address_size") == 0 ||
          text.compare(at, 5, ".file") == 0) {
        at = text.find('\n', at);
        if (at == std::string::npos) return;
        continue;
      }
      const size_t semicolon = text.find(';', at), brace = text.find('{', at);
      const size_t end = std::min(semicolon, brace), entry = text.find(".entry", at), func = text.find(".func", at);
      if (end == std::string::npos) bad("neither ';' nor '{' follows");
      if (entry < end) {
        at = entry + 6;
        read_function(true);
      } else if (func < end && semicolon < brace) {
        at = semicolon + 1;  // a forward declaration
      } else if (func < end) {
        at = func + 5;
        read_function(false);
      } else {
        declare(until(';'), globals);
      }
    }
    for (Function& f : module.functions) f.dynamic_align = dynamic_align;
  }
};

std::shared_ptr<Module> parse_ptx(const std::string& text) {
  auto module = std::make_shared<Module>();
  if (text.find(".version") == std::string::npos)
    throw Error("not PTX text: there is no .version (the emulator reads PTX, not fatbins or cubins)");
  Parser parser(*module, text);
  parser.run();
  return module;
}

}  // namespace phoenix::simt
