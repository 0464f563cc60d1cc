// Updates as bytes, and rules over several updates, all in host memory, for every precision (binding/vector.cpp brings them there). Work is
// cut into blocks whose values do not depend on each other, or sums are formed in one fixed order: results do not depend on the number of
// threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace phx {
namespace {

constexpr size_t kBlock = 16384;  // a multiple of kInt8Block
constexpr size_t kSumLanes = 8;

// body(begin, end) over whole blocks of [0, count).
template <class Body>
void for_blocks(Context& ctx, size_t count, Body body) {
  parallel_for(ctx, ceil_div(count, kBlock), [&](size_t begin, size_t end) { body(begin * kBlock, std::min(count, end * kBlock)); });
}

// Σ (a-b)² in eight lanes of double.
double distance(const real* a, const real* b, size_t count) {
  double lanes[kSumLanes] = {};
  for (size_t i = 0; i < count; i++) {
    double d = double(a[i]) - double(b[i]);
    lanes[i % kSumLanes] += d * d;
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

void put16(uint8_t* at, uint16_t value) { at[0] = uint8_t(value), at[1] = uint8_t(value >> 8); }
uint16_t get16(const uint8_t* at) { return uint16_t(at[0] | at[1] << 8); }
void put32(uint8_t* at, uint32_t value) { put16(at, uint16_t(value)), put16(at + 2, uint16_t(value >> 16)); }
uint32_t get32(const uint8_t* at) { return get16(at) | uint32_t(get16(at + 2)) << 16; }

// Bits of |x| as a float: ordered as the magnitudes are.
uint32_t magnitude(real x) { return std::bit_cast<uint32_t>(float(x)) & 0x7fffffffu; }

// The k-th largest magnitude, and how many of that very magnitude belong to the k largest: three passes over digits of 11, 11 and 9 bits.
struct Threshold {
  uint32_t magnitude;
  size_t ties;
};
Threshold kth_largest(const real* x, size_t count, size_t k) {
  uint32_t prefix = 0, mask = 0;
  for (int shift : {20, 9, 0}) {
    const uint32_t digits = shift ? 2047 : 511;
    size_t histogram[2048] = {};
    for (size_t i = 0; i < count; i++) {
      uint32_t m = magnitude(x[i]);
      if ((m & mask) == prefix) histogram[m >> shift & digits]++;
    }
    uint32_t digit = digits;
    for (; histogram[digit] < k; digit--) k -= histogram[digit];
    prefix |= digit << shift, mask |= digits << shift;
  }
  return {prefix, k};
}

constexpr size_t kLargestHeader = 16;

}  // namespace

void encode_bf16(Context& ctx, uint8_t* bytes, const real* x, size_t count) {
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) put16(bytes + 2 * i, uint16_t(to_bf16(x[i])));
  });
}

void decode_bf16(Context& ctx, real* x, const uint8_t* bytes, size_t count) {
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) x[i] = from_bf16(BFloat16(get16(bytes + 2 * i)));
  });
}

void encode_int8(Context& ctx, uint8_t* bytes, const real* x, size_t count) {
  static_assert(kBlock % kInt8Block == 0);
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += kInt8Block) {
      const size_t n = std::min(kInt8Block, end - at);
      uint8_t* out = bytes + at / kInt8Block * (kInt8Block + 4);
      float top = 0;
      for (size_t i = 0; i < n; i++) top = std::max(top, std::abs(float(x[at + i])));
      const float scale = top / 127;
      put32(out, std::bit_cast<uint32_t>(scale));
      for (size_t i = 0; i < n; i++) {
        float q = scale > 0 ? std::nearbyint(float(x[at + i]) / scale) : 0;
        q = q >= -127 ? (q <= 127 ? q : 127) : -127;  // a small scale is rounded itself; NaN must not reach the cast
        out[4 + i] = uint8_t(int8_t(q));
      }
    }
  });
}

void decode_int8(Context& ctx, real* x, const uint8_t* bytes, size_t count) {
  for_blocks(ctx, count, [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += kInt8Block) {
      const size_t n = std::min(kInt8Block, end - at);
      const uint8_t* in = bytes + at / kInt8Block * (kInt8Block + 4);
      const float scale = std::bit_cast<float>(get32(in));
      check(scale >= 0 && scale <= std::numeric_limits<float>::max(), "decode_int8", "every scale finite and at least 0");
      for (size_t i = 0; i < n; i++) {
        const int8_t q = int8_t(in[4 + i]);
        check(q != -128, "decode_int8", "bytes in -127..127");
        x[at + i] = real(scale * float(q));
      }
    }
  });
}

