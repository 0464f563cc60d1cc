// The metrics of samples as jobs, and the networks that they look through.
#include "metrics/metrics.h"

#include "binding/parts.h"
#include "metrics/network.h"

namespace phx {
namespace {

// Numbers of either width, as doubles. Copied, as all arguments are.
std::vector<double> any_reals(Napi::Env env, Napi::Value value, const char* name) {
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_float32_array) {
    auto array = value.As<Napi::Float32Array>();
    return std::vector<double>(array.Data(), array.Data() + array.ElementLength());
  }
  return doubles(env, value, name);
}
Features features(const Napi::CallbackInfo& info, size_t i) {
  Napi::Env env = info.Env();
  Napi::Object o = object(info, i, "features");
  Features x{any_reals(env, o.Get("data"), "data"), size_t(whole(o, "rows", 1)), size_t(whole(o, "columns", 1, 65536))};
  if (x.data.size() != x.rows * x.columns)
    raise(env, kShape, "features: expected " + std::to_string(x.rows * x.columns) + " values, got " + std::to_string(x.data.size()));
  return x;
}
Moments moments_of(const Napi::CallbackInfo& info, size_t i) {
  Napi::Object o = object(info, i, "moments");
  return {doubles(info.Env(), o.Get("mean"), "mean"), doubles(info.Env(), o.Get("covariance"), "covariance")};
}
Napi::Value int_array(Napi::Env env, const std::vector<int32_t>& from) {
  auto array = Napi::Int32Array::New(env, from.size());
  std::copy(from.begin(), from.end(), array.Data());
  return array;
}

// A job that computes a result on some threads of the pool; `threads` is the last argument of every metric.
template <class Result>
Napi::Value measure(const Napi::CallbackInfo& info, std::function<Result(Context&)> work,
                    std::function<Napi::Value(Napi::Env, const Result&)> finish) {
  int threads = whole(info.Env(), info[info.Length() - 1], "threads", 1, kMostThreads);
  auto result = std::make_shared<Result>();
  return Job::start(
      info.Env(), {}, {},
      [work, result, threads](Job&) {
        Context context(threads);
        *result = work(context);
      },
      [finish, result](Napi::Env env) { return finish(env, *result); });
}

Napi::Value moments_metric(const Napi::CallbackInfo& info) {
  return measure<Moments>(
      info, [x = features(info, 0)](Context& ctx) { return moments(ctx, x); },
      [](Napi::Env env, const Moments& m) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("mean", float_array(env, m.mean));
        value.Set("covariance", float_array(env, m.covariance));
        return value;
      });
}

Napi::Value frechet_metric(const Napi::CallbackInfo& info) {
  return measure<double>(
      info, [a = moments_of(info, 0), b = moments_of(info, 1)](Context& ctx) { return frechet_distance(ctx, a, b); },
      [](Napi::Env env, const double& distance) { return Napi::Number::New(env, distance); });
}

Napi::Value neighbours_metric(const Napi::CallbackInfo& info) {
  int k = whole(info.Env(), info[2], "k", 1);
  bool self = info[1].IsUndefined();
  return measure<Neighbours>(
      info,
      [x = features(info, 0), y = self ? Features{} : features(info, 1), k, self](Context& ctx) {
        return neighbours(ctx, x, self ? x : y, k, self);
      },
      [](Napi::Env env, const Neighbours& nearest) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("squared", float_array(env, nearest.squared));
        value.Set("index", int_array(env, nearest.index));
        return value;
      });
}

Napi::Value ball_counts_metric(const Napi::CallbackInfo& info) {
  return measure<std::vector<int32_t>>(
      info,
      [x = features(info, 0), centres = features(info, 1), radii = doubles(info.Env(), info[2], "squaredRadii"),
       strict = info[3].ToBoolean().Value()](Context& ctx) { return ball_counts(ctx, x, centres, radii, strict); },
      int_array);
}

Napi::Value kernel_distances_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return measure<std::vector<double>>(
      info,
      [x = features(info, 0), y = features(info, 1), x_rows = ints(env, info[2], "xRows"), y_rows = ints(env, info[3], "yRows"),
       size = size_t(whole(env, info[4], "size", 2))](Context& ctx) { return kernel_distances(ctx, x, y, x_rows, y_rows, size); },
      float_array);
}

Napi::Value kmeans_metric(const Napi::CallbackInfo& info) {
  return measure<Clusters>(
      info,
      [x = features(info, 0), uniforms = doubles(info.Env(), info[1], "uniforms"),
       iterations = whole(info.Env(), info[2], "iterations", 1)](Context& ctx) { return kmeans(ctx, x, uniforms, iterations); },
      [](Napi::Env env, const Clusters& clusters) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("centres", float_array(env, clusters.centres.data));
        value.Set("assignment", int_array(env, clusters.assignment));
        value.Set("inertia", clusters.inertia);
        value.Set("iterations", clusters.iterations);
        return value;
      });
}

using SharedNetwork = std::shared_ptr<const Network>;

