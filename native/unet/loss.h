// What a training minimises. A Loss makes a batch out of images, and compares the network's output with it.
#pragma once
#include <vector>

#include "unet/hyper.h"
#include "unet/memory.h"
#include "unet/tape.h"

namespace phx {

// What a pass reads and writes besides the tape's tensors: the network's input x, what its output is compared with (target and a weight per
// image, or the classes), the time t, and the loss of each image.
struct Batch {
  Tensor x, target, weight, t, classes, loss;
};

// Images of a resident set, in the device's memory: all pixels, the positions of the batch, and its classes.
struct Examples {
  const uint8_t* pixels;
  const int32_t* indices;
  const real* classes;
};

class Loss {
 public:
  virtual ~Loss() = default;
  // Fills the batch. It is part of a recorded step: of `hyper` it may use captured values only (hyper.h).
  virtual void fill(Context&, const Batch&, const Examples&, const Draw*, const Hyper& hyper) const = 0;
  // Ends a forward pass: writes batch.loss and, when recording, the gradient of its mean by y.
  virtual void apply(Tape&, Var y, const Batch&) const = 0;
};

struct NoiseSchedule {
  Prediction prediction = Prediction::eps;
  std::vector<double> alpha_bar;
};

// The mean squared error of predicted noise (or image, or v), weighted by min-SNR-γ.  Ho et al. 2020, eq. 14; Hang et al. 2023, eq. 9
class NoiseLoss : public Loss {
 public:
  explicit NoiseLoss(const NoiseSchedule&);
  void fill(Context&, const Batch&, const Examples&, const Draw*, const Hyper&) const override;
  void apply(Tape&, Var y, const Batch&) const override;

 private:
  Prediction prediction_;
  int steps_;
  Block alpha_bar_;
};

// Softmax cross-entropy between the output, a score per class, and the classes: log Σ exp(s) - s[class]. It works in host memory.
class ClassLoss : public Loss {
 public:
  void fill(Context&, const Batch&, const Examples&, const Draw*, const Hyper&) const override;
  void apply(Tape&, Var y, const Batch&) const override;
};

}  // namespace phx
