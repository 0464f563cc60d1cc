#include "unet/runner.h"

#include "kernels/check.h"

namespace phx {
namespace {

constexpr size_t kPrograms = 8;  // recorded ones that a Runner keeps

}  // namespace

Runner::Runner(std::unique_ptr<const Model> model, int threads, Type precision)
    : model_(std::move(model)), context_(threads, device_bf16() == Bf16::products ? precision : Type::real), progress_(sizeof(Progress)) {
  check(precision == Type::real || device_bf16() != Bf16::none, "session", "a device that computes in bf16; this one does in fp32 only");
  if (precision == Type::real || device_bf16() != Bf16::tensors) return;
  size_t count = model_->parameter_count();
  rounded_memory_ = std::make_shared<Buffer>(reals_of(Type::bf16, count));
  rounded_ = {rounded_memory_->data, 1, 1, 1, int(count), int(count), Type::bf16};
}

// ---- passes

struct Runner::BatchMemory {
  Arena& arena;
  Batch batch;
  BatchMemory(Arena& arena, const Model& model, int n) : arena(arena) {
    auto take = [&](ImageShape of) { return tensor(arena.take(size_t(n) * of.size()), n, of.height, of.width, of.channels); };
    batch = {take(model.input()), take(model.output()), take({}), take({}), take({}), take({})};
  }
  ~BatchMemory() {
    for (const Tensor& t : {batch.x, batch.target, batch.weight, batch.t, batch.classes, batch.loss}) arena.release(t.data);
  }
};

void Runner::pass_on(Arena& arena, const Pass& p, const Fill& fill, const Use& use) {
  BatchMemory memory(arena, *model_, p.batch);
  const Batch& b = memory.batch;
  Tape tape(context_, arena, p.weights, p.gradients, p.stop, rounded_);
  tape.run([&] { fill(b); });
  Outputs out = model_->forward(tape, {tape.input(b.x), b.t, b.classes, p.dropout});
  if (p.loss) p.loss->apply(tape, out.y, b);
  tape.run([&] { use(b, out); });
  out = {};
  if (p.gradients) tape.backward();
}

void Runner::pass(const Pass& p, const Fill& fill, const Use& use) {
  arena_.reset();
  pass_on(arena_, p, fill, use);
}

void Runner::reserve(const Pass& p) {
  size_t& planned = planned_[{p.batch, p.gradients != nullptr, p.loss != nullptr}];
  if (!planned) {
    Arena dry;
    pass_on(dry, p, {}, {});
    planned = dry.high_water();
  }
  arena_.reset();
  if (planned > arena_.capacity()) arena_.commit(planned);
}

void Runner::use_weights(const real* weights) {
  if (rounded_) convert(context_, rounded_, vector(const_cast<real*>(weights), rounded_.c));
}

// ---- steps

void Runner::reserve_records(size_t bytes, size_t count) { now_.reserve(bytes), records_.reserve(bytes * count); }

char* Runner::put_now(const std::vector<char>& record) {
  now_.reserve(record.size());
  device_put(now_.data(), record.data(), record.size());
  return now_.data();
}

void Runner::load(const std::vector<char>& records) {
  device_put(records_.data(), records.data(), records.size());
  const Progress begin;
  device_put(progress(), &begin, sizeof begin);
}

void Runner::next(size_t bytes) { next_record(context_, now_.data(), records_.data(), bytes, progress()); }

void Runner::run_step(std::vector<uint64_t> captured, const std::function<void()>& work) {
  if (programs_.size() >= kPrograms && !programs_.contains(captured)) programs_.clear();
  Recorded& recorded = programs_[std::move(captured)];
  auto places = [&] {
    return std::vector<uint64_t>{bits(arena_.block()), bits(context_.block()), bits(records_.data()),
                                 bits(now_.data()),    bits(results.data()),   bits(drawn.data())};
  };
  if (!recorded.program || recorded.places != places()) recorded.program = std::make_unique<Program>();
  recorded.program->run(work);
  recorded.places = places();  // a first run may have moved the scratch memory
}

bool Runner::halted() const { return device_is_host && progress()->halted; }

bool Runner::caught_up(bool ahead) {
  if (device_is_host) return true;
  if (ahead) device_wait();
  return ahead;
}

const real* Runner::in_place(const Buffer& values, BufferPtr& copy) {
  if (device_is_host) return values.data;
  if (!copy) copy = std::make_shared<Buffer>(values.count);
  device_copy(copy->data, values.data, values.count);
  return copy->data;
}

}  // namespace phx
