#include "unet/unet.h"

#include <cmath>

#include "kernels/check.h"
#include "kernels/philox.h"

namespace phx {

// ---- parameters
// Laid out so that what one op uses lies together: q, k, v of an attention as one (3C,C) matrix, the time projections of all residual
// blocks as one matrix at the end.

UNet::Norm UNet::norm(const std::string& name, int channels) {
  check(channels % config_.groups == 0, name.c_str(),
        "channels (" + std::to_string(channels) + ") divisible by the number of groups (" + std::to_string(config_.groups) + ")");
  Parameter w = add(name + ".weight", {channels});
  return {w, add(name + ".bias", {channels})};
}

UNet::Layer UNet::conv(const std::string& name, int in, int out) {
  Parameter w = add(name + ".weight", {out, in, 3, 3});
  return {w, add(name + ".bias", {out})};
}

UNet::Layer UNet::linear(const std::string& name, int in, int out) {
  Parameter w = add(name + ".weight", {out, in});
  return {w, add(name + ".bias", {out})};
}

UNet::Residual UNet::residual(const std::string& name, int in, int out) {
  Residual r;
  r.norm1 = norm(name + ".norm1", in);
  r.conv1 = conv(name + ".conv1", in, out);
  projections_.push_back({name + ".time_emb_proj", out});
  r.temb_column = temb_columns_;
  temb_columns_ += out;
  r.norm2 = norm(name + ".norm2", out);
  r.conv2 = conv(name + ".conv2", out, out);
  if (in != out) {
    r.shortcut = linear(name + ".conv_shortcut", in, out);
    parameters_[parameters_.size() - 2].shape = {out, in, 1, 1};
  }
  return r;
}

UNet::Attention UNet::attention_block(const std::string& name, int channels) {
  if (config_.attention_head_dim)
    check(channels % config_.attention_head_dim == 0, name.c_str(), "channels divisible by the width of a head");
  Attention a;
  a.norm = norm(name + ".group_norm", channels);
  size_t first = parameter_count();
  for (const char* part : {".to_q", ".to_k", ".to_v"}) add(name + part + ".weight", {channels, channels});
  a.qkv.w = {first, 3 * channels, 1, 1, channels};
  first = parameter_count();
  for (const char* part : {".to_q", ".to_k", ".to_v"}) add(name + part + ".bias", {channels});
  a.qkv.b = {first, 1, 1, 1, 3 * channels};
  a.out = linear(name + ".to_out.0", channels, channels);
  return a;
}

void UNet::add_time_projections() {
  int width = 4 * config_.block_out_channels[0];
  size_t first = parameter_count();
  for (const auto& p : projections_) add(p.name + ".weight", {p.channels, width});
  time_projection_.w = {first, temb_columns_, 1, 1, width};
  first = parameter_count();
  for (const auto& p : projections_) add(p.name + ".bias", {p.channels});
  time_projection_.b = {first, 1, 1, 1, temb_columns_};
}

UNet::UNet(UNetConfig config) : config_(std::move(config)) {
  const auto& widths = config_.block_out_channels;
  int levels = int(widths.size()), base = levels ? widths[0] : 0, width = 4 * base;
  check(levels > 0 && config_.attention.size() == widths.size(), "unet", "one attention flag for each of at least one level");
  check(base % 2 == 0 && config_.height > 0 && config_.width > 0, "unet", "an even base width and sides above 0");

  time1_ = linear("time_embedding.linear_1", base, width);
  time2_ = linear("time_embedding.linear_2", width, width);
  if (config_.classes) class_table_ = add("class_embedding.weight", {config_.classes, width});
  conv_in_ = conv("conv_in", config_.in_channels, base);

  std::vector<int> skips{base};
  int channels = base;
  for (int i = 0; i < levels; i++) {
    std::string name = "down_blocks." + std::to_string(i);
    Level& level = down_.emplace_back();
    for (int j = 0; j < config_.layers_per_block; j++) {
      level.residuals.push_back(residual(name + ".resnets." + std::to_string(j), channels, widths[i]));
      channels = widths[i];
      if (config_.attention[i]) level.attentions.push_back(attention_block(name + ".attentions." + std::to_string(j), channels));
      skips.push_back(channels);
    }
    if (i + 1 < levels) {
      level.resample = conv(name + ".downsamplers.0.conv", channels, channels);
      skips.push_back(channels);
    }
  }
  mid1_ = residual("mid_block.resnets.0", channels, channels);
  mid_attention_ = attention_block("mid_block.attentions.0", channels);
  mid2_ = residual("mid_block.resnets.1", channels, channels);
  for (int i = 0; i < levels; i++) {
    int at = levels - 1 - i;
    std::string name = "up_blocks." + std::to_string(i);
    Level& level = up_.emplace_back();
    for (int j = 0; j <= config_.layers_per_block; j++) {
      level.residuals.push_back(residual(name + ".resnets." + std::to_string(j), channels + skips.back(), widths[at]));
      skips.pop_back();
      channels = widths[at];
      if (config_.attention[at]) level.attentions.push_back(attention_block(name + ".attentions." + std::to_string(j), channels));
    }
    if (at > 0) level.resample = conv(name + ".upsamplers.0.conv", channels, channels);
  }
  norm_out_ = norm("conv_norm_out", channels);
  add_time_projections();
  // Last, since a bias of 3 values would leave what follows off the 16-byte boundaries that tensor cores' copies of the weights need.
  conv_out_ = conv("conv_out", channels, config_.out_channels);
}

std::vector<real> UNet::init(size_t index, uint64_t key) const {
  const NamedParameter& p = parameters_[index];
  auto ends = [&](const char* suffix) { return p.name.ends_with(suffix); };
  double bound = 0, fixed = 0;
  if (p.shape.size() == 1) {
    fixed = ends(".weight") ? 1 : 0;
  } else {
    double taps = double(p.at.h) * p.at.w, fan_avg = taps * (p.shape[0] + p.shape[1]) / 2;
    bool last = ends(".conv2.weight") || ends(".to_out.0.weight") || p.name == "conv_out.weight";
    bound = std::sqrt(3 / fan_avg) * (last ? 1e-5 : 1);
  }
  std::vector<real> w(p.at.count());
  for (size_t i = 0; i < w.size(); i++)
    w[i] = real(bound ? bound * (2 * ((philox(key, uint32_t(i), uint32_t(index + 1), 0, Purpose::init).w[0] + 0.5) / 4294967296.0) - 1)
                      : fixed);
  return w;
}

// ---- forward

struct UNet::Pass {
  const UNet& net;
  Tape& tape;
  Var temb;  // (N, temb_columns): every residual block's projection
  Dropout dropout;

