// Launcher of the sums over rows.
#include "reduce.cuda.h"

#include "launch.cuda.h"
#include "reduce.cuh"

namespace phx {

static const Kernel<RowSums> row_sums_kernel("row_sums_kernel");

void row_sums(Tensor out, Tensor x, size_t rows) {
  size_t all = x.rows();
  row_sums_kernel({(all + rows - 1) / rows, unsigned(x.c + 31) / 32}, kElementThreads, {view(out), view(x), rows, all});
}

}  // namespace phx
