// Classes Images, Abort and Session: training, evaluating and drawing as jobs that take an Abort.
#include "binding/models.h"
#include "binding/parts.h"
#include "binding/vector.h"
#include "unet/sampler.h"

namespace phx {
namespace {

int64_t step_count(Napi::Object from, const char* name) { return int64_t(number(from, name, 0, 9e15)); }

// ---- Images

class ImagesHandle : public Napi::ObjectWrap<ImagesHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Images",
                       {InstanceAccessor<&ImagesHandle::count>("count"), InstanceAccessor<&ImagesHandle::bytes>("bytes"),
                        InstanceMethod<&ImagesHandle::write>("write"), InstanceMethod<&ImagesHandle::dispose>("dispose")});
  }
  explicit ImagesHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ImagesHandle>(info) {
    Napi::Env env = info.Env();
    size_t count = size_t(whole(env, info[0], "count", 1, 2000000000));
    int h = whole(env, info[1], "height", 1, 65536), w = whole(env, info[2], "width", 1, 65536),
        c = whole(env, info[3], "channels", 1, 1024);
    if (double(count) * h * w * c > 1e15) raise(env, "ERR_PHOENIX_MEMORY", "not enough memory for that many images");
    guarded(env, [&] {
      images_ = std::make_shared<Images>(count, h, w, c);
      return 0;
    });
    Napi::MemoryManagement::AdjustExternalMemory(env, int64_t(images_->bytes()));
  }
  void Finalize(Napi::BasicEnv env) override { release(env); }

  static ImagesHandle& get(Napi::Env env, Napi::Value value) {
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).images_class.Value()))
      raise(env, kArgument, "images: expected Images");
    ImagesHandle* handle = Unwrap(value.As<Napi::Object>());
    if (!handle->images_) raise(env, kDisposed, "these Images were disposed of");
    return *handle;
  }
  std::shared_ptr<Images> images() const { return images_; }
  std::shared_ptr<Lock> lock() const { return lock_; }

 private:
  void release(Napi::BasicEnv env) {
    if (!images_) return;
    size_t bytes = images_->bytes();
    Napi::MemoryManagement::AdjustExternalMemory(env, -int64_t(bytes));
    release_block(std::move(images_), bytes);
  }
  ImagesHandle& self(const Napi::CallbackInfo& info) { return get(info.Env(), info.This()); }
  Napi::Value count(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info).images_->count)); }
  Napi::Value bytes(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info).images_->bytes())); }
  // Copies bytes to byte position `offset`, at once: callers write in pieces.
  Napi::Value write(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    self(info);
    if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
      raise(env, kArgument, "pixels: expected a Uint8Array");
    auto pixels = info[0].As<Napi::Uint8Array>();
    double offset = number(env, info[1], "offset", 0, 1e15);
    if (offset + double(pixels.ByteLength()) > double(images_->bytes()))
      raise(env, kShape,
            "pixels: " + std::to_string(pixels.ByteLength()) + " bytes at " + std::to_string(size_t(offset)) + " do not fit into " +
                std::to_string(images_->bytes()));
    if (lock_->readers) raise(env, kBusy, "these Images are in use by a running call; await that call first");
    guarded(env, [&] {
      device_put(images_->block.data() + size_t(offset), pixels.Data(), pixels.ByteLength());
      return 0;
    });
    return env.Undefined();
  }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release(info.Env());
    return info.Env().Undefined();
  }
  std::shared_ptr<Images> images_;
  std::shared_ptr<Lock> lock_ = std::make_shared<Lock>();
};

// ---- Abort

