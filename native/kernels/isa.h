// Choice of instruction set. The inner loops of the fast ops live in `*.simd.cpp`, compiled once per instruction set; each such file offers
// a table of function pointers, and `PHOENIX_CHOOSE` picks the table of the machine at hand, once, when the addon is loaded.
// PHOENIX_CPU_ISA=portable|avx2|avx512 asks for a lesser one (tests, comparisons).
#pragma once

namespace phx {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2 };

Isa isa();       // the one in use
Isa best_isa();  // the best that this machine has
const char* isa_name(Isa);
bool bf16_products();  // AVX-512 is in use, and the processor multiplies pairs of bfloat16 (AVX512_BF16)

// The accessor `TABLE& NAME()` for a table that each instruction set's namespace defines as `extern const TABLE NAME##_table`.
// clang-format off
#if defined(__x86_64__)
#define PHOENIX_DECLARE_SIMD(TABLE, NAME)                            \
  namespace portable { extern const TABLE NAME##_table; }            \
  namespace avx2 { extern const TABLE NAME##_table; }                \
  namespace avx512 { extern const TABLE NAME##_table; }              \
  inline const TABLE& NAME() {                                       \
    static const TABLE& chosen = isa() == Isa::avx512 ? avx512::NAME##_table : isa() == Isa::avx2 ? avx2::NAME##_table : portable::NAME##_table; \
    return chosen;                                                   \
  }
#else
#define PHOENIX_DECLARE_SIMD(TABLE, NAME)                            \
  namespace portable { extern const TABLE NAME##_table; }            \
  inline const TABLE& NAME() { return portable::NAME##_table; }
#endif
// clang-format on

}  // namespace phx
