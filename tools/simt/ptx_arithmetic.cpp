// Arithmetic, logic, comparison and conversion (PTX ISA 9.0, 9.7.1 to 9.7.9). Compiled with wrapping signed arithmetic. `.approx` is
// computed exactly, `.ftz` keeps denormals; half precision is rounded once, from double.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include "memory.h"
#include "ptx.h"

namespace phoenix::simt {

#define HANDLER(...) +[](Context& c, const Instruction& i) { __VA_ARGS__; }

// ---- choosing a handler by type: "s32" → Op<int32_t>::run

template <template <class> class Op>
static Handler by_integer(const std::string& type) {
  if (type == "u16" || type == "b16") return Op<uint16_t>::run;
  if (type == "s16") return Op<int16_t>::run;
  if (type == "u32" || type == "b32") return Op<uint32_t>::run;
  if (type == "s32") return Op<int32_t>::run;
  if (type == "u64" || type == "b64") return Op<uint64_t>::run;
  if (type == "s64") return Op<int64_t>::run;
  return nullptr;
}
template <template <class> class Op>
static Handler by_type(const std::string& type) {
  if (type == "f32") return Op<float>::run;
  if (type == "f64") return Op<double>::run;
  return by_integer<Op>(type);
}
#define BINARY(Name, ...)                                                 \
  template <class T>                                                      \
  struct Name {                                                           \
    static void run(Context& c, const Instruction& i) {                   \
      const T a = get<T>(c, i.operands[1]), b = get<T>(c, i.operands[2]); \
      set<T>(c, i.operands[0], T(__VA_ARGS__));                           \
    }                                                                     \
  };
template <class T>
static T product(T a, T b) {  // two 16-bit factors would overflow int
  if constexpr (std::is_integral_v<T> && sizeof(T) == 2)
    return T(uint32_t(a) * uint32_t(b));
  else
    return a * b;
}
template <class T>
static T quotient(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return T(-1);  // unspecified by the ISA
    if constexpr (std::is_signed_v<T>)
      if (b == T(-1)) return T(0 - a);
  }
  return T(a / b);
}
template <class T>
static T remainder_of(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>)
    if (b == T(-1)) return 0;
  return T(a % b);
}
// The other operand if one is NaN; -0 below +0.
template <class T>
static T least(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a == b ? (std::signbit(a) ? a : b) : std::fmin(a, b);
  else
    return std::min(a, b);
}
template <class T>
static T greatest(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a == b ? (std::signbit(a) ? b : a) : std::fmax(a, b);
  else
    return std::max(a, b);
}
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                                   std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
template <class T>
static T high_half(T a, T b) {
  return T(Wide<T>(a) * Wide<T>(b) >> sizeof(T) * 8);
}
BINARY(Add, a + b)
BINARY(Sub, a - b)
BINARY(MulLow, product(a, b))
BINARY(MulHigh, high_half(a, b))
BINARY(Div, quotient(a, b))
BINARY(Rem, remainder_of(a, b))
BINARY(Min, least(a, b))
BINARY(Max, greatest(a, b))
BINARY(MinNan, std::isnan(a) || std::isnan(b) ? NAN : least(a, b))
BINARY(MaxNan, std::isnan(a) || std::isnan(b) ? NAN : greatest(a, b))
BINARY(And, a& b)
BINARY(Or, a | b)
BINARY(Xor, a ^ b)

#define UNARY(Name, ...)                                \
  template <class T>                                    \
  struct Name {                                         \
    static void run(Context& c, const Instruction& i) { \
      const T a = get<T>(c, i.operands[1]);             \
      set<T>(c, i.operands[0], T(__VA_ARGS__));         \
    }                                                   \
  };
template <class T>
static T magnitude(T a) {
  if constexpr (std::is_floating_point_v<T>)
    return std::fabs(a);
  else
    return a < T(0) ? T(0 - a) : a;
}
template <class T>
static T negative(T a) {
  if constexpr (std::is_floating_point_v<T>)
    return -a;
  else
    return T(0 - a);
}
UNARY(Neg, negative(a))
UNARY(Abs, magnitude(a))
UNARY(Not, ~a)

