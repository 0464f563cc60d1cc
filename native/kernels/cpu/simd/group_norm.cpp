// Inner loops of group_norm (group_norm.h), one vector of channels at a time down the pixels of a strip, so that what belongs to the
// channels stays in registers; the last channels % kLanes go through a small buffer.
// Dropout's random bits are made for up to 2048 elements at a time (4 KB), kLanes/2 Philox calls to a vector and four vectors side by
// side: ten rounds of multiply, shift and exchange are a chain of some 60 cycles, in which four take hardly longer than one.  Salmon et
// al. 2011, §3.3
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels/cpu/simd/group_norm.h"
#include "kernels/cpu/simd/vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

// ---- dropout

constexpr int kCalls = kLanes / 2;  // a Philox word sits in the low half of a 64-bit lane, so that a widening product has room
typedef uint64_t Vec64 __attribute__((vector_size(4 * kLanes)));
typedef uint64_t Vec64Mem __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef uint16_t HalvesMem __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

#if defined(__AVX512F__)
constexpr Vec64 kOrder = {0, 1, 2, 3, 4, 5, 6, 7};
#elif defined(__AVX2__)
constexpr Vec64 kOrder = {0, 1, 2, 3};
#else
constexpr Vec64 kOrder = {0, 1};
#endif

