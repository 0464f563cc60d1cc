// Launchers of the embeddings. That classes lie within the table is the caller's to see to: their values are on the device.
#include "kernels/cuda/embedding.cuh"

#include "kernels/cuda/runtime/launch.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"

namespace phx {

static const Kernel<TimeEmbedding> time_embedding_kernel("time_embedding_kernel");
static const Kernel<ClassEmbedding> class_embedding_kernel("class_embedding_kernel");
static const Kernel<ClassEmbeddingBackward> class_embedding_backward_kernel("class_embedding_backward_kernel");

void time_embedding_forward(Context&, Tensor y, Tensor t, bool flip_sin_to_cos, int freq_shift) {
  shapes::time_embedding_forward(y, t);
  time_embedding_kernel(cover(y.size() / 2), kElementThreads, {view(y), view(t), flip_sin_to_cos, freq_shift});
}

void class_embedding_forward(Context&, Tensor y, Tensor x, Tensor classes, Tensor table) {
  shapes::class_embedding_forward(y, x, classes, table);
  class_embedding_kernel(cover(y.size()), kElementThreads, {view(y), view(x), view(classes), view(table)});
}

void class_embedding_backward(Context&, Tensor dtable, Tensor dy, Tensor classes) {
  shapes::class_embedding_backward(dtable, dy, classes);
  class_embedding_backward_kernel(cover(dtable.size()), kElementThreads, {view(dtable), view(dy), view(classes)});
}

}  // namespace phx