template <class T>
struct MadLow {
  static void run(Context& c, const Instruction& i) {
    const T a = get<T>(c, i.operands[1]), b = get<T>(c, i.operands[2]), d = get<T>(c, i.operands[3]);
    if constexpr (std::is_floating_point_v<T>)
      set<T>(c, i.operands[0], std::fma(a, b, d));
    else
      set<T>(c, i.operands[0], T(product(a, b) + d));
  }
};
template <class T>
struct MadHigh {
  static void run(Context& c, const Instruction& i) {
    set<T>(c, i.operands[0], T(high_half(get<T>(c, i.operands[1]), get<T>(c, i.operands[2])) + get<T>(c, i.operands[3])));
  }
};
template <class T>
struct MulWide {
  static void run(Context& c, const Instruction& i) {
    set<Wide<T>>(c, i.operands[0], Wide<T>(get<T>(c, i.operands[1])) * Wide<T>(get<T>(c, i.operands[2])));
  }
};
template <class T>
struct MadWide {
  static void run(Context& c, const Instruction& i) {
    set<Wide<T>>(c, i.operands[0], Wide<T>(get<T>(c, i.operands[1])) * Wide<T>(get<T>(c, i.operands[2])) + get<Wide<T>>(c, i.operands[3]));
  }
};
template <template <class> class Op>
static Handler by_narrow_integer(const std::string& type) {
  if (type == "u16") return Op<uint16_t>::run;
  if (type == "s16") return Op<int16_t>::run;
  if (type == "u32") return Op<uint32_t>::run;
  if (type == "s32") return Op<int32_t>::run;
  return nullptr;
}

// ---- half precision, one or two in a register

enum class Op { Add, Sub, Mul, Fma, Min, Max, Neg, Abs };
struct F16 {
  static double up(uint16_t bits) {
    __half_raw raw;
    raw.x = bits;
    return double(__half2float(__half(raw)));
  }
  static uint16_t down(double x) { return __half_raw(__double2half(x)).x; }
};
struct Bf16 {
  static double up(uint16_t bits) {
    __nv_bfloat16_raw raw;
    raw.x = bits;
    return double(__bfloat162float(__nv_bfloat16(raw)));
  }
  static uint16_t down(double x) { return __nv_bfloat16_raw(__double2bfloat16(x)).x; }
};
template <class H, Op op>
static uint16_t half_result(uint16_t x, uint16_t y, uint16_t z) {
  if (op == Op::Neg) return uint16_t(x ^ 0x8000);
  if (op == Op::Abs) return uint16_t(x & 0x7FFF);
  const double a = H::up(x), b = H::up(y), d = H::up(z);
  return H::down(op == Op::Add   ? a + b
                 : op == Op::Sub ? a - b
                 : op == Op::Mul ? a * b
                 : op == Op::Fma ? std::fma(a, b, d)
                 : op == Op::Min ? least(a, b)
                                 : greatest(a, b));
}
template <class H, Op op, int lanes>
static void half_handler(Context& c, const Instruction& i) {
  uint32_t in[3] = {}, result = 0;
  for (size_t k = 1; k < i.operands.size(); ++k) in[k - 1] = get<uint32_t>(c, i.operands[k]);
  for (int k = 0; k < lanes; ++k) {
    const int shift = 16 * k;
    result |= uint32_t(half_result<H, op>(uint16_t(in[0] >> shift), uint16_t(in[1] >> shift), uint16_t(in[2] >> shift))) << shift;
  }
  set<uint32_t>(c, i.operands[0], result);
}
template <Op op>
static Handler by_half(const std::string& type) {
  if (type == "f16") return half_handler<F16, op, 1>;
  if (type == "f16x2") return half_handler<F16, op, 2>;
  if (type == "bf16") return half_handler<Bf16, op, 1>;
  if (type == "bf16x2") return half_handler<Bf16, op, 2>;
  return nullptr;
}

// ---- f32 in a directed rounding

