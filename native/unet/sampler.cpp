#include "unet/sampler.h"

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"

namespace phx {
namespace {

constexpr size_t kColumns = 7;
constexpr size_t kRowsInFlight = 8;  // between two reports of progress, where work is queued

void check_options(const Model& model, const SampleOptions& o) {
  ImageShape in = model.input(), out = model.output();
  check(o.count > 0 && o.batch > 0 && !o.table.empty() && o.table.size() % kColumns == 0, "sample",
        "count and batch above 0 and a table of whole rows");
  check(o.weights->count == model.parameter_count(), "sample", "weights of as many values as the model has parameters");
  check(in.height == out.height && in.width == out.width && in.channels == out.channels, "sample",
        "a model with as many channels out as in");
  check(!model.classes() || o.classes.size() == size_t(o.count), "sample", "one class for each image");
  for (int32_t k : o.classes)
    check(k >= 0 && k < model.classes(), "sample", "classes below " + std::to_string(model.classes()) + ", got " + std::to_string(k));
}

// A record per row of the table, for n images from `first` on.
std::vector<char> records(const Model& model, const SampleOptions& o, int first, int n) {
  size_t rows = o.table.size() / kColumns, bytes = Record<SamplerStep>::bytes(n);
  std::vector<char> staged(bytes * rows);
  for (size_t row = 0; row < rows; row++) {
    Record<SamplerStep> record(staged.data() + bytes * row, n);
    const double* r = o.table.data() + row * kColumns;
    *record.header() = {real(r[1]),
                        real(r[2]),
                        real(r[3]),
                        real(r[4]),
                        real(r[5]),
                        real(r[6]),
                        o.prediction,
                        o.clip,
                        o.key,
                        uint32_t(row),
                        o.first_image + uint32_t(first)};
    std::fill_n(record.times(), n, real(r[0]));
    for (int j = 0; j < n; j++) record.classes()[j] = real(model.classes() ? o.classes[size_t(first) + j] : 0);
  }
  return staged;
}

}  // namespace

std::vector<float> sample(Runner& runner, const SampleOptions& o, const std::atomic<bool>* stop) {
  const Model& model = runner.model();
  check_options(model, o);
  ImageShape of = model.input();
  runner.use_weights(o.weights->data);
  std::vector<float> images(size_t(o.count) * of.size());
  size_t rows = o.table.size() / kColumns, done = 0, all = rows * ceil_div(size_t(o.count), o.batch);
  for (int first = 0, n; first < o.count; first += n) {
    n = std::min(o.batch, o.count - first);
    size_t values = size_t(n) * of.size(), bytes = Record<SamplerStep>::bytes(n);
    Runner::Pass pass{.batch = n, .weights = o.weights->data, .stop = stop};
    runner.reserve(pass);
    runner.reserve_records(bytes, rows), runner.drawn.reserve(2 * values * sizeof(real));
    real* state = reinterpret_cast<real*>(runner.drawn.data());
    Tensor x = tensor(state, n, of.height, of.width, of.channels), x0_prev = tensor(state + values, n, of.height, of.width, of.channels);
    normal_fill(runner.context(), x, o.key, o.first_image + uint32_t(first));
    runner.load(records(model, o, first, n));

    Record<SamplerStep> now(runner.now(), n);
    auto step = [&] {
      runner.next(bytes);
      runner.pass(
          pass,
          [&](const Batch& b) {
            device_copy(b.x.data, x.data, values);
            device_copy(b.t.data, now.times(), size_t(n));
            device_copy(b.classes.data, now.classes(), size_t(n));
          },
          [&](const Batch&, const Outputs& out) { sampler_step(runner.context(), x, x0_prev, out.y->tensor, now.header()); });
    };
    for (size_t row = 0; row < rows; row++) {
      if (stop && stop->load(std::memory_order_relaxed)) throw Aborted{};
      runner.run_step({1, uint64_t(n), bits(o.weights->data)}, step);
      ++done;
      // What is reported is done, and little is queued when a stop is asked for.
      if (o.on_progress && runner.caught_up(done % kRowsInFlight == 0 || row + 1 == rows)) o.on_progress(double(done) / double(all));
    }
    if (!all_finite(runner.context(), x.data, values))
      throw NotFinite{"the samples contain NaN or infinite values: the parameters are damaged"};
    std::vector<real> drawn = values_of(x);
    for (size_t i = 0; i < values; i++) images[size_t(first) * of.size() + i] = float(std::clamp(drawn[i], real(-1), real(1)));
  }
  return images;
}

}  // namespace phx
