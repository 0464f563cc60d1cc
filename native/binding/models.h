// What a Session is made of, read from JavaScript: the model with its loss, and hyper-parameters.
#pragma once
#include <optional>

#include "binding/call.h"
#include "unet/trainer.h"

namespace phx {

struct Made {
  std::unique_ptr<const Model> model;
  std::unique_ptr<const Loss> loss;
  // What a model that is drawn from predicts; of another there is none.
  std::optional<Prediction> prediction;
};
// The model that `model.kind` names. `noise` is read for a model of noise only.
Made make_model(Napi::Object model, Napi::Value noise);

Hyper hyper_of(Napi::Object from);

}  // namespace phx