template <Op op, int mode>
static void rounded(Context& c, const Instruction& i) {
  const int before = fegetround();
  fesetround(mode);
  volatile float a = get<float>(c, i.operands[1]), b = get<float>(c, i.operands[2]), d = op == Op::Fma ? get<float>(c, i.operands[3]) : 0.f;
  volatile float r = op == Op::Add ? a + b : op == Op::Sub ? a - b : op == Op::Mul ? a * b : std::fma(a, b, d);
  fesetround(before);
  set<float>(c, i.operands[0], r);
}
template <Op op>
static Handler by_rounding(const Modifiers& m) {
  if (m.type() != "f32") return nullptr;
  return m.has("rz") ? rounded<op, FE_TOWARDZERO> : m.has("rm") ? rounded<op, FE_DOWNWARD> : m.has("rp") ? rounded<op, FE_UPWARD> : nullptr;
}

#define SPECIAL_FUNCTION(name, expression) \
  if (b == name)                           \
  return t == "f32" ? HANDLER(const float x = get<float>(c, i.operands[1]); set<float>(c, i.operands[0], float(expression))) : nullptr

Handler decode_arithmetic(Instruction& in, const Modifiers& m) {
  const std::string &b = m.base(), &t = m.type();
  const bool is_float = t[0] == 'f' || t[0] == 'b', directed = m.has("rz") || m.has("rm") || m.has("rp");
  if (m.has("sat") || (in.operands.size() < 2)) return nullptr;
  if (m.has("NaN")) return t != "f32" ? nullptr : b == "min" ? MinNan<float>::run : b == "max" ? MaxNan<float>::run : nullptr;
  if (directed)
    return b == "add"   ? by_rounding<Op::Add>(m)
           : b == "sub" ? by_rounding<Op::Sub>(m)
           : b == "mul" ? by_rounding<Op::Mul>(m)
           : b == "fma" ? by_rounding<Op::Fma>(m)
                        : nullptr;
  if (t.find("f16") != std::string::npos)
    return b == "add"   ? by_half<Op::Add>(t)
           : b == "sub" ? by_half<Op::Sub>(t)
           : b == "mul" ? by_half<Op::Mul>(t)
           : b == "fma" ? by_half<Op::Fma>(t)
           : b == "min" ? by_half<Op::Min>(t)
           : b == "max" ? by_half<Op::Max>(t)
           : b == "neg" ? by_half<Op::Neg>(t)
           : b == "abs" ? by_half<Op::Abs>(t)
                        : nullptr;
  if (b == "add") return by_type<Add>(t);
  if (b == "sub") return by_type<Sub>(t);
  if (b == "mul")
    return is_float        ? by_type<MulLow>(t)
           : m.has("wide") ? by_narrow_integer<MulWide>(t)
           : m.has("hi")   ? by_integer<MulHigh>(t)
                           : by_integer<MulLow>(t);
  if (b == "mad" || b == "fma")
    return is_float        ? by_type<MadLow>(t)
           : m.has("wide") ? by_narrow_integer<MadWide>(t)
           : m.has("hi")   ? by_integer<MadHigh>(t)
                           : by_integer<MadLow>(t);
  if (b == "div") return by_type<Div>(t);
  if (b == "rem") return by_integer<Rem>(t);
  if (b == "min") return by_type<Min>(t);
  if (b == "max") return by_type<Max>(t);
  if (b == "neg") return by_type<Neg>(t);
  if (b == "abs") return by_type<Abs>(t);
  if (b == "sqrt" && t == "f64") return HANDLER(set<double>(c, i.operands[0], std::sqrt(get<double>(c, i.operands[1]))));
  if (b == "rcp" && t == "f64") return HANDLER(set<double>(c, i.operands[0], 1 / get<double>(c, i.operands[1])));
  if (b == "copysign" && t == "f32")
    return HANDLER(set<float>(c, i.operands[0], std::copysign(get<float>(c, i.operands[2]), get<float>(c, i.operands[1]))));
  SPECIAL_FUNCTION("sqrt", std::sqrt(x));
  SPECIAL_FUNCTION("rsqrt", 1 / std::sqrt(x));
  SPECIAL_FUNCTION("rcp", 1 / x);
  SPECIAL_FUNCTION("ex2", std::exp2(x));
  SPECIAL_FUNCTION("lg2", std::log2(x));
  SPECIAL_FUNCTION("sin", std::sin(x));
  SPECIAL_FUNCTION("cos", std::cos(x));
  SPECIAL_FUNCTION("tanh", std::tanh(x));
  return nullptr;
}

