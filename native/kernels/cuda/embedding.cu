// Embeddings of time and class: y[n,i] = sin(t_n·f_i), f_i = exp(-ln 1e4 · i/(dim/2 - freq_shift)), the cosines in the other half
// (Vaswani et al. 2017, §3.5), in double as the definition; classes add a row of a table.
#include "kernels/cuda/embedding.cuh"

namespace phx {

extern "C" __global__ void __launch_bounds__(kThreads) time_embedding_kernel(TimeEmbedding a) {
  begin_kernel();
  size_t e = thread_index();
  int half = a.y.c / 2;
  size_t n = e / half;
  int i = int(e % half);
  if (n >= size_t(a.y.n) * a.y.h * a.y.w) return;
  // In half turns, by ln 1e4 and 1/π: sinpi needs no reduction of large angles.
  double angle = double(a.t.data[n]) * exp(-9.210340371976182736 * i / (half - a.freq_shift)) * 0.31830988618379067154;
  put(a.y, n, a.flip_sin_to_cos ? half + i : i, float(sinpi(angle)));
  put(a.y, n, a.flip_sin_to_cos ? i : half + i, float(cospi(angle)));
}

extern "C" __global__ void __launch_bounds__(kThreads) class_embedding_kernel(ClassEmbedding a) {
  begin_kernel();
  size_t e = thread_index();
  if (e >= elements(a.y)) return;
  size_t n = e / a.y.c;
  int c = int(e % a.y.c);
  put(a.y, n, c, at(a.x, n, c) + at(a.table, size_t(a.classes.data[n]), c));
}

// A thread for each element of the table adds up the rows of its class, in order.
extern "C" __global__ void __launch_bounds__(kThreads) class_embedding_backward_kernel(ClassEmbeddingBackward a) {
  begin_kernel();
  size_t e = thread_index();
  if (e >= elements(a.dtable)) return;
  size_t row = e / a.dtable.c;
  int c = int(e % a.dtable.c);
  float sum = 0;
  for (int n = 0; n < a.dy.n * a.dy.h * a.dy.w; n++)
    if (size_t(a.classes.data[n]) == row) sum += at(a.dy, n, c);
  put(a.dtable, row, c, sum);
}

}  // namespace phx
