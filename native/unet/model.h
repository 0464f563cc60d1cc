// What a network has to be to be trained: named parameters in one vector, and a forward pass on the tape.
#pragma once
#include <string>
#include <vector>

#include "unet/tape.h"

namespace phx {

struct ImageShape {
  int height = 1, width = 1, channels = 1;
  size_t size() const { return size_t(height) * width * channels; }
};

// One entry of a checkpoint. `shape` is the file's: (K,C,3,3) for a convolution, (K,C) or (C); in the vector convolutions are (K,3,3,C).
struct NamedParameter {
  std::string name;
  Parameter at;
  std::vector<int> shape;
};

// What a forward pass reads besides the parameters.
struct Inputs {
  Var x;            // (N,H,W,C)
  Tensor t;         // (N), the step of the noise schedule
  Tensor classes;   // (N)
  Dropout dropout;  // key and step of this pass; it acts only when the tape records
};
// `features`: of a model that has them, (N,1,1,features()).
struct Outputs {
  Var y;
  Var features = {};
};

class Model {
 public:
  virtual ~Model() = default;

  virtual ImageShape input() const = 0;
  virtual ImageShape output() const = 0;
  // Classes of the images: those that the model is conditioned on, or tells apart. 0 = none are needed.
  virtual int classes() const = 0;
  virtual int features() const { return 0; }
  virtual Outputs forward(Tape&, Inputs) const = 0;
  // The values that parameters()[index] begins with.
  virtual std::vector<real> init(size_t index, uint64_t key) const = 0;

  // In the order of the vector, without gaps.
  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  size_t parameter_count() const { return count_; }

 protected:
  // Adds a parameter of this shape (the file's) at the end of the vector.
  Parameter add(const std::string& name, std::vector<int> shape);
  std::vector<NamedParameter> parameters_;

 private:
  size_t count_ = 0;
};

}  // namespace phx