// The low halves' product; the high halves may hold anything.
PHX_INLINE Vec64 multiply(Vec64 a, uint32_t b) {
#if defined(__AVX512F__)
  return (Vec64)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
  return (Vec64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (Vec64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xFFFFFFFFu) * b;
#endif
}

constexpr int kWindow = 2048;
constexpr int kTogether = kLanes == 4 ? 2 : 4;  // groups of calls whose chains of ten rounds run side by side
constexpr int kSegment = 1024;                  // channels handled in one go, so that a pixel's bits fit the window

// The 16 bits of each element of a stretch of pixels.
struct Bits {
  const StripDropout& rule;
  size_t begin = 0;
  uint16_t half[kWindow + 8 + 8 * kTogether * kCalls + kLanes];

  explicit Bits(const StripDropout& rule) : rule(rule) {}

  // Makes the bits of elements [first, past), at most kWindow.
  void fill(size_t first, size_t past) {
    size_t call = first / 8, calls = (past + 7) / 8 - call;
    begin = call * 8;
    uint64_t keys[20];
    uint32_t k0 = uint32_t(rule.key), k1 = uint32_t(rule.key >> 32);
    for (int round = 0; round < 10; round++) {
      keys[2 * round] = k0;
      keys[2 * round + 1] = k1;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (size_t i = 0; i < calls; i += kTogether * kCalls) words(half + i * 8, uint32_t(call + i), keys);
  }

  // The bits of elements 8·call .. 8·(call + kTogether·kCalls).
  void words(uint16_t* out, uint32_t call, const uint64_t* keys) const {
    Vec64 c0[kTogether], c1[kTogether], c2[kTogether], c3[kTogether];
    for (int g = 0; g < kTogether; g++) {
      c0[g] = kOrder + (call + uint32_t(g * kCalls));
      c1[g] = Vec64{} + rule.layer;
      c2[g] = Vec64{} + rule.step;
      c3[g] = Vec64{} + 3u;  // Purpose::dropout
    }
    for (int round = 0; round < 10; round++)
      for (int g = 0; g < kTogether; g++) {
        Vec64 a = multiply(c0[g], 0xD2511F53u), b = multiply(c2[g], 0xCD9E8D57u);
        c0[g] = (b >> 32) ^ c1[g] ^ (Vec64{} + keys[2 * round]);
        c2[g] = (a >> 32) ^ c3[g] ^ (Vec64{} + keys[2 * round + 1]);
        c1[g] = b;
        c3[g] = a;
      }
    for (int g = 0; g < kTogether; g++, out += 8 * kCalls) {
      Vec64 low = (c0[g] & 0xFFFFFFFFu) | c1[g] << 32, high = (c2[g] & 0xFFFFFFFFu) | c3[g] << 32;
#if defined(__AVX512F__)
      *(Vec64Mem*)out = __builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
      *(Vec64Mem*)(out + 4 * kCalls) = __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
      *(Vec64Mem*)out = __builtin_shufflevector(low, high, 0, 4, 1, 5);
      *(Vec64Mem*)(out + 4 * kCalls) = __builtin_shufflevector(low, high, 2, 6, 3, 7);
#else
      *(Vec64Mem*)out = __builtin_shufflevector(low, high, 0, 2);
      *(Vec64Mem*)(out + 4 * kCalls) = __builtin_shufflevector(low, high, 1, 3);
#endif
    }
  }

  const uint16_t* at(size_t element) const { return half + (element - begin); }
};

PHX_INLINE Vec dropped(Vec x, const uint16_t* bits, uint32_t threshold, float factor) {
#if defined(__AVX512F__)
  __mmask16 kept = _mm256_cmpge_epu16_mask(_mm256_loadu_si256((const __m256i*)bits), _mm256_set1_epi16(short(threshold)));
  return (Vec)_mm512_maskz_mul_ps(kept, (__m512)x, _mm512_set1_ps(factor));
#else
  VecI random = __builtin_convertvector((Halves) * (const HalvesMem*)bits, VecI);
  return (Vec)((VecI)(x * factor) & (random >= (VecI{} + int(threshold))));
#endif
}

// Pixels whose bits fit the window, all of them where there is no dropout.
int pixels_together(bool drop, const StripDropout& rule, int pixels, int channels) {
  if (!drop) return pixels;
  int fit = int((kWindow - channels) / rule.row) + 1;
  return fit < pixels ? fit : pixels;
}

// body(first pixel, count) for stretches of pixels of one segment, their bits made.
template <bool drop, class Body>
PHX_INLINE void stretches(const StripDropout& rule, int pixels, int channels, Bits& bits, Body body) {
  int together = pixels_together(drop, rule, pixels, channels);
  for (int p = 0; p < pixels; p += together) {
    int count = pixels - p < together ? pixels - p : together;
    if (drop) bits.fill(rule.first + p * rule.row, rule.first + (p + count - 1) * rule.row + channels);
    body(p, count);
  }
}

// ---- forward

// kVectors vectors of channels; where they are few, pixels go to kParts sums by turns, so that no addition waits for the one before.
template <int kVectors, int kParts>
PHX_INLINE void sums_of(float* sum, float* square, const float* x, ptrdiff_t ldx, int pixels) {
  Vec first[kVectors], s[kParts][kVectors], q[kParts][kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v++) {
    first[v] = load(x + v * kLanes);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; part++) s[part][v] = q[part][v] = Vec{};
  }
  int p = 0;
  for (; p + kParts <= pixels; p += kParts)
#pragma GCC unroll 4
    for (int part = 0; part < kParts; part++)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) {
        Vec d = load(x + (p + part) * ldx + v * kLanes) - first[v];
        s[part][v] += d;
        q[part][v] += d * d;
      }
  for (; p < pixels; p++)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++) {
      Vec d = load(x + p * ldx + v * kLanes) - first[v];
      s[0][v] += d;
      q[0][v] += d * d;
    }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v++) {
#pragma GCC unroll 4
    for (int part = 1; part < kParts; part++) s[0][v] += s[part][v], q[0][v] += q[part][v];
    store(sum + v * kLanes, s[0][v]);
    store(square + v * kLanes, q[0][v]);
  }
}

