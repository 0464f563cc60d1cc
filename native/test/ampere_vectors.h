// Parameters of ampere_vectors.cu.
#pragma once
#include <cstdint>

struct WarpProduct {
  const uint32_t *a, *b;  // (32 lanes, 4) and (32, 2): two bf16 values each
  const float* c;         // (32, 4)
  float* d;
};
struct LoadedBlocks {
  const unsigned char* image;  // 512 bytes, to shared memory
  const uint32_t* rows;        // (32): where in it each lane's row begins
  uint32_t* out;               // (32, 4)
};
struct CopiedPieces {
  const unsigned char* from;  // 32 pieces of 16 bytes
  const uint32_t* inside;     // (32)
  unsigned char* out;
};
