// Parameters of the kernels that lead through the steps of a recorded program.
#pragma once
#include "kernels/cuda/cuda.cuh"
#include "kernels/ops.h"

namespace phx {

struct NextRecord {
  uint32_t* now;
  const uint32_t* records;
  size_t words;  // of 4 bytes, of a record
  Progress* progress;
};
struct FinishGradient {
  StepResult* results;
  Progress* progress;
  Adam* adam;
  View loss;
  const double* partial;  // sums of squares, see vector.cuh
  size_t partials;
  double clip;
};

}  // namespace phx
