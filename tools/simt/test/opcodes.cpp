// Each row: one instruction, run on 32 lanes of chosen and mixed values, against a formula of the host's.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include "test.h"

using Values = std::vector<uint64_t>;
struct Row {
  const char* instruction;  // "%d" the result, "%a", "%b", "%c" its sources, "p", "q" free predicates
  char result;              // register kinds: h 16, r 32, l 64 bits of integers, f float, d double
  const char* sources;
  std::function<uint64_t(uint64_t, uint64_t, uint64_t)> formula;
};

template <class T>
static T as(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
static uint64_t bits(T value) {
  uint64_t b = 0;
  memcpy(&b, &value, sizeof value);
  return b;
}
static float F(uint64_t b) { return as<float>(b); }
static double D(uint64_t b) { return as<double>(b); }
static int32_t S(uint64_t b) { return int32_t(b); }
static uint32_t U(uint64_t b) { return uint32_t(b); }
static uint32_t bf16(float x) {  // nearest even; no NaN among the inputs
  const uint32_t b = U(bits(x));
  return (b + 0x7FFF + (b >> 16 & 1)) >> 16;
}
static float from_bf16(uint64_t b) { return F((b & 0xFFFF) << 16); }

static float toward_zero(long double x) {
  const float nearest = float(x);
  return std::isfinite(nearest) && std::fabs((long double)nearest) > std::fabs(x) ? std::nextafter(nearest, 0.f) : nearest;
}

#define ROW(text, result, sources, expression)                                  \
  {                                                                             \
    text, result, sources, [](uint64_t a, uint64_t b, uint64_t c) -> uint64_t { \
      (void)a;                                                                  \
      (void)b;                                                                  \
      (void)c;                                                                  \
      return expression;                                                        \
    }                                                                           \
  }
static const Row rows[] = {
    ROW("add.s32 %d, %a, %b;", 'r', "rr", U(a) + U(b)),
    ROW("sub.s32 %d, %a, %b;", 'r', "rr", U(a) - U(b)),
    ROW("add.s64 %d, %a, %b;", 'l', "ll", a + b),
    ROW("mul.lo.s32 %d, %a, %b;", 'r', "rr", U(a) * U(b)),
    ROW("mul.hi.u32 %d, %a, %b;", 'r', "rr", uint64_t(U(a)) * U(b) >> 32),
    ROW("mul.hi.s32 %d, %a, %b;", 'r', "rr", U(int64_t(S(a)) * S(b) >> 32)),
    ROW("mul.wide.s32 %d, %a, %b;", 'l', "rr", uint64_t(int64_t(S(a)) * S(b))),
    ROW("mul.wide.u32 %d, %a, %b;", 'l', "rr", uint64_t(U(a)) * U(b)),
    ROW("mul.lo.s16 %d, %a, %b;", 'h', "hh", uint16_t(U(uint16_t(a)) * U(uint16_t(b)))),
    ROW("mad.lo.s32 %d, %a, %b, %c;", 'r', "rrr", U(a) * U(b) + U(c)),
    ROW("mad.wide.s32 %d, %a, %b, %c;", 'l', "rrl", uint64_t(int64_t(S(a)) * S(b)) + c),
    ROW("div.s32 %d, %a, %b;", 'r', "rr",
        U(b) == 0    ? ~0u
        : S(b) == -1 ? 0u - U(a)
                     : U(S(a) / S(b))),
    ROW("div.u32 %d, %a, %b;", 'r', "rr", U(b) == 0 ? ~0u : U(a) / U(b)),
    ROW("rem.s32 %d, %a, %b;", 'r', "rr",
        U(b) == 0    ? U(a)
        : S(b) == -1 ? 0u
                     : U(S(a) % S(b))),
    ROW("rem.u64 %d, %a, %b;", 'l', "ll", b == 0 ? a : a % b),
    ROW("min.s32 %d, %a, %b;", 'r', "rr", U(std::min(S(a), S(b)))),
    ROW("max.u32 %d, %a, %b;", 'r', "rr", std::max(U(a), U(b))),
    ROW("neg.s32 %d, %a;", 'r', "r", 0u - U(a)),
    ROW("abs.s32 %d, %a;", 'r', "r", S(a) < 0 ? 0u - U(a) : U(a)),
    ROW("and.b32 %d, %a, %b;", 'r', "rr", U(a) & U(b)),
    ROW("or.b64 %d, %a, %b;", 'l', "ll", a | b),
    ROW("xor.b32 %d, %a, %b;", 'r', "rr", U(a) ^ U(b)),
    ROW("not.b32 %d, %a;", 'r', "r", ~U(a)),
    ROW("shl.b32 %d, %a, %b;", 'r', "rr", U(b) > 31 ? 0 : U(a) << U(b)),
    ROW("shr.u32 %d, %a, %b;", 'r', "rr", U(b) > 31 ? 0 : U(a) >> U(b)),
    ROW("shr.s32 %d, %a, %b;", 'r', "rr", U(S(a) >> std::min(U(b), 31u))),
    ROW("shf.l.wrap.b32 %d, %a, %b, 5;", 'r', "rr", U(b) << 5 | U(a) >> 27),
    ROW("shf.r.clamp.b32 %d, %a, %b, 40;", 'r', "rr", U(b)),
    ROW("prmt.b32 %d, %a, %b, 0x5140;", 'r', "rr", (U(a) & 255) | (U(b) & 255) << 8 | (U(a) >> 8 & 255) << 16 | (U(b) >> 8 & 255) << 24),
    ROW("prmt.b32 %d, %a, %b, 0x888B;", 'r', "rr", (U(a) >> 31 ? 0xFFu : 0u) | (U(a) & 0x80 ? 0xFFFFFF00u : 0u)),
    ROW("lop3.b32 %d, %a, %b, %c, 0xE8;", 'r', "rrr", (U(a) & U(b)) | (U(a) & U(c)) | (U(b) & U(c))),
    ROW("bfe.u32 %d, %a, 5, 9;", 'r', "r", U(a) >> 5 & 0x1FF),
    ROW("bfe.s32 %d, %a, 5, 9;", 'r', "r", U(S(U(a) << 18) >> 23)),
    ROW("bfe.u32 %d, %a, 28, 9;", 'r', "r", U(a) >> 28),
    ROW("bfe.s32 %d, %a, 28, 9;", 'r', "r", U(S(a) >> 28)),
    ROW("bfi.b32 %d, %a, %b, 7, 6;", 'r', "rr", (U(b) & ~(63u << 7)) | (U(a) & 63) << 7),
    ROW("brev.b32 %d, %a;", 'r', "r",
        [&] {
          uint32_t r = 0;
          for (int k = 0; k < 32; ++k) r |= (U(a) >> k & 1) << (31 - k);
          return r;
        }()),
    ROW("clz.b32 %d, %a;", 'r', "r", U(a) ? __builtin_clz(U(a)) : 32),
    ROW("popc.b32 %d, %a;", 'r', "r", __builtin_popcount(U(a))),
    ROW("setp.lt.s32 p, %a, %b; selp.b32 %d, 1, 0, p;", 'r', "rr", S(a) < S(b)),
    ROW("setp.hs.u32 p, %a, %b; selp.b32 %d, 1, 0, p;", 'r', "rr", U(a) >= U(b)),
    ROW("setp.lt.f32 p, %a, %b; selp.b32 %d, 1, 0, p;", 'r', "ff", F(a) < F(b)),
    ROW("setp.ltu.f32 p, %a, %b; selp.b32 %d, 1, 0, p;", 'r', "ff", !(F(a) >= F(b))),
    ROW("setp.neu.f32 p, %a, %b; selp.b32 %d, 1, 0, p;", 'r', "ff", !(F(a) == F(b))),
    ROW("setp.ne.s32 q, %a, 0; setp.gt.and.s32 p, %a, %b, !q; selp.b32 %d, 1, 0, p;", 'r', "rr", S(a) > S(b) && S(a) == 0),
    ROW("setp.gt.s32 p|q, %a, %b; selp.b32 %d, 1, 0, q;", 'r', "rr", !(S(a) > S(b))),
    ROW("setp.gt.s32 p, %a, %b; @p mov.u32 %d, 7; @!p mov.u32 %d, 9;", 'r', "rr", S(a) > S(b) ? 7 : 9),
    ROW("mov.b64 %d, {%a, %b};", 'l', "rr", U(a) | uint64_t(U(b)) << 32),
    ROW("mov.b64 {_, %d}, %a;", 'r', "l", a >> 32),
    ROW("add.f32 %d, %a, %b;", 'f', "ff", bits(F(a) + F(b))),
    ROW("sub.f32 %d, %a, %b;", 'f', "ff", bits(F(a) - F(b))),
    ROW("mul.f32 %d, %a, %b;", 'f', "ff", bits(F(a) * F(b))),
    ROW("fma.rn.f32 %d, %a, %b, %c;", 'f', "fff", bits(std::fma(F(a), F(b), F(c)))),
    ROW("fma.rn.f64 %d, %a, %b, %c;", 'd', "ddd", bits(std::fma(D(a), D(b), D(c)))),
    ROW("div.rn.f32 %d, %a, %b;", 'f', "ff", bits(F(a) / F(b))),
    ROW("min.f32 %d, %a, %b;", 'f', "ff", bits(std::fmin(F(a), F(b)))),
    ROW("max.f32 %d, %a, %b;", 'f', "ff", bits(std::fmax(F(a), F(b)))),
    ROW("max.NaN.f32 %d, %a, %b;", 'f', "ff", bits(std::isnan(F(a)) || std::isnan(F(b)) ? NAN : std::fmax(F(a), F(b)))),
    ROW("neg.f32 %d, %a;", 'f', "f", bits(-F(a))),
    ROW("abs.f32 %d, %a;", 'f', "f", bits(std::fabs(F(a)))),
    ROW("copysign.f32 %d, %a, %b;", 'f', "ff", bits(std::copysign(F(b), F(a)))),
    ROW("sqrt.rn.f32 %d, %a;", 'f', "f", bits(std::sqrt(F(a)))),
    ROW("rsqrt.approx.f32 %d, %a;", 'f', "f", bits(1 / std::sqrt(F(a)))),
    ROW("rcp.rn.f32 %d, %a;", 'f', "f", bits(1 / F(a))),
    ROW("ex2.approx.f32 %d, %a;", 'f', "f", bits(std::exp2(F(a)))),
    ROW("lg2.approx.f32 %d, %a;", 'f', "f", bits(std::log2(F(a)))),
    ROW("sin.approx.f32 %d, %a;", 'f', "f", bits(std::sin(F(a)))),
    ROW("cos.approx.f32 %d, %a;", 'f', "f", bits(std::cos(F(a)))),
    ROW("tanh.approx.f32 %d, %a;", 'f', "f", bits(std::tanh(F(a)))),
    ROW("add.rz.f32 %d, %a, 0f33000000;", 'f', "f", bits(toward_zero((long double)F(a) + F(0x33000000)))),
    ROW("cvt.rzi.s32.f32 %d, %a;", 'r', "f",
        std::isnan(F(a)) ? 0 : U(int32_t(std::min(std::max(std::trunc(double(F(a))), -2147483648.0), 2147483647.0)))),
    ROW("cvt.rn.f32.s32 %d, %a;", 'f', "r", bits(float(S(a)))),
    ROW("cvt.rn.f32.u64 %d, %a;", 'f', "l", bits(float(a))),
    ROW("cvt.f64.f32 %d, %a;", 'd', "f", bits(double(F(a)))),
    ROW("cvt.rn.f32.f64 %d, %a;", 'f', "d", bits(float(D(a)))),
    ROW("cvt.rmi.f32.f32 %d, %a;", 'f', "f", bits(std::floor(F(a)))),
    ROW("cvt.sat.f32.f32 %d, %a;", 'f', "f", bits(F(a) > 0 ? std::min(F(a), 1.f) : 0.f)),
    ROW("cvt.s64.s32 %d, %a;", 'l', "r", uint64_t(int64_t(S(a)))),
    ROW("cvt.s32.s8 %d, %a;", 'r', "r", U(int32_t(int8_t(a)))),
    ROW("cvt.u32.u16 %d, %a;", 'r', "h", uint16_t(a)),
    ROW("cvt.rn.bf16.f32 %d, %a;", 'h', "f", std::isnan(F(a)) ? 0x7FFF : bf16(F(a))),
    ROW("cvt.f32.bf16 %d, %a;", 'f', "h", bits(from_bf16(a))),
    ROW("cvt.rn.bf16x2.f32 %d, %a, %b;", 'r', "ff",
        (std::isnan(F(a)) ? 0x7FFF : bf16(F(a))) << 16 | (std::isnan(F(b)) ? 0x7FFF : bf16(F(b)))),
    ROW("neg.bf16x2 %d, %a;", 'r', "r", U(a) ^ 0x80008000u),
};

static Values inputs(char kind, unsigned which) {
  static const uint64_t integers[] = {0, 1, 2, 31, 32, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x8000, 0x80, 33};
  static const double reals[] = {0, -0.0, 1, -1, 1.5, 0.1, 1e30, -3e9, 65504, NAN, INFINITY, -2.5};
  Values values;
  uint64_t word = 0x9E3779B97F4A7C15 * (which + 1);
  for (uint64_t i = 0; i < 32; ++i) {
    word = word * 6364136223846793005 + 1442695040888963407;
    const double real = i < 12 ? reals[(i * (which + 1)) % 12] : double(int64_t(word) >> 40) / 65536;
    values.push_back(kind == 'f'   ? bits(float(real))
                     : kind == 'd' ? bits(real)
                     : i < 12      ? integers[(i + 5 * which) % 12]
                                   : word ^ word >> 29);
  }
  return values;
}
static const char* type_of(char kind) {
  return kind == 'h' ? "b16" : kind == 'r' ? "b32" : kind == 'l' ? "b64" : kind == 'f' ? "f32" : "f64";
}
static int bytes_of(char kind) { return kind == 'h' ? 2 : kind == 'r' || kind == 'f' ? 4 : 8; }

static std::string kernel_for(const Row& row) {
  std::string body = row.instruction;
  auto replace = [&](const std::string& name, const std::string& by) {
    for (size_t at; (at = body.find(name)) != std::string::npos;) body.replace(at, name.size(), by);
  };
  replace("%d", "xd");
  std::string text =
      ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in0, .param .u64 in1, .param .u64 "
      "in2)\n{\n";
  text += ".reg .pred p, q;\n.reg .b32 lane;\n.reg .b64 base, at, off;\n.reg ." + std::string(type_of(row.result)) + " xd;\n";
  text += "mov.u32 lane, %laneid;\nmul.wide.u32 off, lane, 8;\n";
  for (size_t s = 0; row.sources[s]; ++s) {
    const std::string n = std::to_string(s), reg = "x" + n;
    replace(std::string("%") + char('a' + s), reg);
    text += ".reg ." + std::string(type_of(row.sources[s])) + " " + reg + ";\nld.param.u64 base, [in" + n +
            "];\nadd.s64 at, base, off;\nld.global." + type_of(row.sources[s]) + " " + reg + ", [at];\n";
  }
  return text + body + "\nld.param.u64 base, [out];\nadd.s64 at, base, off;\nst.global." + type_of(row.result) + " [at], xd;\nret;\n}\n";
}

void test_opcodes() {
  for (const Row& row : rows) {
    CUmodule module = load_text(kernel_for(row));
    if (!module) {
      check(false, row.instruction);
      continue;
    }
    Values in[3];
    for (unsigned s = 0; s < 3; ++s) in[s] = inputs(s < strlen(row.sources) ? row.sources[s] : 'r', s);
    Buffer out(32 * 8), a(in[0]), b(in[1]), c(in[2]);
    if (succeeded(run(function(module, "k"), 1, 32, 0, nullptr, out.pointer, a.pointer, b.pointer, c.pointer), row.instruction)) {
      const Values results = out.read<uint64_t>();
      const uint64_t mask = bytes_of(row.result) == 8 ? ~uint64_t(0) : (uint64_t(1) << bytes_of(row.result) * 8) - 1;
      for (size_t i = 0; i < 32; ++i) {
        const uint64_t got = results[i] & mask, wanted = row.formula(in[0][i], in[1][i], in[2][i]) & mask;
        const bool both_nan = (row.result == 'f' && std::isnan(F(got)) && std::isnan(F(wanted))) ||
                              (row.result == 'd' && std::isnan(D(got)) && std::isnan(D(wanted)));
        check(got == wanted || both_nan, std::string(row.instruction) + " lane " + std::to_string(i) + ": got " + std::to_string(got) +
                                             ", formula " + std::to_string(wanted));
      }
    }
    cuModuleUnload(module);
  }
  CUmodule module = nullptr;
  const std::string unknown = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\nnothing.b32 %r1, %r2;\n}\n";
  check(cuModuleLoadData(&module, unknown.c_str()) == CUDA_ERROR_INVALID_PTX, "an unknown instruction is refused");
  check(message(CUDA_ERROR_INVALID_PTX).find("line 6: instruction not supported by the emulator: nothing.b32") != std::string::npos,
        "and named: " + message(CUDA_ERROR_INVALID_PTX));
  check(cuModuleLoadData(&module, ".version 8.0\n.target sm_80\n.visible .entry k(") == CUDA_ERROR_INVALID_PTX, "cut-off text is refused");
}
