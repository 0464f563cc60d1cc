// Launchers of the sums over rows, and the sums that are put off.
#include "reduce.cuda.h"

#include <exception>
#include <memory>
#include <vector>

#include "beside.cuda.h"
#include "device.h"
#include "launch.cuda.h"
#include "ops.h"
#include "reduce.cuh"

namespace phx {

static const Kernel<RowSums> row_sums_kernel("row_sums_kernel"), row_sums_eights_kernel("row_sums_eights_kernel");
static const Kernel<Sums> sums_kernel("sums_kernel");

void row_sums(Tensor out, Tensor x, size_t rows) {
  size_t all = x.rows(), segments = (all + rows - 1) / rows;
  if (in_pieces(x))
    row_sums_eights_kernel({segments, unsigned(x.c + 63) / 64}, kElementThreads, {view(out), view(x), rows, all});
  else
    row_sums_kernel({segments, unsigned(x.c + 31) / 32}, kElementThreads, {view(out), view(x), rows, all});
}

// Sums that wait, and the memory of their parts: blocks that are used one after the other and kept, so that what a recorded program reads
// stays where it is. At most kMostWaiting reals wait, which is less than the second-level cache of the large cards holds.
class WaitingSums {
 public:
  real* room(size_t count) {
    count = (count + kUnit - 1) / kUnit * kUnit;
    if (waiting_ + count > kMostWaiting) make();
    for (; at_ < blocks_.size() && used_ + count > blocks_[at_].size; at_++, used_ = 0) {
    }
    if (at_ == blocks_.size()) blocks_.emplace_back(std::max(count, kLeastBlock));
    real* place = blocks_[at_].data.get() + used_;
    used_ += count, waiting_ += count;
    return place;
  }
  void add(const Sum& sum) {
    if (next_.count == kMostSums) launch();
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
  static constexpr size_t kUnit = 64, kLeastBlock = size_t(1) << 18, kMostWaiting = size_t(8) << 20;
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

// Those of the stream and those beside it, each in memory of its own: what one reads the other does not write.
class PendingSums {
 public:
  bool put_off = false;
  WaitingSums own, beside;
  WaitingSums& here() { return Beside::on() ? beside : own; }
};

static PendingSums& pending(Context& ctx) {
  if (!ctx.pending_sums) ctx.pending_sums = std::make_shared<PendingSums>();
  return *ctx.pending_sums;
}

GradientParts gradient_parts(Context& ctx, size_t weights, size_t biases) {
  real* place = pending(ctx).here().room(weights + biases);
  return {place, biases ? place + weights : nullptr};
}
void gradient_sum(Context& ctx, real* out, const real* parts, size_t rows, size_t columns) {
  pending(ctx).here().add({out, parts, unsigned(rows), unsigned(columns), 0});
}
void end_gradient_sums(Context& ctx) {
  if (!puts_off(ctx)) pending(ctx).own.make();
}
bool puts_off(Context& ctx) { return pending(ctx).put_off; }

GradientSums::GradientSums(Context& ctx) : context_(ctx) { pending(ctx).put_off = true; }
GradientSums::~GradientSums() {
  PendingSums& sums = pending(context_);
  sums.own.forget(), sums.beside.forget();
  sums.put_off = false;
  try {
    join_beside();
  } catch (const std::exception&) {  // the device does not work any more, as the next call will say
  }
}
void GradientSums::end() {
  PendingSums& sums = pending(context_);
  sums.own.make();
  Beside beside(true);
  beside.start();
  sums.beside.make();
}

}  // namespace phx
