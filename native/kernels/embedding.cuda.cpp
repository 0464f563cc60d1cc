// Launchers of the embeddings. That classes lie within the table is the caller's to see to: their values are on the device.
#include "embedding.cuh"

#include "check.h"
#include "launch.cuda.h"
#include "ops.h"

namespace phx {

static const Kernel<TimeEmbedding> time_embedding_kernel("time_embedding_kernel");
static const Kernel<ClassEmbedding> class_embedding_kernel("class_embedding_kernel");
static const Kernel<ClassEmbeddingBackward> class_embedding_backward_kernel("class_embedding_backward_kernel");

void time_embedding_forward(Context&, Tensor y, Tensor t, bool flip_sin_to_cos, int freq_shift) {
  check(t.size() == y.rows() && y.c % 2 == 0, "time_embedding_forward", "one t a row and an even width");
  time_embedding_kernel(cover(y.size() / 2), kElementThreads, {view(y), view(t), flip_sin_to_cos, freq_shift});
}

void class_embedding_forward(Context&, Tensor y, Tensor x, Tensor classes, Tensor table) {
  check(same_shape(x, y) && classes.size() == y.rows() && table.c == y.c, "class_embedding_forward",
        "x and table rows like y " + shape_of(y) + " and one class a row");
  class_embedding_kernel(cover(y.size()), kElementThreads, {view(y), view(x), view(classes), view(table)});
}

void class_embedding_backward(Context&, Tensor dtable, Tensor dy, Tensor classes) {
  check(classes.size() == dy.rows() && dtable.c == dy.c, "class_embedding_backward", "table rows like dy and one class a row");
  class_embedding_backward_kernel(cover(dtable.size()), kElementThreads, {view(dtable), view(dy), view(classes)});
}

}  // namespace phx
