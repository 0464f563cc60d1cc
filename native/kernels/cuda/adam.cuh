// Parameters of the optimizer's kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

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
  BFloat16* rounded;
  const float* g;
  size_t count;
  const AdamConstants* constants;
};

}  // namespace phx
