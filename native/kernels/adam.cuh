// Parameters of the optimizer's kernels.
#pragma once
#include "cuda.cuh"
#include "ops.h"

namespace phx {

// The step's constants, bias corrections included, formed once in double.
struct AdamConstants {
  float rest1, rest2, scale, rate, root, eps, decay, ema_rest;
  int halted;
};
struct AdamPrepare {
  AdamConstants* constants;
  const Adam* step;
};
struct AdamUpdate {
  float *p, *m, *v, *ema;
  uint16_t* rounded;
  const float* g;
  size_t count;
  const AdamConstants* constants;
};

}  // namespace phx
