// A pool of threads shared by the whole process. `parallel_for` cuts [0,count) into at most ctx.threads() contiguous ranges of almost equal
// size and runs body(begin, end) on each; the calling thread takes part. A body must write only what belongs to its range, and what it
// computes for an index must not depend on the cut: then results do not depend on the number of threads.
// Several callers may use the pool at once; a body must not call parallel_for. An exception thrown by a body is rethrown in the caller.
#pragma once
#include <cstddef>
#include <functional>

#include "kernels/context.h"

namespace phx {

void parallel_for(Context&, size_t count, const std::function<void(size_t begin, size_t end)>& body);

}  // namespace phx
