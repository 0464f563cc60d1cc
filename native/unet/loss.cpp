#include "unet/loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace phx {

// ---- predicted noise

NoiseLoss::NoiseLoss(const NoiseSchedule& noise)
    : prediction_(noise.prediction), steps_(int(noise.alpha_bar.size())), alpha_bar_(noise.alpha_bar.size() * sizeof(double)) {
  check(steps_ > 0, "session", "a noise schedule of at least one step");
  device_put(alpha_bar_.data(), noise.alpha_bar.data(), alpha_bar_.bytes());
}

void NoiseLoss::fill(Context& ctx, const Batch& b, const Examples& from, const Draw* draw, const Hyper& hyper) const {
  check(b.x.c == b.target.c, "images", "a model with as many channels out as in");
  noise_batch(ctx, b.x, b.target, b.weight, b.t, from.pixels, from.indices, reinterpret_cast<const double*>(alpha_bar_.data()),
              {prediction_, steps_, real(hyper.min_snr_gamma), hyper.flip, draw});
  device_copy(b.classes.data, from.classes, b.classes.size());
}

void NoiseLoss::apply(Tape& tape, Var y, const Batch& b) const {
  Context& ctx = tape.context();
  Tensor of = y->tensor;
  tape.loss(
      y, [&ctx, of, b] { mse_forward(ctx, b.loss, of, b.target, b.weight); },
      [&ctx, of, b](Tensor dy) { mse_backward(ctx, dy, of, b.target, b.weight); });
}

// ---- classes

void ClassLoss::fill(Context&, const Batch& b, const Examples& from, const Draw*, const Hyper& hyper) const {
  check(!hyper.flip && hyper.min_snr_gamma == 0, "train", "neither flip nor minSnrGamma with a model that tells classes apart");
  size_t size = b.x.size() / b.x.n;
  for (int n = 0; n < b.x.n; n++) {
    const uint8_t* image = from.pixels + size_t(from.indices[n]) * size;
    real* x = b.x.data + size_t(n) * size;
    for (size_t i = 0; i < size; i++) x[i] = real(image[i]) / real(127.5) - 1;
  }
  device_copy(b.classes.data, from.classes, b.classes.size());
}

void ClassLoss::apply(Tape& tape, Var y, const Batch& b) const {
  Tensor scores = y->tensor;
  // log Σ exp(s), by the largest score
  auto log_sum = [scores](int n, double& most, double& sum) {
    const real* s = scores.row(size_t(n));
    most = double(*std::max_element(s, s + scores.c)), sum = 0;
    for (int k = 0; k < scores.c; k++) sum += std::exp(double(s[k]) - most);
  };
  tape.loss(
      y,
      [=] {
        for (int n = 0; n < scores.n; n++) {
          double most, sum;
          log_sum(n, most, sum);
          b.loss.data[n] = real(most + std::log(sum) - double(scores.row(size_t(n))[int(b.classes.data[n])]));
        }
      },
      [=](Tensor dy) {  // (softmax(s) - onehot(class)) / N
        for (int n = 0; n < scores.n; n++) {
          const real* s = scores.row(size_t(n));
          double most, sum;
          log_sum(n, most, sum);
          for (int k = 0; k < scores.c; k++)
            dy.row(size_t(n))[k] = real((std::exp(double(s[k]) - most) / sum - (k == int(b.classes.data[n]))) / scores.n);
        }
      });
}

}  // namespace phx