Napi::Value create_network(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object o = object(info, 0, "network");
  auto floats = [&](const char* name) { return values<float, Napi::Float32Array>(env, o.Get(name), name, napi_float32_array); };
  auto net = std::make_shared<Network>();
  net->height = whole(o, "height", 1, 4096), net->width = whole(o, "width", 1, 4096), net->channels = whole(o, "channels", 1, 1024);
  net->classes = whole(o, "classes", 0, 1 << 20);
  net->scale = floats("scale"), net->shift = floats("shift");
  std::vector<float> weights = floats("weights");
  net->weights.assign(weights.begin(), weights.end());
  double most = number(o, "most", 0, 1e30);
  net->most = most > 0 ? float(most) : INFINITY, net->pad = whole(o, "pad", 0, 1);
  std::vector<int32_t> layers = ints(env, o.Get("layers"), "layers");
  if (layers.size() % 4) raise(env, kArgument, "layers: expected kind, channels, stride and residual of each layer");
  for (size_t i = 0; i < layers.size(); i += 4) {
    if (layers[i] < 0 || layers[i] > 2 || layers[i + 1] < 1 || layers[i + 1] > 65536 || (layers[i + 2] != 1 && layers[i + 2] != 2))
      raise(env, kArgument, "layers: expected a kind of 0 to 2, 1 to 65536 channels and a stride of 1 or 2");
    net->layers.push_back({LayerKind(layers[i]), layers[i + 1], layers[i + 2], layers[i + 3] != 0});
  }
  return guarded(env, [&]() -> Napi::Value {
    check_network(*net);
    int64_t bytes = int64_t(net->weights.size() * sizeof(real));
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
    return Napi::External<SharedNetwork>::New(env, new SharedNetwork(net), [bytes](Napi::BasicEnv env, SharedNetwork* owned) {
      Napi::MemoryManagement::AdjustExternalMemory(env, -bytes);
      delete owned;
    });
  });
}

Napi::Value run_network_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsExternal()) raise(env, kArgument, "network: expected the result of createNetwork()");
  SharedNetwork net = *info[0].As<Napi::External<SharedNetwork>>().Data();
  auto pixels = values<uint8_t, Napi::Uint8Array>(env, info[1], "pixels", napi_uint8_array);
  int height = whole(env, info[2], "height", 1, 4096), width = whole(env, info[3], "width", 1, 4096);
  int channels = whole(env, info[4], "channels", 1, 1024);
  if (channels != 1 && channels != net->channels)
    raise(env, kShape, "channels: expected 1 or " + std::to_string(net->channels) + ", got " + std::to_string(channels));
  size_t image = size_t(height) * width * channels, count = pixels.size() / image;
  if (count < 1 || count > 65536 || count * image != pixels.size())
    raise(env, kShape, "pixels: expected 1 to 65536 images of " + std::to_string(image) + " bytes, got " + std::to_string(pixels.size()));
  struct Outputs {
    std::vector<float> features, logits;
  };
  return measure<Outputs>(
      info,
      [net, pixels = std::move(pixels), count, height, width, channels](Context& ctx) {
        Outputs out{std::vector<float>(count * net->features()), std::vector<float>(count * net->classes)};
        run_network(ctx, *net, {pixels.data(), int(count), height, width, channels}, out.features.data(), out.logits.data());
        return out;
      },
      [](Napi::Env env, const Outputs& out) {
        auto copied = [env](const std::vector<float>& from) {
          auto array = Napi::Float32Array::New(env, from.size());
          std::copy(from.begin(), from.end(), array.Data());
          return array;
        };
        Napi::Object value = Napi::Object::New(env);
        value.Set("features", copied(out.features));
        value.Set("logits", copied(out.logits));
        return value;
      });
}

Napi::Value logistic_metric(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return measure<LogisticFit>(
      info,
      [x = features(info, 0), labels = ints(env, info[1], "labels"), classes = whole(env, info[2], "classes", 2, 65536),
       l2 = info[3].ToNumber().DoubleValue(), iterations = whole(env, info[4], "iterations", 1)](Context& ctx) {
        return logistic_regression(ctx, x, labels, classes, l2, iterations);
      },
      [](Napi::Env env, const LogisticFit& fit) {
        Napi::Object value = Napi::Object::New(env);
        value.Set("weights", float_array(env, fit.weights));
        value.Set("biases", float_array(env, fit.biases));
        value.Set("gradient", fit.gradient);
        value.Set("iterations", fit.iterations);
        return value;
      });
}

}  // namespace

void add_metrics(Napi::Env env, Napi::Object exports) {
  exports.Set("moments", Napi::Function::New<moments_metric>(env));
  exports.Set("frechetDistance", Napi::Function::New<frechet_metric>(env));
  exports.Set("neighbours", Napi::Function::New<neighbours_metric>(env));
  exports.Set("ballCounts", Napi::Function::New<ball_counts_metric>(env));
  exports.Set("kernelDistances", Napi::Function::New<kernel_distances_metric>(env));
  exports.Set("kmeans", Napi::Function::New<kmeans_metric>(env));
  exports.Set("createNetwork", Napi::Function::New<create_network>(env));
  exports.Set("runNetwork", Napi::Function::New<run_network_metric>(env));
  exports.Set("logisticRegression", Napi::Function::New<logistic_metric>(env));
}

}  // namespace phx
