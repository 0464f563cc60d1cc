// Parameters of the embeddings' kernels.
#pragma once
#include "kernels/cuda/cuda.cuh"

namespace phx {

struct TimeEmbedding {
  View y, t;
  int flip_sin_to_cos, freq_shift;
};
struct ClassEmbedding {
  View y, x, classes, table;
};
struct ClassEmbeddingBackward {
  View dtable, dy, classes;
};

}  // namespace phx
