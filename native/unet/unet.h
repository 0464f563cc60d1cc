// The U-Net of Ho et al. 2020 (app. B) in diffusers' parametrisation (UNet2DModel): names, shapes and the forward pass, written once.
#pragma once
#include "unet/model.h"

namespace phx {

struct UNetConfig {
  int height = 32, width = 32;  // of the images; sides that do not halve evenly are padded inside
  int in_channels = 3, out_channels = 3;
  std::vector<int> block_out_channels;
  int layers_per_block = 2;
  std::vector<bool> attention;  // a level has attention after each residual block
  int attention_head_dim = 0;   // channels per head; 0 = one head of full width
  int groups = 32;
  double norm_eps = 1e-6;
  double dropout = 0;
  int classes = 0;  // 0 = unconditional
  bool flip_sin_to_cos = false;
  int freq_shift = 1;
  int downsample_padding = 0;
};

class UNet : public Model {
 public:
  explicit UNet(UNetConfig config);  // throws std::invalid_argument

  ImageShape input() const override { return {config_.height, config_.width, config_.in_channels}; }
  ImageShape output() const override { return {config_.height, config_.width, config_.out_channels}; }
  int classes() const override { return config_.classes; }
  Outputs forward(Tape&, Inputs) const override;
  // Weights uniform with variance 1/fan_avg, biases 0, norms 1 and 0; the last layer of each residual branch and of the network is scaled
  // by 1e-5 (variance 1e-10), so that the model starts as the identity.  Ho et al. 2020, reference code nn.py: default_init
  std::vector<real> init(size_t index, uint64_t key) const override;

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

  Norm norm(const std::string& name, int channels);
  Layer conv(const std::string& name, int in, int out);
  Layer linear(const std::string& name, int in, int out);
  Residual residual(const std::string& name, int in, int out);
  Attention attention_block(const std::string& name, int channels);
  void add_time_projections();

  struct Pass;  // one forward pass: the tape and what the blocks share

  UNetConfig config_;

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