  GroupNorm norm(bool silu) const { return {net.config_.groups, real(net.config_.norm_eps), silu, {}}; }

  // GN → SiLU → conv1 (+ time) → GN → SiLU → dropout → conv2, plus the input (through a 1x1 convolution where widths differ)
  Var residual(const Residual& r, Var x, Var skip = {}) {
    Var h = tape.conv2d(tape.group_norm(x, skip, r.norm1.w, r.norm1.b, norm(true)), r.conv1.w, r.conv1.b, {},
                        {.temb = temb, .temb_column = r.temb_column});
    GroupNorm second = norm(true);
    second.dropout = dropout;
    dropout.layer++;
    h = tape.group_norm(h, {}, r.norm2.w, r.norm2.b, second);
    Tape::Added around{.residual = x};
    if (r.shortcut.w.n) around = {.shortcut0 = x, .shortcut1 = skip, .shortcut_w = r.shortcut.w, .shortcut_b = r.shortcut.b};
    return tape.conv2d(h, r.conv2.w, r.conv2.b, {}, around);
  }

  Var attention(const Attention& a, Var x) {
    int channels = x->tensor.c, heads = net.config_.attention_head_dim ? channels / net.config_.attention_head_dim : 1;
    Var qkv = tape.linear(tape.group_norm(x, {}, a.norm.w, a.norm.b, norm(false)), {}, a.qkv.w, a.qkv.b);
    return tape.linear(tape.attention(qkv, heads), {}, a.out.w, a.out.b, x);
  }
};

Outputs UNet::forward(Tape& tape, Inputs in) const {
  int levels = int(down_.size()), unit = 1 << (levels - 1);
  auto padded = [unit](int side) { return round_up(side, unit); };

  Var temb = tape.time_embedding(in.t, config_.block_out_channels[0], config_.flip_sin_to_cos, config_.freq_shift);
  temb = tape.linear(tape.silu(tape.linear(temb, {}, time1_.w, time1_.b)), {}, time2_.w, time2_.b);
  if (config_.classes) temb = tape.class_embedding(temb, in.classes, class_table_);
  temb = tape.linear(tape.silu(temb), {}, time_projection_.w, time_projection_.b);

  in.dropout.p = in.dropout.draw ? float(config_.dropout) : 0;
  Pass pass{*this, tape, std::move(temb), in.dropout};

  Var h = tape.conv2d(tape.resize(in.x, padded(config_.height), padded(config_.width)), conv_in_.w, conv_in_.b, {});
  std::vector<Var> skips{h};
  for (const Level& level : down_) {
    for (size_t j = 0; j < level.residuals.size(); j++) {
      h = pass.residual(level.residuals[j], h);
      if (!level.attentions.empty()) h = pass.attention(level.attentions[j], h);
      skips.push_back(h);
    }
    if (level.resample.w.n) {
      h = tape.conv2d(h, level.resample.w, level.resample.b, {.stride = 2, .pad = config_.downsample_padding});
      skips.push_back(h);
    }
  }
  h = pass.residual(mid1_, h);
  h = pass.attention(mid_attention_, h);
  h = pass.residual(mid2_, h);
  for (const Level& level : up_) {
    for (size_t j = 0; j < level.residuals.size(); j++) {
      h = pass.residual(level.residuals[j], h, skips.back());
      skips.pop_back();
      if (!level.attentions.empty()) h = pass.attention(level.attentions[j], h);
    }
    if (level.resample.w.n) h = tape.conv2d(h, level.resample.w, level.resample.b, {.upsample = 2});
  }
  h = tape.group_norm(h, {}, norm_out_.w, norm_out_.b, pass.norm(true));
  h = tape.conv2d(h, conv_out_.w, conv_out_.b, {});
  return {tape.resize(h, config_.height, config_.width)};
}

}  // namespace phx
