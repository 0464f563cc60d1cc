// A Session: one U-Net on one device with what training needs (optimizer moments, EMA, gradient), and the three things done with it:
// train, evaluate the loss, draw samples. One thread uses a Session at a time.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../kernels/device.h"
#include "hyper.h"
#include "unet.h"

namespace phx {

// A block of parameters in the device's memory, shared by the Session and whoever holds a handle to it.
class Buffer {
 public:
  explicit Buffer(size_t count);  // zeros; throws std::bad_alloc
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  real* const data;
  const size_t count;
};
using BufferPtr = std::shared_ptr<Buffer>;

// Bytes in the device's memory, zeros at first; throws std::bad_alloc. `reserve` makes them at least so many, and gives up what they held if it
// has to move them.
class Block {
 public:
  explicit Block(size_t bytes = 0) { reserve(bytes); }
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  void reserve(size_t bytes);
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// A resident set of images, (count, height, width, channels) u8.
struct Images {
  Images(size_t count, int height, int width, int channels);  // zeros; throws std::bad_alloc
  const size_t count;
  const int height, width, channels;
  const Block block;
  size_t bytes() const { return count * height * width * channels; }
  const uint8_t* pixels() const { return reinterpret_cast<const uint8_t*>(block.data()); }
};

struct NoiseSchedule {
  Prediction prediction = Prediction::eps;
  std::vector<double> alpha_bar;
};

struct NotFinite {
  std::string what;
};

struct TrainOptions {
  std::vector<int32_t> indices;  // steps·batch
  std::vector<int32_t> classes;  // of every image of the set, or empty
  int steps = 0;
  Hyper hyper;
  uint64_t key = 0;
  uint32_t first_step = 0;
  int64_t global_step = 0, adam_step = 0;
  BufferPtr anchor;  // of mu > 0
};

struct EvalOptions {
  std::vector<int32_t> indices, classes;
  int batch = 0;
  uint64_t key = 0;
  BufferPtr weights;
};

struct SampleOptions {
  int count = 0, batch = 0;
  std::vector<double> table;  // rows of t, alpha, sigma, cx, c0, c1, cz
  bool clip = true;
  uint64_t key = 0;
  uint32_t first_image = 0;
  std::vector<int32_t> classes;
  BufferPtr weights;
  std::function<void(double)> on_progress;
};

class Session {
 public:
  // precision: bf16 only where device_bf16() is not none; parameters, their gradients and the optimizer are reals all the same.
  Session(UNetConfig config, NoiseSchedule noise, int threads, Type precision = Type::real);

  const UNet& net() const { return net_; }
  BufferPtr params() const { return params_; }
  // Made at first use, zero.
  BufferPtr ema();
  BufferPtr adam_m();
  BufferPtr adam_v();

  // Weights uniform with variance 1/fan_avg, biases 0, norms 1 and 0; the last layer of each residual branch and of the network is scaled
  // by 1e-5 (variance 1e-10), so that the model starts as the identity.  Ho et al. 2020, reference code nn.py: default_init
  void init(uint64_t key);

  struct TrainResult {
    std::vector<double> losses, grad_norms;
  };
  // Throws Aborted between two steps, where steps are not replayed between two ops, if stop is set; NotFinite if a step was not finite: neither it nor
  // those after it are applied. The steps before it stay applied.
  TrainResult train(const Images&, const TrainOptions&, const std::atomic<bool>* stop);
  double eval_loss(const Images&, const EvalOptions&, const std::atomic<bool>* stop);
  // (count, height, width, channels) in [-1,1]
  std::vector<float> sample(const SampleOptions&, const std::atomic<bool>* stop);

  // For tests: one forward pass, and the gradient of the mean squared error.
  std::vector<double> forward(const std::vector<double>& x, const std::vector<double>& t, const std::vector<int32_t>& classes,
                              BufferPtr weights);
  struct GradientResult {
    double loss;
    std::vector<double> output;
    BufferPtr gradient;
  };
  GradientResult gradient(const std::vector<double>& x, const std::vector<double>& t, const std::vector<double>& target,
                          const std::vector<int32_t>& classes, BufferPtr weights);

  size_t activation_bytes() const { return arena_.capacity() * sizeof(real); }
  size_t optimizer_bytes() const;

 private:
  // What a pass reads and writes besides the tape's tensors; cut from the same arena.
  struct Batch {
    Tensor x, target, weight, t, classes, loss;
  };
  struct BatchMemory;
  // One pass on `arena`: fill writes the batch, use sees the output before its memory is given back.
  using Fill = std::function<void(const Batch&)>;
  using Use = std::function<void(const Batch&, Tensor output)>;
  void pass(Arena& arena, int batch, const real* weights, real* gradients, bool with_loss, Dropout dropout, const std::atomic<bool>* stop,
            const Fill& fill, const Use& use);
  // Makes the arena large enough for such a pass.
  void reserve(int batch, bool training, bool with_loss);
  // The weights of the coming passes: with bf16 activations their rounded copy is made.
  void use_weights(const real* weights);
  // A step that is the same but for its record: run, recorded, replayed. `baked` is all else that the work depends on.
  void run_step(std::vector<uint64_t> baked, const std::function<void()>& work);
  void check_images(const Images&, const std::vector<int32_t>& indices, const std::vector<int32_t>& classes) const;
  size_t image_size() const { return size_t(net_.config().height) * net_.config().width * net_.config().in_channels; }

  UNet net_;
  NoiseSchedule noise_;
  Context context_;
  Arena arena_;
  std::map<std::tuple<int, bool, bool>, size_t> planned_;
  BufferPtr params_, gradient_, m_, v_, ema_, anchor_, rounded_memory_;
  Tensor rounded_;  // the weights in use in bf16, or empty
  // What steps read: the noise schedule's ᾱ; records, of which `now_` holds the running step's; how far they are and what they found. And the
  // images that are being drawn.
  Block alpha_bar_, records_, now_, progress_, results_, drawn_;
  struct Recorded {
    std::vector<uint64_t> places;
    std::unique_ptr<Program> program;
  };
  std::map<std::vector<uint64_t>, Recorded> programs_;
};

}  // namespace phx
