// Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3", §3.3):
// ten rounds of multiplication and exchange turn (64-bit key, 128-bit counter) into four 32-bit words. src/rng.ts holds the same.
#pragma once
#include <cstdint>

namespace phx {

// The last word of a counter says what the numbers are for, so that no two uses share a stream.
enum class Purpose : uint32_t { timestep = 1, noise = 2, dropout = 3, sampler = 4, prior = 5, init = 6, host = 7 };

struct Words {
  uint32_t w[4];
};

constexpr Words philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
    uint32_t n0 = uint32_t(b >> 32) ^ c1 ^ k0, n2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b), c3 = uint32_t(a), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}
constexpr Words philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, Purpose purpose) {
  return philox(key, c0, c1, c2, uint32_t(purpose));
}

}  // namespace phx