void sums(float* sum, float* square, const float* x, ptrdiff_t ldx, int pixels, int channels) {
  int c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) sums_of<4, kLanes == 16 ? 2 : 1>(sum + c, square + c, x + c, ldx, pixels);
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes) sums_of<2, kLanes == 16 ? 4 : 2>(sum + c, square + c, x + c, ldx, pixels);
  for (; c + kLanes <= channels; c += kLanes) sums_of<1, 4>(sum + c, square + c, x + c, ldx, pixels);
  if (c == channels) return;
  Vec first = load_some(x + c, channels - c), s{}, q{};
  for (int p = 1; p < pixels; p++) {
    Vec d = load_some(x + p * ldx + c, channels - c) - first;
    s += d;
    q += d * d;
  }
  store(sum + c, s);
  store(square + c, q);
}

// One vector of channels down a stretch of pixels: mean, scale and bias stay in registers.
template <bool whole, bool silu, bool drop>
PHX_INLINE void apply_column(int rest, float* y, ptrdiff_t ldy, const float* x, ptrdiff_t ldx, int pixels, Vec mean, Vec scale, Vec bias,
                             const uint16_t* half, const StripDropout& rule) {
  const uint32_t threshold = rule.threshold;
  const float factor = rule.factor;
  const size_t row = rule.row;
#pragma GCC unroll 2
  for (int p = 0; p < pixels; p++) {
    Vec v = ((whole ? load(x + p * ldx) : load_some(x + p * ldx, rest)) - mean) * scale + bias;
    if (silu) v = v * sigmoid(v);
    if (drop) v = dropped(v, half + p * row, threshold, factor);
    whole ? store(y + p * ldy, v) : store_some(y + p * ldy, v, rest);
  }
}

template <bool silu, bool drop>
void apply_segment(float* y, ptrdiff_t ldy, const float* x, ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* scale,
                   const float* bias, const StripDropout& rule) {
  Bits bits(rule);
  stretches<drop>(
      rule, pixels, channels, bits, [&](int p, int count) __attribute__((always_inline)) {
        const uint16_t* half = drop ? bits.at(rule.first + p * rule.row) : nullptr;
        const float* in = x + p * ldx;
        float* out = y + p * ldy;
        int c = 0;
        for (; c + kLanes <= channels; c += kLanes)
          apply_column<true, silu, drop>(0, out + c, ldy, in + c, ldx, count, load(mean + c), load(scale + c), load(bias + c), half + c,
                                         rule);
        if (c < channels)
          apply_column<false, silu, drop>(channels - c, out + c, ldy, in + c, ldx, count, load(mean + c), load(scale + c), load(bias + c),
                                          half + c, rule);
      });
}

StripDropout from_channel(const StripDropout& rule, int c) {
  StripDropout part = rule;
  part.first += c;
  return part;
}

void apply(float* y, ptrdiff_t ldy, const float* x, ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* scale,
           const float* bias, bool silu, const StripDropout& rule) {
  auto* segment = rule.threshold ? (silu ? apply_segment<true, true> : apply_segment<false, true>)
                                 : (silu ? apply_segment<true, false> : apply_segment<false, false>);
  for (int c = 0; c < channels; c += kSegment)
    segment(y + c, ldy, x + c, ldx, pixels, channels - c < kSegment ? channels - c : kSegment, mean + c, scale + c, bias + c,
            from_channel(rule, c));
}

// ---- backward

template <bool whole, bool silu, bool drop>
PHX_INLINE void backward_column(int rest, float* dz, ptrdiff_t lddz, float* sum, float* product, const float* dy, ptrdiff_t lddy,
                                const float* x, ptrdiff_t ldx, int pixels, Vec mean, Vec rstd, Vec w, Vec b, const uint16_t* half,
                                const StripDropout& rule) {
  const uint32_t threshold = rule.threshold;
  const float factor = rule.factor;
  const size_t row = rule.row;
  Vec total = load(sum), products = load(product);
#pragma GCC unroll 2
  for (int p = 0; p < pixels; p++) {
    Vec d = whole ? load(dy + p * lddy) : load_some(dy + p * lddy, rest);
    Vec normal = ((whole ? load(x + p * ldx) : load_some(x + p * ldx, rest)) - mean) * rstd;
    if (drop) d = dropped(d, half + p * row, threshold, factor);
    if (silu) {
      Vec z = normal * w + b, s = sigmoid(z);
      d = d * (s + z * (s - s * s));
    }
    total += d;
    products += d * normal;
    if (dz) whole ? store(dz + p * lddz, d) : store_some(dz + p * lddz, d, rest);
  }
  store(sum, total);
  store(product, products);
}

