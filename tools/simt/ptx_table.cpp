// The opcode table: which part decodes which opcode. Everything else is refused when a module is loaded.
#include <algorithm>
#include <sstream>
#include "ptx.h"

namespace phoenix::simt {

Modifiers::Modifiers(const std::string& opcode) {
  std::istringstream stream(opcode);
  for (std::string word; std::getline(stream, word, '.');) words.push_back(word);
}
bool Modifiers::has(const char* word) const { return std::find(words.begin(), words.end(), word) != words.end(); }

// Orders or hints without an effect here: memory is sequentially consistent, registers are not allocated, caches are not modelled.
static Handler decode_nothing(Instruction&, const Modifiers&) {
  return [](Context&, const Instruction&) {};
}

static const std::map<std::string, Decode>& table() {
  static const std::map<std::string, Decode> rows{
      {"add", decode_arithmetic},
      {"sub", decode_arithmetic},
      {"mul", decode_arithmetic},
      {"mad", decode_arithmetic},
      {"fma", decode_arithmetic},
      {"div", decode_arithmetic},
      {"rem", decode_arithmetic},
      {"min", decode_arithmetic},
      {"max", decode_arithmetic},
      {"neg", decode_arithmetic},
      {"abs", decode_arithmetic},
      {"sqrt", decode_arithmetic},
      {"rsqrt", decode_arithmetic},
      {"rcp", decode_arithmetic},
      {"ex2", decode_arithmetic},
      {"lg2", decode_arithmetic},
      {"sin", decode_arithmetic},
      {"cos", decode_arithmetic},
      {"tanh", decode_arithmetic},
      {"copysign", decode_arithmetic},
      {"and", decode_logic},
      {"or", decode_logic},
      {"xor", decode_logic},
      {"not", decode_logic},
      {"shl", decode_logic},
      {"shr", decode_logic},
      {"shf", decode_logic},
      {"prmt", decode_logic},
      {"lop3", decode_logic},
      {"bfe", decode_logic},
      {"bfi", decode_logic},
      {"brev", decode_logic},
      {"clz", decode_logic},
      {"popc", decode_logic},
      {"setp", decode_select},
      {"selp", decode_select},
      {"mov", decode_select},
      {"cvt", decode_convert},
      {"cvta", decode_convert},
      {"ld", decode_memory},
      {"ldu", decode_memory},
      {"st", decode_memory},
      {"atom", decode_memory},
      {"red", decode_memory},
      {"bra", decode_control},
      {"call", decode_control},
      {"ret", decode_control},
      {"exit", decode_control},
      {"trap", decode_control},
      {"bar", decode_control},
      {"barrier", decode_control},
      {"shfl", decode_control},
      {"vote", decode_control},
      {"match", decode_control},
      {"redux", decode_control},
      {"elect", decode_control},
      {"cp", decode_tensor},
      {"ldmatrix", decode_tensor},
      {"stmatrix", decode_tensor},
      {"mma", decode_tensor},
      {"mbarrier", decode_tensor},
      {"mapa", decode_tensor},
      {"wgmma", decode_tensor},
      {"fence", decode_tensor},
      {"membar", decode_nothing},
      {"setmaxnreg", decode_tensor},
      {"nanosleep", decode_nothing},
      {"prefetch", decode_nothing},
      {"prefetchu", decode_nothing},
      {"discard", decode_nothing},
      {"applypriority", decode_nothing},
      {"griddepcontrol", decode_control},
  };
  return rows;
}
const std::vector<std::string>& supported_opcodes() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (auto& row : table()) all.push_back(row.first);
    return all;
  }();
  return names;
}

Handler decode(Instruction& in) {
  const Modifiers m(in.opcode);
  const bool flow = m.base() == "bra" || m.base() == "call" || m.base() == "ret";
  for (const char* unknown : {"cta_group::1", "cta_group::2", "relu", "satfinite", "xorsign", "cc", "b128", "uni"})
    if (m.has(unknown) && !flow) return nullptr;
  auto row = table().find(m.base());
  return row == table().end() ? nullptr : row->second(in, m);
}

}  // namespace phoenix::simt