std::vector<uint8_t> encode_largest(Context&, const real* x, size_t count, size_t k) {
  check(k >= 1 && k <= count, "encode_largest", "k from 1 to the number of values");
  auto [threshold, ties] = kth_largest(x, count, k);
  std::vector<uint8_t> out(kLargestHeader + 2 * k), gaps, bitmap((count + 7) / 8);
  put32(out.data(), uint32_t(k)), put32(out.data() + 4, uint32_t(uint64_t(k) >> 32));
  gaps.reserve(2 * k);
  size_t sent = 0, next = 0;  // next: the lowest index that may follow
  for (size_t i = 0; i < count; i++) {
    const uint32_t m = magnitude(x[i]);
    if (m < threshold || (m == threshold && ties == 0)) continue;
    if (m == threshold) ties--;
    put16(out.data() + kLargestHeader + 2 * sent++, uint16_t(to_bf16(x[i])));
    bitmap[i / 8] |= uint8_t(1 << i % 8);
    uint64_t gap = i - next;
    for (; gap >= 128; gap >>= 7) gaps.push_back(uint8_t(gap | 128));
    gaps.push_back(uint8_t(gap));
    next = i + 1;
  }
  const bool as_bitmap = bitmap.size() < gaps.size();
  out[8] = as_bitmap;
  const auto& indices = as_bitmap ? bitmap : gaps;
  out.insert(out.end(), indices.begin(), indices.end());
  return out;
}

void decode_largest(Context&, real* x, size_t count, const uint8_t* bytes, size_t length) {
  auto demand = [](bool holds, const char* what) { check(holds, "decode_largest", what); };
  demand(length >= kLargestHeader, "at least 16 bytes");
  const uint64_t k = get32(bytes) | uint64_t(get32(bytes + 4)) << 32;
  demand(k >= 1 && k <= count, "k from 1 to the number of values");
  demand(length - kLargestHeader >= 2 * k, "two bytes for each of k values");
  demand(bytes[8] <= 1 && std::all_of(bytes + 9, bytes + kLargestHeader, [](uint8_t b) { return b == 0; }), "coding 0 or 1");
  const uint8_t* values = bytes + kLargestHeader;
  const uint8_t* at = values + 2 * k;
  const uint8_t* end = bytes + length;
  std::fill(x, x + count, real(0));
  size_t taken = 0;
  auto set = [&](size_t i) { x[i] = from_bf16(BFloat16(get16(values + 2 * taken++))); };
  if (bytes[8] == 1) {
    demand(size_t(end - at) == (count + 7) / 8, "a bitmap of ceil(count/8) bytes");
    for (size_t i = 0; i < size_t(end - at) * 8; i++) {
      if (!(at[i / 8] >> i % 8 & 1)) continue;
      demand(i < count && taken < k, "as many bits as values, none behind the last");
      set(i);
    }
    demand(taken == k, "as many bits as values");
    return;
  }
  for (size_t next = 0; taken < k; next++) {
    uint64_t gap = 0;
    for (int shift = 0;; shift += 7) {
      demand(at < end && shift < 56, "k gaps of at most eight bytes");
      gap |= uint64_t(*at & 127) << shift;
      if (*at++ < 128) break;
    }
    demand(next < count && gap < count - next, "indices below the number of values");
    next += gap;
    set(next);
  }
  demand(at == end, "no bytes behind the last index");
}

void trimmed_mean(Context& ctx, real* y, const real* rows, size_t n, size_t columns, size_t trim) {
  check(n >= 1 && 2 * trim < n, "trimmed_mean", "2·trim below the number of rows");
  for_blocks(ctx, columns, [&](size_t begin, size_t end) {
    std::vector<real> column(n);
    for (size_t j = begin; j < end; j++) {
      for (size_t i = 0; i < n; i++) column[i] = rows[i * columns + j];
      std::sort(column.begin(), column.end());
      double sum = 0;
      for (size_t i = trim; i < n - trim; i++) sum += double(column[i]);
      y[j] = real(sum / double(n - 2 * trim));
    }
  });
}

void row_distances(Context& ctx, double* squared, const real* rows, size_t n, size_t columns) {
  parallel_for(ctx, n * n, [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at++) {
      const size_t i = at / n, j = at % n;
      if (i > j) continue;
      squared[i * n + j] = squared[j * n + i] = i == j ? 0 : distance(rows + i * columns, rows + j * columns, columns);
    }
  });
}

}  // namespace phx
