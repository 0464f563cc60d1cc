#include "kernels/isa.h"

#include <cstdlib>
#include <cstring>

namespace phx {

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq");
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::portable;
#else
  return Isa::portable;
#endif
}

Isa isa() {
  static const Isa chosen = [] {
    Isa best = best_isa();
    const char* wanted = std::getenv("PHOENIX_CPU_ISA");
    if (wanted && !std::strcmp(wanted, "portable")) return Isa::portable;
    if (wanted && !std::strcmp(wanted, "avx2") && best > Isa::avx2) return Isa::avx2;
    return best;
  }();
  return chosen;
}

bool bf16_products() {
#if defined(__x86_64__)
  static const bool has = isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable"; }

}  // namespace phx