// ---- logic

template <class T>
struct ShiftLeft {
  static void run(Context& c, const Instruction& i) {
    const uint32_t n = get<uint32_t>(c, i.operands[2]);
    set<T>(c, i.operands[0], n >= sizeof(T) * 8 ? T(0) : T(get<T>(c, i.operands[1]) << n));
  }
};
template <class T>
struct ShiftRight {
  static void run(Context& c, const Instruction& i) {
    const uint32_t n = std::min<uint32_t>(get<uint32_t>(c, i.operands[2]), sizeof(T) * 8);
    const T a = get<T>(c, i.operands[1]);
    set<T>(c, i.operands[0], n < sizeof(T) * 8 ? T(a >> n) : std::is_signed_v<T> && a < T(0) ? T(-1) : T(0));
  }
};
static void funnel_shift(Context& c, const Instruction& i) {  // mode: left; option: wrap
  uint32_t n = get<uint32_t>(c, i.operands[3]);
  n = i.option ? n & 31 : std::min(n, 32u);
  const uint64_t pair = uint64_t(get<uint32_t>(c, i.operands[2])) << 32 | get<uint32_t>(c, i.operands[1]);
  set<uint32_t>(c, i.operands[0], uint32_t(i.mode ? pair << n >> 32 : pair >> n));
}
static void permute(Context& c, const Instruction& i) {
  const uint64_t pair = uint64_t(get<uint32_t>(c, i.operands[2])) << 32 | get<uint32_t>(c, i.operands[1]);
  const uint32_t selector = get<uint32_t>(c, i.operands[3]);
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t pick = selector >> k * 4 & 15;
    uint32_t byte = uint32_t(pair >> (pick & 7) * 8) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;  // the sign, replicated
    result |= byte << k * 8;
  }
  set<uint32_t>(c, i.operands[0], result);
}
static void logic3(Context& c, const Instruction& i) {
  const uint32_t x = get<uint32_t>(c, i.operands[1]), y = get<uint32_t>(c, i.operands[2]), z = get<uint32_t>(c, i.operands[3]);
  uint32_t result = 0;
  for (int k = 0; k < 8; ++k)
    if (i.operands[4].value >> k & 1) result |= (k & 4 ? x : ~x) & (k & 2 ? y : ~y) & (k & 1 ? z : ~z);
  set<uint32_t>(c, i.operands[0], result);
}
template <class T>
struct FieldExtract {
  static void run(Context& c, const Instruction& i) {
    constexpr uint32_t bits = sizeof(T) * 8;
    const T a = get<T>(c, i.operands[1]);
    const uint32_t position = get<uint32_t>(c, i.operands[2]) & 255, length = get<uint32_t>(c, i.operands[3]) & 255;
    T result = 0;
    for (uint32_t k = 0; k < length && k < bits; ++k)
      if (position + k < bits) result |= T((a >> (position + k) & 1) << k);
    if (std::is_signed_v<T> && length && a >> std::min(position + length - 1, bits - 1) & 1)  // the field's sign fills the rest
      for (uint32_t k = position + length > bits ? (position < bits ? bits - position : 0) : length; k < bits; ++k) result |= T(T(1) << k);
    set<T>(c, i.operands[0], result);
  }
};
template <class T>
struct FieldInsert {
  static void run(Context& c, const Instruction& i) {
    constexpr uint32_t bits = sizeof(T) * 8;
    const T field = get<T>(c, i.operands[1]);
    T result = get<T>(c, i.operands[2]);
    const uint32_t position = get<uint32_t>(c, i.operands[3]) & 255, length = get<uint32_t>(c, i.operands[4]) & 255;
    for (uint32_t k = 0; k < length && position + k < bits; ++k)
      result = T((result & ~(T(1) << (position + k))) | (field >> k & 1) << (position + k));
    set<T>(c, i.operands[0], result);
  }
};
static uint64_t reversed(uint64_t v, int bits) {
  uint64_t r = 0;
  for (int k = 0; k < bits; ++k) r |= (v >> k & 1) << (bits - 1 - k);
  return r;
}

