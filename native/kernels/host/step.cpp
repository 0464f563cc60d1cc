// The steps of a recorded program where the device's memory is the host's, for every precision: ops.h says what they do.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

void next_record(Context&, void* now, const void* records, size_t bytes, Progress* progress) {
  shapes::next_record(bytes);
  std::memcpy(now, static_cast<const char*>(records) + progress->begun++ * bytes, bytes);
}

void finish_gradient(Context& ctx, StepResult* results, Progress* progress, Adam* adam, Tensor loss, const real* g, size_t count,
                     double clip) {
  double sum = 0;
  for (size_t i = 0; i < loss.size(); i++) sum += loss.data[i];
  StepResult found{sum / double(loss.size()), std::sqrt(sum_of_squares(ctx, g, count))};
  results[progress->begun - 1] = found;
  adam->grad_scale = clip > 0 && found.grad_norm > clip ? clip / found.grad_norm : 1;
  if (!std::isfinite(found.loss) || !std::isfinite(found.grad_norm)) progress->halted = 1;
  adam->halted = progress->halted;
}

}  // namespace phx
