// Parameters of the optimizer's kernel: the step's constants, bias corrections included, formed once in double.
#pragma once
#include "cuda.cuh"

namespace phx {

struct AdamUpdate {
  float *p, *m, *v, *ema;
  uint16_t* rounded;
  const float* g;
  size_t count;
  float rest1, rest2, scale, rate, root, eps, decay, ema_rest;
};

}  // namespace phx