Handler decode_logic(Instruction& in, const Modifiers& m) {
  const std::string &b = m.base(), &t = m.type();
  if (t == "pred") {
    if (b == "and") return HANDLER(set_slot(c, i.operands[0].slot, predicate(c, i.operands[1]) && predicate(c, i.operands[2])));
    if (b == "or") return HANDLER(set_slot(c, i.operands[0].slot, predicate(c, i.operands[1]) || predicate(c, i.operands[2])));
    if (b == "xor") return HANDLER(set_slot(c, i.operands[0].slot, predicate(c, i.operands[1]) != predicate(c, i.operands[2])));
    if (b == "not") return HANDLER(set_slot(c, i.operands[0].slot, !predicate(c, i.operands[1])));
    return nullptr;
  }
  if (b == "and") return by_integer<And>(t);
  if (b == "or") return by_integer<Or>(t);
  if (b == "xor") return by_integer<Xor>(t);
  if (b == "not") return by_integer<Not>(t);
  if (b == "shl") return by_integer<ShiftLeft>(t);
  if (b == "shr") return by_integer<ShiftRight>(t);
  if (b == "shf") {
    in.mode = m.has("l");
    in.option = m.has("wrap");
    return t == "b32" ? funnel_shift : nullptr;
  }
  if (b == "prmt") return m.words.size() == 2 ? permute : nullptr;
  if (b == "lop3") return m.words.size() == 2 && in.operands.size() == 5 ? logic3 : nullptr;
  if (b == "bfe")
    return t == "u32"   ? FieldExtract<uint32_t>::run
           : t == "s32" ? FieldExtract<int32_t>::run
           : t == "u64" ? FieldExtract<uint64_t>::run
                        : nullptr;
  if (b == "bfi") return t == "b32" ? FieldInsert<uint32_t>::run : t == "b64" ? FieldInsert<uint64_t>::run : nullptr;
  const bool wide = t == "b64";
  if (b == "brev")
    return wide ? HANDLER(set<uint64_t>(c, i.operands[0], reversed(raw(c, i.operands[1]), 64)))
                : HANDLER(set<uint32_t>(c, i.operands[0], uint32_t(reversed(get<uint32_t>(c, i.operands[1]), 32))));
  if (b == "popc")
    return wide ? HANDLER(set<uint32_t>(c, i.operands[0], uint32_t(__builtin_popcountll(raw(c, i.operands[1])))))
                : HANDLER(set<uint32_t>(c, i.operands[0], uint32_t(__builtin_popcount(get<uint32_t>(c, i.operands[1])))));
  if (b == "clz")
    return wide ? HANDLER(const uint64_t v = raw(c, i.operands[1]); set<uint32_t>(c, i.operands[0], v ? uint32_t(__builtin_clzll(v)) : 64))
                : HANDLER(const uint32_t v = get<uint32_t>(c, i.operands[1]);
                          set<uint32_t>(c, i.operands[0], v ? uint32_t(__builtin_clz(v)) : 32));
  return nullptr;
}

// ---- comparison, selection, moves

