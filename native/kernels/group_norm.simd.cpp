// Inner loops of group_norm (group_norm_leaves.h), vector over channels, pixel by pixel; the last channels % kLanes go through a small buffer.
// Dropout's random bits are made for up to 2048 elements at a time (4 KB), kLanes/2 Philox calls at once.  Salmon et al. 2011, §3.3
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "group_norm_leaves.h"
#include "vec.h"

namespace phx {
namespace PHOENIX_ISA {
namespace {

// ---- partial vectors

PHX_INLINE Vec load_some(const float* p, int count) {
  Vec v{};
  for (int i = 0; i < count; i++) v[i] = p[i];
  return v;
}
PHX_INLINE void store_some(float* p, Vec v, int count) {
  for (int i = 0; i < count; i++) p[i] = v[i];
}

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
constexpr int kTogether = 2;    // groups of calls whose chains of ten rounds run side by side
constexpr int kSegment = 1024;  // channels handled in one go, so that a pixel's bits fit the window

// The 16 bits of each element of a strip, in ascending order of elements.
struct Bits {
  const StripDropout& rule;
  size_t last;  // one past the last element that will be asked for
  size_t begin = 0, end = 0;
  uint16_t half[kWindow + 8 * kTogether * kCalls + kLanes];

  Bits(const StripDropout& rule, size_t last) : rule(rule), last(last) {}

  void fill(size_t element) {
    size_t call = element / 8, calls = (last + 7) / 8 - call;
    if (calls > kWindow / 8) calls = kWindow / 8;
    begin = call * 8;
    end = begin + calls * 8;
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

  const uint16_t* at(size_t element, int count) {
    if (element + count > end) fill(element);
    return half + (element - begin);
  }
};

PHX_INLINE Vec dropped(Vec x, const uint16_t* bits, uint32_t threshold, float factor) {
  VecI random = __builtin_convertvector((Halves) * (const HalvesMem*)bits, VecI);
  return select(random >= (VecI{} + int(threshold)), x * factor, Vec{});
}

// ---- forward

template <int kVectors>
PHX_INLINE void sums_of(float* sum, float* square, const float* x, ptrdiff_t ldx, int pixels) {
  Vec first[kVectors], s[kVectors], q[kVectors];
  for (int v = 0; v < kVectors; v++) {
    first[v] = load(x + v * kLanes);
    s[v] = q[v] = Vec{};
  }
  for (int p = 1; p < pixels; p++)
    for (int v = 0; v < kVectors; v++) {
      Vec d = load(x + p * ldx + v * kLanes) - first[v];
      s[v] += d;
      q[v] += d * d;
    }
  for (int v = 0; v < kVectors; v++) {
    store(sum + v * kLanes, s[v]);
    store(square + v * kLanes, q[v]);
  }
}

void sums(float* sum, float* square, const float* x, ptrdiff_t ldx, int pixels, int channels) {
  constexpr int kVectors = kLanes == 16 ? 8 : 4;  // three registers each, of 32 or 16
  int c = 0;
  for (; c + kVectors * kLanes <= channels; c += kVectors * kLanes) sums_of<kVectors>(sum + c, square + c, x + c, ldx, pixels);
  for (; c + kLanes <= channels; c += kLanes) sums_of<1>(sum + c, square + c, x + c, ldx, pixels);
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

template <bool silu, bool drop>
void apply_segment(float* y, ptrdiff_t ldy, const float* x, ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* scale,
                   const float* bias, const StripDropout& rule) {
  Bits bits(rule, rule.first + (pixels - 1) * rule.row + channels);
  for (int p = 0; p < pixels; p++) {
    const uint16_t* half = drop ? bits.at(rule.first + p * rule.row, channels) : nullptr;
    const float* in = x + p * ldx;
    float* out = y + p * ldy;
    auto value = [&](Vec v, int c) __attribute__((always_inline)) {
      v = (v - load(mean + c)) * load(scale + c) + load(bias + c);
      if (silu) v = v / (1.0f + vexp(-v));
      return drop ? dropped(v, half + c, rule.threshold, rule.factor) : v;
    };
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) store(out + c, value(load(in + c), c));
    if (c < channels) store_some(out + c, value(load_some(in + c, channels - c), c), channels - c);
  }
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

template <bool silu, bool drop>
void backward_sums_segment(float* dz, ptrdiff_t lddz, float* sum, float* product, const float* dy, ptrdiff_t lddy, const float* x,
                           ptrdiff_t ldx, int pixels, int channels, const float* mean, const float* rstd, const float* w, const float* b,
                           const StripDropout& rule) {
  Bits bits(rule, rule.first + (pixels - 1) * rule.row + channels);
  for (int c = 0; c < channels; c += kLanes) {
    store(sum + c, Vec{});
    store(product + c, Vec{});
  }
  for (int p = 0; p < pixels; p++) {
    const uint16_t* half = drop ? bits.at(rule.first + p * rule.row, channels) : nullptr;
    const float *in = x + p * ldx, *gradient = dy + p * lddy;
    auto value = [&](Vec v, Vec d, int c) __attribute__((always_inline)) {
      Vec normal = (v - load(mean + c)) * load(rstd + c);
      if (drop) d = dropped(d, half + c, rule.threshold, rule.factor);
      if (silu) {
        Vec z = normal * load(w + c) + load(b + c), s = sigmoid(z);
        d = d * s * (1.0f + z * (1.0f - s));
      }
      store(sum + c, load(sum + c) + d);
      store(product + c, load(product + c) + d * normal);
      return d;
    };
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Vec d = value(load(in + c), load(gradient + c), c);
      if (dz) store(dz + p * lddz + c, d);
    }
    if (c < channels) {
      Vec d = value(load_some(in + c, channels - c), load_some(gradient + c, channels - c), c);
      if (dz) store_some(dz + p * lddz + c, d, channels - c);
    }
  }
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

extern const NormLeaves norm_leaves_table;
const NormLeaves norm_leaves_table = {sums, apply, backward_sums, backward_apply};

}  // namespace PHOENIX_ISA
}  // namespace phx
