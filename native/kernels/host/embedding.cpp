// Embeddings of time and class, for every precision: y[n,i] = sin(t_n·f_i), f_i = exp(-ln 1e4 · i/(dim/2 - freq_shift)), the cosines in
// the other half (Vaswani et al. 2017, §3.5); classes add a row of a table. Tiny: one thread.
#include <cmath>

#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

int class_of(const char* op, const Tensor& classes, size_t n, const Tensor& table) {
  int index = int(classes.data[n]);
  check(index >= 0 && index < table.n, op, "classes below " + std::to_string(table.n) + ", not " + std::to_string(index));
  return index;
}

}  // namespace

void time_embedding_forward(Context&, Tensor y, Tensor t, bool flip_sin_to_cos, int freq_shift) {
  shapes::time_embedding_forward(y, t);
  int half = y.c / 2;
  for (size_t n = 0; n < y.rows(); n++)
    for (int i = 0; i < half; i++) {
      double angle = t.data[n] * std::exp(-std::log(1e4) * i / (half - freq_shift));
      y.row(n)[flip_sin_to_cos ? half + i : i] = real(std::sin(angle));
      y.row(n)[flip_sin_to_cos ? i : half + i] = real(std::cos(angle));
    }
}

void class_embedding_forward(Context&, Tensor y, Tensor x, Tensor classes, Tensor table) {
  shapes::class_embedding_forward(y, x, classes, table);
  for (size_t n = 0; n < y.rows(); n++) {
    const real* entry = table.row(class_of("class_embedding_forward", classes, n, table));
    for (int c = 0; c < y.c; c++) y.row(n)[c] = x.row(n)[c] + entry[c];
  }
}

void class_embedding_backward(Context&, Tensor dtable, Tensor dy, Tensor classes) {
  shapes::class_embedding_backward(dtable, dy, classes);
  for (size_t i = 0; i < dtable.rows(); i++)
    for (int c = 0; c < dtable.c; c++) dtable.row(i)[c] = 0;
  for (size_t n = 0; n < dy.rows(); n++) {
    real* entry = dtable.row(class_of("class_embedding_backward", classes, n, dtable));
    for (int c = 0; c < dy.c; c++) entry[c] += dy.row(n)[c];
  }
}

}  // namespace phx