enum Comparison { EQ, NE, LT, LE, GT, GE, LTU, LEU, GTU, GEU, EQU, NEU, NUM, NAN_ };
template <class T>
struct SetPredicate {  // mode: comparison; option: how a further predicate joins (and, or, xor)
  static void run(Context& c, const Instruction& i) {
    const T a = get<T>(c, i.operands[1]), b = get<T>(c, i.operands[2]);
    bool unordered = false;
    if constexpr (std::is_floating_point_v<T>) unordered = std::isnan(a) || std::isnan(b);
    const bool holds = compare(i.mode, a, b, unordered);
    bool p = holds, q = !holds;
    if (i.operands.size() > 3) {
      const bool with = predicate(c, i.operands[3]);
      p = i.option == 0 ? holds && with : i.option == 1 ? holds || with : holds != with;
      q = i.option == 0 ? !holds && with : i.option == 1 ? !holds || with : !holds != with;
    }
    set_slot(c, i.operands[0].slot, p);
    set_slot(c, i.operands[0].second, q);
  }
  static bool compare(int comparison, T a, T b, bool unordered) {
    switch (comparison) {
      case EQ:
        return !unordered && a == b;
      case NE:
        return !unordered && a != b;
      case LT:
        return a < b;
      case LE:
        return a <= b;
      case GT:
        return a > b;
      case GE:
        return a >= b;
      case LTU:
        return unordered || a < b;
      case LEU:
        return unordered || a <= b;
      case GTU:
        return unordered || a > b;
      case GEU:
        return unordered || a >= b;
      case EQU:
        return unordered || a == b;
      case NEU:
        return unordered || a != b;
      case NUM:
        return !unordered;
      default:
        return unordered;
    }
  }
};
template <class T>
struct Select {
  static void run(Context& c, const Instruction& i) {
    set<T>(c, i.operands[0], predicate(c, i.operands[3]) ? get<T>(c, i.operands[1]) : get<T>(c, i.operands[2]));
  }
};
UNARY(Move, a)
static void pack(Context& c, const Instruction& i) {  // {a, b} → one register; bytes: bits of an element
  const uint64_t mask = (uint64_t(1) << i.bytes) - 1;
  uint64_t value = 0;
  for (size_t k = 0; k < i.operands[1].parts.size(); ++k) value |= (raw(c, i.operands[1].parts[k]) & mask) << (k * size_t(i.bytes));
  set<uint64_t>(c, i.operands[0], value);
}
static void unpack(Context& c, const Instruction& i) {
  const uint64_t mask = (uint64_t(1) << i.bytes) - 1, value = raw(c, i.operands[1]);
  for (size_t k = 0; k < i.operands[0].parts.size(); ++k) set<uint64_t>(c, i.operands[0].parts[k], value >> (k * size_t(i.bytes)) & mask);
}

Handler decode_select(Instruction& in, const Modifiers& m) {
  const std::string &b = m.base(), &t = m.type();
  if (b == "selp") return by_type<Select>(t);
  if (b == "setp") {
    static const std::map<std::string, int> comparisons{
        {"eq", EQ}, {"ne", NE},   {"lt", LT},   {"le", LE},   {"gt", GT},   {"ge", GE},   {"lo", LT},   {"ls", LE},   {"hi", GT},
        {"hs", GE}, {"ltu", LTU}, {"leu", LEU}, {"gtu", GTU}, {"geu", GEU}, {"equ", EQU}, {"neu", NEU}, {"num", NUM}, {"nan", NAN_}};
    auto it = comparisons.find(m.words.size() > 1 ? m.words[1] : "");
    if (it == comparisons.end()) return nullptr;
    in.mode = it->second;
    in.option = m.has("or") ? 1 : m.has("xor") ? 2 : 0;
    return by_type<SetPredicate>(t);
  }
  if (in.operands.size() != 2) return nullptr;
  if (t == "pred") return HANDLER(set_slot(c, i.operands[0].slot, predicate(c, i.operands[1])));
  for (int side : {0, 1}) {
    const Operand& o = in.operands[size_t(side)];
    if (o.kind != Kind::Vector || o.parts.size() < 2) continue;
    in.bytes = atoi(t.c_str() + 1) / int(o.parts.size());
    return side ? pack : unpack;
  }
  return by_type<Move>(t);
}

// ---- conversion: mode: rounding of the integer part; option: saturate to [0, 1]

