// Launchers of the sums over rows, and deferred reductions.
#include "kernels/cuda/runtime/reductions.h"

#include <exception>
#include <memory>
#include <vector>

#include "kernels/cuda/runtime/launch.h"
#include "kernels/cuda/runtime/reductions.cuh"
#include "kernels/cuda/runtime/side_stream.h"
#include "kernels/device.h"
#include "kernels/ops.h"

namespace phx {

static const Kernel<RowSums> row_sums_kernel("row_sums_kernel"), row_sums_eights_kernel("row_sums_eights_kernel");
static const Kernel<Sums> sums_kernel("sums_kernel");

void row_sums(Tensor out, Tensor x, size_t rows) {
  size_t all = x.rows(), segments = ceil_div(all, rows);
  if (is_aligned_bf16(x))
    row_sums_eights_kernel({segments, unsigned(ceil_div(x.c, 64))}, kElementThreads, {view(out), view(x), rows, all});
  else
    row_sums_kernel({segments, unsigned(ceil_div(x.c, 32))}, kElementThreads, {view(out), view(x), rows, all});
}

// Sums to be made, and the memory of their partial results: blocks that are used one after the other and kept, so that what a recorded
// program reads stays where it is. At most kMaxWaiting reals wait, fewer than the second-level cache of large GPUs holds.
class ReductionQueue {
 public:
  real* reserve(size_t count) {
    count = round_up(count, kUnit);
    if (waiting_ + count > kMaxWaiting) make();
    for (; at_ < blocks_.size() && used_ + count > blocks_[at_].size; at_++, used_ = 0) {
    }
    if (at_ == blocks_.size()) blocks_.emplace_back(std::max(count, kMinBlock));
    real* place = blocks_[at_].data.get() + used_;
    used_ += count, waiting_ += count;
    return place;
  }
  void add(const Sum& sum) {
    if (next_.count == kMaxSums) launch();
    next_.sum[next_.count] = sum;
    next_.sum[next_.count++].first_block = count_;
    count_ += sum_blocks(sum.rows, sum.columns);
  }
  // Makes all that wait; then their memory is free for what is queued later.
  void make() {
    launch();
    forget();
  }
  void forget() {
    next_.count = 0, count_ = 0;
    at_ = used_ = waiting_ = 0;
  }

 private:
  static constexpr size_t kUnit = 64, kMinBlock = size_t(1) << 18, kMaxWaiting = size_t(8) << 20;
  struct Release {
    void operator()(real* block) const { device_release(block); }
  };
  struct Block {
    std::unique_ptr<real, Release> data;
    size_t size;
    explicit Block(size_t size) : data(device_allocate(size)), size(size) {}
  };
  std::vector<Block> blocks_;
  size_t at_ = 0, used_ = 0, waiting_ = 0;
  Sums next_{};
  unsigned count_ = 0;  // blocks of the launch

  void launch() {
    sums_kernel({count_}, kElementThreads, next_);
    next_.count = 0, count_ = 0;
  }
};

// The main stream's queue and the side stream's, each with memory of its own: what one reads the other does not write.
struct DeferredReductions : DeviceData {
  bool deferred = false;
  ReductionQueue main, side;
  ReductionQueue& here() { return SideStream::active() ? side : main; }
};

static DeferredReductions& reductions(Context& ctx) {
  if (!ctx.device_data) ctx.device_data = std::make_unique<DeferredReductions>();
  return static_cast<DeferredReductions&>(*ctx.device_data);
}

GradientParts gradient_parts(Context& ctx, size_t weights, size_t biases) {
  real* place = reductions(ctx).here().reserve(weights + biases);
  return {place, biases ? place + weights : nullptr};
}
void gradient_sum(Context& ctx, real* out, const real* parts, size_t rows, size_t columns) {
  reductions(ctx).here().add({out, parts, unsigned(rows), unsigned(columns), 0});
}
void end_gradient_sums(Context& ctx) {
  if (!defers_reductions(ctx)) reductions(ctx).main.make();
}
bool defers_reductions(Context& ctx) { return reductions(ctx).deferred; }

BackwardStage::BackwardStage(Context& ctx) : context_(ctx) { reductions(ctx).deferred = true; }
BackwardStage::~BackwardStage() {
  DeferredReductions& all = reductions(context_);
  all.main.forget(), all.side.forget();
  all.deferred = false;
  try {
    join_side_stream();
  } catch (const std::exception&) {  // the device does not work any more, as the next call will say
  }
}
void BackwardStage::keep(std::function<void()> used) { kept_ = std::move(used); }
void BackwardStage::finish() {
  DeferredReductions& all = reductions(context_);
  all.main.make();
  SideStream side(true);
  side.start();
  all.side.make();
}

}  // namespace phx
