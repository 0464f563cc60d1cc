// Parameters of the kernels over the parameter vector.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

namespace phx {

constexpr size_t kSumBlock = 16384;  // values that a block of threads sums

// y ← f(y, x, z, a); what an op does not have is null.
struct VectorUpdate {
  float* y;
  const float *x, *z;
  float a;
  size_t count;
};
struct ElementUpdate {
  View y, x;
};
struct VectorSum {
  double* partial;  // one per block
  const float *a, *b;
  size_t count;
};
struct ServerUpdate {
  float* p;
  const float* delta;
  float *m, *v;
  size_t count;
  ServerKind kind;
  float lr, beta1, rest1, rest2, tau;
};

}  // namespace phx
