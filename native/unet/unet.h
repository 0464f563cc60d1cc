// The U-Net of Ho et al. 2020 (app. B) in diffusers' parametrisation (UNet2DModel): names, shapes and the forward pass, written once.
#pragma once
#include <string>
#include <vector>

#include "tape.h"

namespace phx {

struct UNetConfig {
  int height = 32, width = 32;  // of the images; sides that do not halve evenly are padded inside
  int in_channels = 3, out_channels = 3;
  std::vector<int> block_out_channels;
  int layers_per_block = 2;
  std::vector<bool> attention;  // a level has attention after each residual block
  int attention_head_dim = 0;   // channels a head; 0 = one head of full width
  int groups = 32;
  double norm_eps = 1e-6;
  double dropout = 0;
  int classes = 0;  // 0 = unconditional
  bool flip_sin_to_cos = false;
  int freq_shift = 1;
  int downsample_padding = 0;
};

// One entry of a checkpoint. `shape` is the file's: (K,C,3,3) for a convolution, (K,C) or (C); in the vector convolutions are (K,3,3,C).
struct NamedParameter {
  std::string name;
  Parameter at;
  std::vector<int> shape;
};

class UNet {
 public:
  explicit UNet(UNetConfig config);  // throws std::invalid_argument

  const UNetConfig& config() const { return config_; }
  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  size_t parameter_count() const { return count_; }

  // x (N,height,width,in_channels), t (N), classes (N) iff the model has classes → (N,height,width,out_channels).
  // dropout: key and step of this pass (the layer is filled in); it acts only when the tape records.
  Var forward(Tape& tape, Var x, Tensor t, Tensor classes, Dropout dropout = {}) const;

 private:
  struct Norm {
    Parameter w, b;
  };
  struct Layer {
    Parameter w, b;
  };  // linear or convolution
  struct Residual {
    Norm norm1, norm2;
    Layer conv1, conv2, shortcut;  // shortcut.w.n == 0: none
    int temb_column;               // of the shared time projection
  };
  struct Attention {
    Norm norm;
    Layer qkv, out;
  };
  struct Level {
    std::vector<Residual> residuals;
    std::vector<Attention> attentions;  // one a residual block, or none
    Layer resample;                     // down- or upsampler; w.n == 0: none
  };

  Parameter add(const std::string& name, std::vector<int> shape);
  Norm norm(const std::string& name, int channels);
  Layer conv(const std::string& name, int in, int out);
  Layer linear(const std::string& name, int in, int out);
  Residual residual(const std::string& name, int in, int out);
  Attention attention_block(const std::string& name, int channels);
  void add_time_projections();

  struct Pass;  // one forward pass: the tape and what the blocks share

  UNetConfig config_;
  std::vector<NamedParameter> parameters_;
  size_t count_ = 0;

  Layer time1_, time2_, time_projection_;
  Parameter class_table_;
  Layer conv_in_, conv_out_;
  Norm norm_out_;
  std::vector<Level> down_, up_;
  Residual mid1_, mid2_;
  Attention mid_attention_;
  struct Projection {
    std::string name;
    int channels;
  };
  std::vector<Projection> projections_;
  int temb_columns_ = 0;
};

}  // namespace phx
