// Parameters of hopper_vectors.cu.
#pragma once
#include "kernels/cuda/runtime/launch.h"

struct BoxCopy {
  phx::TensorMap map;
  unsigned char* image;
  uint32_t bytes;
  int at[5];
};
struct Product {
  const unsigned char *a, *b;
  const uint32_t* a_registers;  // (4 steps, 128 threads, 4)
  float* d;                     // (128 threads, 32)
  uint64_t a_descriptor, b_descriptor;
  uint32_t bytes, a_start[4], b_start[4];  // of each operand's image; where the steps begin in it
};
struct Blocks {
  const uint32_t *registers, *rows;  // (32 lanes, 4); (32 lanes): where in the image a lane's row is
  uint32_t* image;                   // 128 words
};