template <bool silu, bool drop>
void backward_sums_segment(float* dz, ptrdiff_t lddz, float* sum, float* product, const float* dy, ptrdiff_t lddy, const float* x,
                           ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* rstd, const float* w, const float* b,
                           const StripDropout& rule) {
  for (int c = 0; c < channels; c += kLanes) {
    store(sum + c, Vec{});
    store(product + c, Vec{});
  }
  Bits bits(rule);
  stretches<drop>(
      rule, pixels, channels, bits, [&](int p, int count) __attribute__((always_inline)) {
        const uint16_t* half = drop ? bits.at(rule.first + p * rule.row) : nullptr;
        const float *in = x + p * ldx, *gradient = dy + p * lddy;
        float* out = dz ? dz + p * lddz : nullptr;
        int c = 0;
        for (; c + kLanes <= channels; c += kLanes)
          backward_column<true, silu, drop>(0, out ? out + c : nullptr, lddz, sum + c, product + c, gradient + c, lddy, in + c, ldx, count,
                                            load(mean + c), load(rstd + c), load(w + c), load(b + c), half + c, rule);
        if (c < channels)
          backward_column<false, silu, drop>(channels - c, out ? out + c : nullptr, lddz, sum + c, product + c, gradient + c, lddy, in + c,
                                             ldx, count, load(mean + c), load(rstd + c), load(w + c), load(b + c), half + c, rule);
      });
}

void backward_sums(float* dz, ptrdiff_t lddz, float* sum, float* product, const float* dy, ptrdiff_t lddy, const float* x, ptrdiff_t ldx,
                   int pixels, int channels, const float* mean, const float* rstd, const float* w, const float* b, bool silu,
                   const StripDropout& rule) {
  auto* segment = rule.threshold ? (silu ? backward_sums_segment<true, true> : backward_sums_segment<false, true>)
                                 : (silu ? backward_sums_segment<true, false> : backward_sums_segment<false, false>);
  for (int c = 0; c < channels; c += kSegment)
    segment(dz ? dz + c : nullptr, lddz, sum + c, product + c, dy + c, lddy, x + c, ldx, pixels,
            channels - c < kSegment ? channels - c : kSegment, mean + c, rstd + c, w + c, b + c, from_channel(rule, c));
}

void backward_apply(float* dx, ptrdiff_t lddx, const float* dz, ptrdiff_t lddz, const float* x, ptrdiff_t ldx, int pixels, int channels,
                    const float* mean, const float* scale, const float* offset, const float* slope, bool accumulate) {
  for (int p = 0; p < pixels; p++) {
    const float *in = x + p * ldx, *gradient = dz + p * lddz;
    float* out = dx + p * lddx;
    auto value = [&](Vec v, Vec d, int c) __attribute__((always_inline)) {
      return load(scale + c) * d - load(offset + c) - (v - load(mean + c)) * load(slope + c);
    };
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Vec d = value(load(in + c), load(gradient + c), c);
      store(out + c, accumulate ? load(out + c) + d : d);
    }
    int rest = channels - c;
    if (rest) {
      Vec d = value(load_some(in + c, rest), load_some(gradient + c, rest), c);
      store_some(out + c, accumulate ? load_some(out + c, rest) + d : d, rest);
    }
  }
}

}  // namespace

extern const NormMicrokernels norm_microkernels_table;
const NormMicrokernels norm_microkernels_table = {sums, apply, backward_sums, backward_apply};

}  // namespace PHOENIX_ISA
}  // namespace phx