enum Rounding { Nearest, Zero, Down, Up, None };
static double round_by(double x, int rounding) {
  return rounding == Zero      ? std::trunc(x)
         : rounding == Down    ? std::floor(x)
         : rounding == Up      ? std::ceil(x)
         : rounding == Nearest ? std::nearbyint(x)
                               : x;
}
template <class D, class S>
static void convert(Context& c, const Instruction& i) {
  const S s = get<S>(c, i.operands[1]);
  if constexpr (std::is_floating_point_v<S> && std::is_integral_v<D>) {
    using Limits = std::numeric_limits<D>;
    const double x = round_by(double(s), i.mode);
    set<D>(c, i.operands[0],
           std::isnan(x)                ? D(0)
           : x <= double(Limits::min()) ? Limits::min()
           : x >= double(Limits::max()) ? Limits::max()
                                        : D(x));
  } else if constexpr (std::is_floating_point_v<D>) {
    D d = D(s);
    if constexpr (std::is_floating_point_v<S>) d = D(round_by(double(d), i.mode));
    if (i.option) d = d > 0 ? std::min(d, D(1)) : D(0);  // NaN becomes 0
    set<D>(c, i.operands[0], d);
  } else if constexpr (std::is_signed_v<D> && sizeof(D) < 4) {
    set<int32_t>(c, i.operands[0], D(s));  // narrow results are extended to the register
  } else {
    set<D>(c, i.operands[0], D(s));
  }
}
template <class D>
static Handler convert_from(const std::string& s) {
  if (s == "u8") return convert<D, uint8_t>;
  if (s == "s8") return convert<D, int8_t>;
  if (s == "u16") return convert<D, uint16_t>;
  if (s == "s16") return convert<D, int16_t>;
  if (s == "u32") return convert<D, uint32_t>;
  if (s == "s32") return convert<D, int32_t>;
  if (s == "u64") return convert<D, uint64_t>;
  if (s == "s64") return convert<D, int64_t>;
  if (s == "f32") return convert<D, float>;
  if (s == "f64") return convert<D, double>;
  return nullptr;
}
static Handler convert_to(const std::string& d, const std::string& s) {
  if (d == "u8") return convert_from<uint8_t>(s);
  if (d == "s8") return convert_from<int8_t>(s);
  if (d == "u16") return convert_from<uint16_t>(s);
  if (d == "s16") return convert_from<int16_t>(s);
  if (d == "u32") return convert_from<uint32_t>(s);
  if (d == "s32") return convert_from<int32_t>(s);
  if (d == "u64") return convert_from<uint64_t>(s);
  if (d == "s64") return convert_from<int64_t>(s);
  if (d == "f32") return convert_from<float>(s);
  if (d == "f64") return convert_from<double>(s);
  return nullptr;
}
template <class H>
static Handler convert_half(const std::string& d, const std::string& s, const std::string& half) {
  if (s == half) return d == "f32" ? HANDLER(set<float>(c, i.operands[0], float(H::up(get<uint16_t>(c, i.operands[1]))))) : nullptr;
  if (s != "f32") return nullptr;
  if (d == half) return HANDLER(set<uint16_t>(c, i.operands[0], H::down(get<float>(c, i.operands[1]))));
  if (d == half + "x2")  // the first source becomes the upper half
    return HANDLER(
        set<uint32_t>(c, i.operands[0], uint32_t(H::down(get<float>(c, i.operands[1]))) << 16 | H::down(get<float>(c, i.operands[2]))));
  return nullptr;
}
static Handler decode_address(const Modifiers& m) {  // cvta: generic addresses are host addresses
  const bool to = m.has("to");
  if (m.has("shared") || m.has("shared::cta"))
    return to ? HANDLER(set<uint64_t>(c, i.operands[0], raw(c, i.operands[1]) - uint64_t(shared_base)))
              : HANDLER(set<uint64_t>(c, i.operands[0], raw(c, i.operands[1]) + uint64_t(shared_base)));
  if (m.has("local"))
    return to ? HANDLER(set<uint64_t>(c, i.operands[0], raw(c, i.operands[1]) - uint64_t(c.local)))
              : HANDLER(set<uint64_t>(c, i.operands[0], raw(c, i.operands[1]) + uint64_t(c.local)));
  return HANDLER(set<uint64_t>(c, i.operands[0], raw(c, i.operands[1])));
}
Handler decode_convert(Instruction& in, const Modifiers& m) {
  if (m.base() == "cvta") return decode_address(m);
  const std::string d = m.type_before(), s = m.type();
  const bool half = (d + s).find("f16") != std::string::npos, directed = m.has("rz") || m.has("rm") || m.has("rp");
  in.mode = m.has("rni") ? Nearest : m.has("rzi") ? Zero : m.has("rmi") ? Down : m.has("rpi") ? Up : None;
  in.option = m.has("sat");
  if (directed || (in.option && (half || (d != "f32" && d != "f64")))) return nullptr;
  if (half) return s == "f16" || d.rfind("f16", 0) == 0 ? convert_half<F16>(d, s, "f16") : convert_half<Bf16>(d, s, "bf16");
  return convert_to(d, s);
}

}  // namespace phoenix::simt