class AbortHandle : public Napi::ObjectWrap<AbortHandle> {
 public:
  static Napi::Function define(Napi::Env env) { return DefineClass(env, "Abort", {InstanceMethod<&AbortHandle::abort>("abort")}); }
  explicit AbortHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<AbortHandle>(info) {}
  static Stop get(Napi::Env env, Napi::Value value) {
    if (value.IsUndefined()) return std::make_shared<std::atomic<bool>>(false);
    if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).abort_class.Value()))
      raise(env, kArgument, "abort: expected the result of createAbort()");
    return Unwrap(value.As<Napi::Object>())->stop_;
  }

 private:
  Napi::Value abort(const Napi::CallbackInfo& info) {
    stop_->store(true);
    return info.Env().Undefined();
  }
  Stop stop_ = std::make_shared<std::atomic<bool>>(false);
};

// ---- Session

class SessionHandle : public Napi::ObjectWrap<SessionHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Session",
                       {InstanceAccessor<&SessionHandle::parameters>("parameters"), InstanceAccessor<&SessionHandle::params>("params"),
                        InstanceAccessor<&SessionHandle::ema>("ema"), InstanceAccessor<&SessionHandle::adam_m>("adamM"),
                        InstanceAccessor<&SessionHandle::adam_v>("adamV"), InstanceMethod<&SessionHandle::init>("init"),
                        InstanceMethod<&SessionHandle::train>("train"), InstanceMethod<&SessionHandle::eval_loss>("evalLoss"),
                        InstanceMethod<&SessionHandle::sample>("sample"), InstanceMethod<&SessionHandle::describe>("describe"),
                        InstanceMethod<&SessionHandle::forward>("forward"), InstanceMethod<&SessionHandle::gradient>("gradient"),
                        InstanceMethod<&SessionHandle::memory>("memory"), InstanceMethod<&SessionHandle::dispose>("dispose")});
  }
  explicit SessionHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionHandle>(info) {
    Napi::Env env = info.Env();
    Napi::Object options = object(info, 2, "options");
    int threads = whole(options, "threads", 1, kMostThreads);
    Type precision = flag(options, "bf16") ? Type::bf16 : Type::real;
    guarded(env, [&] {
      Made made = make_model(object(info, 0, "model"), info[1]);
      prediction_ = made.prediction;
      session_ = std::make_shared<Trainer>(std::move(made.model), std::move(made.loss), threads, precision);
      params_ = std::make_shared<SharedVector>(SharedVector{session_->params()});
      return 0;
    });
    params_->hold(env);
    account(env);
  }
  void Finalize(Napi::BasicEnv env) override { release(env); }

 private:
  Trainer& self(const Napi::CallbackInfo& info) {
    if (!session_) raise(info.Env(), kDisposed, "this Session was disposed of; create a new one");
    return *session_;
  }
  // Tells the garbage collector of what the Session holds besides its shared vectors. Not while a job runs, which may change it.
  void account(Napi::BasicEnv env) {
    optimizer_bytes_ = session_ ? session_->optimizer_bytes() : 0;
    activation_bytes_ = session_ ? session_->activation_bytes() : 0;
    int64_t bytes = int64_t(optimizer_bytes_ + activation_bytes_);
    for (const auto& vector : {ema_, m_, v_})
      if (vector) bytes -= int64_t(vector->bytes());
    if (bytes != accounted_) Napi::MemoryManagement::AdjustExternalMemory(env, bytes - accounted_);
    accounted_ = bytes;
  }
  void release(Napi::BasicEnv env) {
    if (!session_) return;
    size_t bytes = params_->bytes() + optimizer_bytes_ + activation_bytes_;
    for (auto* vector : {&params_, &ema_, &m_, &v_}) {
      if (*vector) (*vector)->release(env);
      vector->reset();
    }
    release_block(std::move(session_), bytes);
    account(env);
  }
  Locks locked(const Napi::CallbackInfo& info) {
    self(info);
    Locks locks;
    locks.write(info.Env(), lock_, "the Session");
    return locks;
  }
  // A job on the Session. The handle object is kept alive until it has settled.
  Napi::Value job(const Napi::CallbackInfo& info, Locks locks, Stop stop, Job::Work work, Job::Finish finish,
                  Napi::Function progress = {}) {
    auto keep = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info.This().As<Napi::Object>()));
    return Job::start(
        info.Env(), std::move(locks), std::move(stop), std::move(work),
        [this, keep, finish](Napi::Env env) {
          account(env);
          return finish ? finish(env) : env.Undefined();
        },
        progress);
  }

  Napi::Value parameters(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const auto& list = self(info).model().parameters();
    Napi::Array result = Napi::Array::New(env, list.size());
    for (size_t i = 0; i < list.size(); i++) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("name", list[i].name);
      entry.Set("offset", double(list[i].at.offset));
      entry.Set("count", double(list[i].at.count()));
      Napi::Array shape = Napi::Array::New(env, list[i].shape.size());
      for (size_t d = 0; d < list[i].shape.size(); d++) shape.Set(uint32_t(d), list[i].shape[d]);
      entry.Set("shape", shape);
      result.Set(uint32_t(i), entry);
    }
    return result;
  }
  std::shared_ptr<SharedVector> lazily(Napi::Env env, std::shared_ptr<SharedVector>& vector, BufferPtr (Trainer::*make)()) {
    if (vector) return vector;
    vector = std::make_shared<SharedVector>(SharedVector{((*session_).*make)()});
    vector->hold(env);
    return vector;
  }
  // The vectors of a Session share its lock where they are made, so that making one cannot race with a running job.
  Napi::Value vector(const Napi::CallbackInfo& info, std::shared_ptr<SharedVector>& vector, BufferPtr (Trainer::*make)()) {
    self(info);
    if (!vector && lock_->writer) raise(info.Env(), kBusy, "the Session is in use by a running call; await that call first");
    return guarded(info.Env(), [&] { return wrap_vector(info.Env(), lazily(info.Env(), vector, make)); });
  }
  Napi::Value params(const Napi::CallbackInfo& info) {
    self(info);
    return wrap_vector(info.Env(), params_);
  }
  Napi::Value ema(const Napi::CallbackInfo& info) { return vector(info, ema_, &Trainer::ema); }
  Napi::Value adam_m(const Napi::CallbackInfo& info) { return vector(info, m_, &Trainer::adam_m); }
  Napi::Value adam_v(const Napi::CallbackInfo& info) { return vector(info, v_, &Trainer::adam_v); }

  Napi::Value init(const Napi::CallbackInfo& info) {
    uint64_t seed = key(info.Env(), info[0]);
    Locks locks = locked(info);
    locks.write(info.Env(), params_->lock, "the Session's parameters");
    return job(info, std::move(locks), {}, [session = session_, seed](Job&) { session->init(seed); }, {});
  }

  Napi::Value train(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    ImagesHandle& images = ImagesHandle::get(env, info[0]);
    Napi::Object o = object(info, 1, "options");
    TrainOptions t;
    t.steps = whole(o, "steps", 1);
    t.hyper = hyper_of(object(env, o.Get("hyper"), "hyper"));
    t.indices = ints(env, o.Get("indices"), "indices");
    t.classes = ints(env, o.Get("classes"), "classes");
    t.key = key(env, o.Get("key"));
    t.first_step = uint32_t(number(o, "firstStep", 0, 4294967295.0 - t.steps));
    t.global_step = step_count(o, "globalStep"), t.adam_step = step_count(o, "adamStep");
    guarded(env, [&] {
      lazily(env, m_, &Trainer::adam_m), lazily(env, v_, &Trainer::adam_v);
      if (t.hyper.ema_decay > 0) lazily(env, ema_, &Trainer::ema);
      return 0;
    });
    locks.write(env, params_->lock, "the Session's parameters");
    locks.write(env, m_->lock, "the Session's moments");
    locks.write(env, v_->lock, "the Session's moments");
    if (t.hyper.ema_decay > 0) locks.write(env, ema_->lock, "the Session's EMA");
    locks.read(env, images.lock(), "the Images");
    if (t.hyper.mu > 0) {
      auto anchor = vector_of(env, o.Get("anchor"), "anchor");
      if (anchor->buffer == params_->buffer) raise(env, kArgument, "anchor: expected another Vector than the Session's own parameters");
      locks.read(env, anchor->lock, "the anchor");
      t.anchor = anchor->buffer;
    }
    Stop stop = AbortHandle::get(env, info[2]);
    auto result = std::make_shared<Trainer::TrainResult>();
    return job(
        info, std::move(locks), stop,
        [session = session_, pixels = images.images(), t = std::move(t), stop, result](Job&) {
          *result = session->train(*pixels, t, stop.get());
        },
        [result](Napi::Env env) {
          Napi::Object value = Napi::Object::New(env);
          value.Set("losses", float_array(env, result->losses));
          value.Set("gradNorms", float_array(env, result->grad_norms));
          return value;
        });
  }

  Napi::Value eval_loss(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    ImagesHandle& images = ImagesHandle::get(env, info[0]);
    Napi::Object o = object(info, 1, "options");
    auto weights = vector_of(env, o.Get("weights"), "weights");
    EvalOptions e{ints(env, o.Get("indices"), "indices"), ints(env, o.Get("classes"), "classes"), whole(o, "batch", 1),
                  key(env, o.Get("key")), weights->buffer};
    locks.read(env, weights->lock, "the weights");
    locks.read(env, images.lock(), "the Images");
    Stop stop = AbortHandle::get(env, info[2]);
    auto loss = std::make_shared<double>(0);
    return job(
        info, std::move(locks), stop,
        [session = session_, pixels = images.images(), e = std::move(e), stop, loss](Job&) {
          *loss = session->eval_loss(*pixels, e, stop.get());
        },
        [loss](Napi::Env env) { return Napi::Number::New(env, *loss); });
  }

  Napi::Value sample(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    Napi::Object o = object(info, 0, "options");
    auto weights = vector_of(env, o.Get("weights"), "weights");
    if (!prediction_) raise(env, kArgument, "sample: this model predicts no noise, so nothing can be drawn from it");
    SampleOptions s;
    s.prediction = *prediction_;
    s.count = whole(o, "count", 1), s.batch = whole(o, "batch", 1);
    s.table = doubles(env, o.Get("table"), "table");
    for (double value : s.table) number(env, Napi::Number::New(env, value), "table");
    s.clip = flag(o, "clip");
    s.key = key(env, o.Get("key"));
    s.first_image = uint32_t(number(o, "firstImage", 0, 4294967295.0 - s.count));
    s.classes = ints(env, o.Get("classes"), "classes");
    s.weights = weights->buffer;
    locks.read(env, weights->lock, "the weights");
    Stop stop = AbortHandle::get(env, info[1]);
    Napi::Function progress = o.Get("onProgress").IsFunction() ? o.Get("onProgress").As<Napi::Function>() : Napi::Function();
    auto images = std::make_shared<std::vector<float>>();
    return job(
        info, std::move(locks), stop,
        [session = session_, s = std::move(s), stop, images](Job& job) mutable {
          s.on_progress = [&job](double done) { job.report(done); };
          *images = phx::sample(session->runner(), s, stop.get());
        },
        [images](Napi::Env env) { return adopt<Napi::Float32Array>(env, images, images->size()); }, progress);
  }

  Napi::Value describe(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    ImagesHandle& images = ImagesHandle::get(env, info[0]);
    Napi::Object o = object(info, 1, "options");
    auto weights = vector_of(env, o.Get("weights"), "weights");
    locks.read(env, weights->lock, "the weights");
    locks.read(env, images.lock(), "the Images");
    Stop stop = AbortHandle::get(env, info[2]);
    auto found = std::make_shared<Trainer::Described>();
    return job(
        info, std::move(locks), stop,
        [session = session_, pixels = images.images(), indices = ints(env, o.Get("indices"), "indices"), batch = whole(o, "batch", 1),
         weights, stop, found](Job&) { *found = session->describe(*pixels, indices, batch, weights->buffer, stop.get()); },
        [found](Napi::Env env) {
          auto adopted = [env](std::vector<float>& values) {
            auto block = std::make_shared<std::vector<float>>(std::move(values));
            return adopt<Napi::Float32Array>(env, block, block->size());
          };
          Napi::Object value = Napi::Object::New(env);
          value.Set("features", adopted(found->features));
          value.Set("outputs", adopted(found->outputs));
          return value;
        });
  }

  Napi::Value forward(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    auto x = doubles(env, info[0], "x"), t = doubles(env, info[1], "t");
    auto weights = vector_of(env, info[2], "weights");
    auto classes = ints(env, info[3], "classes");
    locks.read(env, weights->lock, "the weights");
    auto output = std::make_shared<std::vector<double>>();
    return job(
        info, std::move(locks), {}, [=, session = session_](Job&) { *output = session->forward(x, t, classes, weights->buffer); },
        [output](Napi::Env env) { return float_array(env, *output); });
  }

  Napi::Value gradient(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Locks locks = locked(info);
    auto x = doubles(env, info[0], "x"), t = doubles(env, info[1], "t"), target = doubles(env, info[2], "target");
    auto weights = vector_of(env, info[3], "weights");
    auto classes = ints(env, info[4], "classes");
    locks.read(env, weights->lock, "the weights");
    auto result = std::make_shared<Trainer::GradientResult>();
    return job(
        info, std::move(locks), {}, [=, session = session_](Job&) { *result = session->gradient(x, t, target, classes, weights->buffer); },
        [result](Napi::Env env) {
          Napi::Object value = Napi::Object::New(env);
          value.Set("loss", result->loss);
          value.Set("output", float_array(env, result->output));
          value.Set("gradient", wrap_vector(env, std::make_shared<SharedVector>(SharedVector{result->gradient})));
          return value;
        });
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    self(info);
    if (!lock_->writer) account(info.Env());  // while a call runs: as it was before
    Napi::Object value = Napi::Object::New(info.Env());
    value.Set("parameters", double(params_->bytes()));
    value.Set("optimizer", double(optimizer_bytes_));
    value.Set("activations", double(activation_bytes_));
    return value;
  }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release(info.Env());
    return info.Env().Undefined();
  }

  std::shared_ptr<Trainer> session_;
  std::optional<Prediction> prediction_;
  std::shared_ptr<Lock> lock_ = std::make_shared<Lock>();
  std::shared_ptr<SharedVector> params_, ema_, m_, v_;
  size_t optimizer_bytes_ = 0, activation_bytes_ = 0;
  int64_t accounted_ = 0;
};

template <Napi::FunctionReference EnvData::*handle>
Napi::Value create(const Napi::CallbackInfo& info) {
  std::vector<napi_value> arguments;
  for (size_t i = 0; i < info.Length(); i++) arguments.push_back(info[i]);
  return (data_of(info.Env()).*handle).New(arguments);
}

}  // namespace

void add_session(Napi::Env env, Napi::Object exports) {
  EnvData& data = data_of(env);
  data.images_class = Napi::Persistent(ImagesHandle::define(env));
  data.session_class = Napi::Persistent(SessionHandle::define(env));
  data.abort_class = Napi::Persistent(AbortHandle::define(env));
  exports.Set("createImages", Napi::Function::New<create<&EnvData::images_class>>(env));
  exports.Set("createSession", Napi::Function::New<create<&EnvData::session_class>>(env));
  exports.Set("createAbort", Napi::Function::New<create<&EnvData::abort_class>>(env));
}

}  // namespace phx
