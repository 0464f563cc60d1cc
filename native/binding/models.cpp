#include "binding/models.h"

#include "unet/classifier.h"
#include "unet/unet.h"

namespace phx {
namespace {

// src/ddpm holds the limits of what a model may be. Here a size is bounded only so that products of a few fit into 64 bits.
constexpr int kMaxSize = 1 << 20;

UNetConfig unet_config(Napi::Object o) {
  Napi::Env env = o.Env();
  UNetConfig c;
  c.height = whole(o, "height", 1, kMaxSize), c.width = whole(o, "width", 1, kMaxSize);
  c.in_channels = whole(o, "inChannels", 1, kMaxSize), c.out_channels = whole(o, "outChannels", 1, kMaxSize);
  c.layers_per_block = whole(o, "layersPerBlock", 1, kMaxSize);
  c.attention_head_dim = whole(o, "attentionHeadDim", 0, kMaxSize);
  c.groups = whole(o, "normGroups", 1, kMaxSize);
  c.norm_eps = number(o, "normEps");
  c.dropout = number(o, "dropout");
  c.classes = whole(o, "numClasses", 0, kMaxSize);
  c.flip_sin_to_cos = flag(o, "flipSinToCos");
  c.freq_shift = whole(o, "freqShift", 0, 1);
  c.downsample_padding = whole(o, "downsamplePadding", 0, 1);
  if (!o.Get("blockOutChannels").IsArray() || !o.Get("attention").IsArray())
    raise(env, kArgument, "unet: blockOutChannels and attention must be arrays");
  Napi::Array widths = o.Get("blockOutChannels").As<Napi::Array>(), attention = o.Get("attention").As<Napi::Array>();
  for (uint32_t i = 0; i < widths.Length(); i++) c.block_out_channels.push_back(whole(env, widths.Get(i), "blockOutChannels", 1, kMaxSize));
  for (uint32_t i = 0; i < attention.Length(); i++) c.attention.push_back(attention.Get(i).ToBoolean());
  return c;
}

void read(Napi::Object from, const char* name, int& value) { value = whole(from, name, 1); }
void read(Napi::Object from, const char* name, double& value) { value = number(from, name); }
void read(Napi::Object from, const char* name, bool& value) {
  if (!from.Get(name).IsBoolean()) raise(from.Env(), kArgument, std::string(name) + ": expected true or false");
  value = from.Get(name).ToBoolean();
}

NoiseSchedule noise_schedule(Napi::Object o) {
  std::string prediction = o.Get("prediction").ToString();
  if (prediction != "eps" && prediction != "x0" && prediction != "v")
    raise(o.Env(), kArgument, "prediction: expected eps, x0 or v, got " + prediction);
  NoiseSchedule noise{prediction == "eps"  ? Prediction::eps
                      : prediction == "x0" ? Prediction::x0
                                           : Prediction::v,
                      doubles(o.Env(), o.Get("alphaBar"), "alphaBar")};
  for (double a : noise.alpha_bar)
    if (!(a > 0 && a < 1)) raise(o.Env(), kArgument, "alphaBar: expected values between 0 and 1");
  return noise;
}

Made make_unet(Napi::Object o, Napi::Value noise) {
  NoiseSchedule schedule = noise_schedule(object(o.Env(), noise, "noise"));
  return {std::make_unique<UNet>(unet_config(o)), std::make_unique<NoiseLoss>(schedule), schedule.prediction};
}

Made make_classifier(Napi::Object o, Napi::Value) {
  ClassifierConfig config{whole(o, "height", 1, kMaxSize), whole(o, "width", 1, kMaxSize), whole(o, "channels", 1, kMaxSize),
                          whole(o, "classes", 1, kMaxSize)};
  return {std::make_unique<Classifier>(config), std::make_unique<ClassLoss>(), std::nullopt};
}

struct Kind {
  const char* name;
  Made (*make)(Napi::Object, Napi::Value);
};
constexpr Kind kKinds[] = {{"unet", make_unet}, {"classifier", make_classifier}};

}  // namespace

Hyper hyper_of(Napi::Object o) {
  Hyper h;
  uint32_t known = 0;
  each_hyper(h, [&](const char* name, auto& value, Reads) { read(o, name, value), known++; });
  if (o.GetPropertyNames().Length() != known)
    raise(o.Env(), kArgument,
          "hyper: expected only the " + std::to_string(known) + " hyper-parameters of the addon; do addon and package belong together?");
  return h;
}

Made make_model(Napi::Object o, Napi::Value noise) {
  std::string kind = o.Get("kind").ToString();
  for (const Kind& known : kKinds)
    if (kind == known.name) return known.make(o, noise);
  raise(o.Env(), kArgument, "model: no kind of model is named " + kind);
}

}  // namespace phx
