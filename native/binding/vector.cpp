// Class Vector: sums, copies, encodings and checkpoints' tensors, each a job.
#include "binding/vector.h"

#include <atomic>
#include <cstring>

#include "binding/parts.h"
#include "kernels/file_tensor.h"
#include "kernels/ops.h"

namespace phx {
namespace {

std::atomic<int> vector_threads{1};

// Vectors have no Session whose threads they could take: those that the process may use.
Context& vector_context() {
  thread_local Context context(vector_threads);
  return context;
}

Napi::Value set_vector_threads(const Napi::CallbackInfo& info) {
  vector_threads = whole(info.Env(), info[0], "threads", 1, kMostThreads);
  return info.Env().Undefined();
}

// Values [offset, offset + count) of a Buffer.
std::vector<real> on_host(const Buffer& buffer, size_t offset, size_t count) {
  std::vector<real> values(count);
  device_get(values.data(), buffer.data + offset, count * sizeof(real));
  return values;
}

class VectorHandle : public Napi::ObjectWrap<VectorHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Vector",
                       {InstanceAccessor<&VectorHandle::length>("length"),
                        InstanceMethod<&VectorHandle::dispose>("dispose"),
                        InstanceMethod<&VectorHandle::axpy>("axpy"),
                        InstanceMethod<&VectorHandle::scale>("scale"),
                        InstanceMethod<&VectorHandle::fill>("fill"),
                        InstanceMethod<&VectorHandle::subtract>("subtract"),
                        InstanceMethod<&VectorHandle::round_bf16>("roundToBf16"),
                        InstanceMethod<&VectorHandle::interpolate>("interpolate"),
                        InstanceMethod<&VectorHandle::copy>("copy"),
                        InstanceMethod<&VectorHandle::dot>("dot"),
                        InstanceMethod<&VectorHandle::is_finite>("isFinite"),
                        InstanceMethod<&VectorHandle::server_step>("serverStep"),
                        InstanceMethod<&VectorHandle::to_bytes>("toBytes"),
                        InstanceMethod<&VectorHandle::from_bytes>("fromBytes"),
                        InstanceMethod<&VectorHandle::import_tensors>("importTensors"),
                        InstanceMethod<&VectorHandle::export_tensors>("exportTensors"),
                        InstanceMethod<&VectorHandle::encode>("encode"),
                        InstanceMethod<&VectorHandle::decode>("decode"),
                        InstanceMethod<&VectorHandle::encode_largest>("encodeLargest"),
                        InstanceMethod<&VectorHandle::decode_largest>("decodeLargest"),
                        InstanceMethod<&VectorHandle::gather>("gather"),
                        InstanceMethod<&VectorHandle::scatter>("scatter"),
                        InstanceMethod<&VectorHandle::trimmed_mean>("trimmedMean"),
                        InstanceMethod<&VectorHandle::row_distances>("rowDistances")});
  }
  // Made by wrap_vector only: the argument is the shared vector.
  explicit VectorHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<VectorHandle>(info) {
    if (!info[0].IsExternal()) raise(info.Env(), kArgument, "a Vector is made by createVector(length)");
    shared_ = *info[0].As<Napi::External<std::shared_ptr<SharedVector>>>().Data();
    shared_->hold(info.Env());
  }
  void Finalize(Napi::BasicEnv env) override { release(env); }

  std::shared_ptr<SharedVector> shared() const { return shared_; }
  void release(Napi::BasicEnv env) {
    if (!shared_) return;
    shared_->release(env);
    size_t bytes = shared_->bytes();
    release_block(std::move(shared_), bytes);
  }

 private:
  SharedVector& self(Napi::Env env) {
    if (!shared_) raise(env, kDisposed, "this Vector was disposed of");
    return *shared_;
  }
  std::shared_ptr<SharedVector> same_length(const Napi::CallbackInfo& info, size_t i, const char* name) {
    auto other = vector_of(info.Env(), info[i], name);
    if (other->buffer->count != self(info.Env()).buffer->count)
      raise(info.Env(), kShape,
            std::string(name) + ": expected a Vector of " + std::to_string(shared_->buffer->count) + " values, got " +
                std::to_string(other->buffer->count));
    return other;
  }
  size_t range(const Napi::CallbackInfo& info, double offset, double count) {
    size_t length = self(info.Env()).buffer->count;
    if (!(offset >= 0 && count >= 0 && offset == std::floor(offset) && count == std::floor(count) && offset + count <= double(length)))
      raise(info.Env(), kShape,
            "range [" + std::to_string(offset) + ", +" + std::to_string(count) + ") outside of a Vector of " + std::to_string(length));
    return size_t(offset);
  }

  Napi::Value length(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), double(self(info.Env()).buffer->count)); }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release(info.Env());
    return info.Env().Undefined();
  }

  // A job that writes this vector and reads the others.
  Napi::Value change(const Napi::CallbackInfo& info, std::vector<std::shared_ptr<SharedVector>> reads, std::function<void(Buffer&)> work) {
    Locks locks;
    locks.write(info.Env(), self(info.Env()).lock, "the Vector");
    for (auto& other : reads)
      if (other->buffer != shared_->buffer) locks.read(info.Env(), other->lock, "the Vector");
    return Job::start(info.Env(), std::move(locks), {}, [buffer = shared_->buffer, reads, work](Job&) { work(*buffer); }, {});
  }

  Napi::Value axpy(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "x");
    double a = number(info.Env(), info[1], "a");
    return change(info, {x}, [x, a](Buffer& y) { phx::axpy(vector_context(), y.data, x->buffer->data, a, y.count); });
  }
  Napi::Value scale(const Napi::CallbackInfo& info) {
    double a = number(info.Env(), info[0], "a");
    return change(info, {}, [a](Buffer& y) { phx::scale(vector_context(), y.data, a, y.count); });
  }
  Napi::Value fill(const Napi::CallbackInfo& info) {
    double value = number(info.Env(), info[0], "value");
    return change(info, {}, [value](Buffer& y) { device_fill(y.data, real(value), y.count); });
  }
  Napi::Value subtract(const Napi::CallbackInfo& info) {
    auto a = same_length(info, 0, "a"), b = same_length(info, 1, "b");
    return change(info, {a, b}, [a, b](Buffer& y) { phx::subtract(vector_context(), y.data, a->buffer->data, b->buffer->data, y.count); });
  }
  Napi::Value round_bf16(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "from");
    return change(info, {x}, [x](Buffer& y) { phx::round_bf16(vector_context(), y.data, x->buffer->data, y.count); });
  }
  Napi::Value interpolate(const Napi::CallbackInfo& info) {
    auto x = same_length(info, 0, "x");
    double a = number(info.Env(), info[1], "a", 0, 1);
    return change(info, {x}, [x, a](Buffer& y) { phx::interpolate(vector_context(), y.data, x->buffer->data, a, y.count); });
  }
  Napi::Value copy(const Napi::CallbackInfo& info) {
    auto from = same_length(info, 0, "from");
    double count = number(info.Env(), info[2], "count", 0);
    size_t offset = range(info, number(info.Env(), info[1], "offset", 0), count);
    return change(info, {from},
                  [from, offset, count](Buffer& y) { device_copy(y.data + offset, from->buffer->data + offset, size_t(count)); });
  }
  Napi::Value dot(const Napi::CallbackInfo& info) {
    auto other = same_length(info, 0, "other");
    return look<double>(
        info, {other}, [other](const Buffer& a) { return phx::dot(vector_context(), a.data, other->buffer->data, a.count); },
        [](Napi::Env env, auto value) { return Napi::Number::New(env, *value); });
  }
  Napi::Value is_finite(const Napi::CallbackInfo& info) {
    return look<bool>(
        info, {}, [](const Buffer& a) { return phx::all_finite(vector_context(), a.data, a.count); },
        [](Napi::Env env, auto value) { return Napi::Boolean::New(env, *value); });
  }
  // A job that reads this vector and the others and makes something of them.
  template <class Result>
  Napi::Value look(const Napi::CallbackInfo& info, std::vector<std::shared_ptr<SharedVector>> reads,
                   std::function<Result(const Buffer&)> work, std::function<Napi::Value(Napi::Env, std::shared_ptr<Result>)> wrap) {
    Locks locks;
    locks.read(info.Env(), self(info.Env()).lock, "the Vector");
    for (auto& other : reads) locks.read(info.Env(), other->lock, "the Vector");
    auto result = std::make_shared<Result>();
    return Job::start(
        info.Env(), std::move(locks), {}, [buffer = shared_->buffer, reads, work, result](Job&) { *result = work(*buffer); },
        [result, wrap](Napi::Env env) { return wrap(env, result); });
  }
  // A job's result, a vector of T, as a Uint8Array.
  template <class T>
  static Napi::Value as_bytes(Napi::Env env, std::shared_ptr<std::vector<T>> block) {
    return adopt<Napi::Uint8Array>(env, block, block->size() * sizeof(T));
  }

  Napi::Value server_step(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    std::string kind = info[0].ToString();
    if (kind != "momentum" && kind != "adam" && kind != "yogi")
      raise(env, kArgument, "serverStep: expected momentum, adam or yogi, got " + kind);
    auto delta = same_length(info, 1, "delta"), m = same_length(info, 2, "m");
    auto v = info[3].IsUndefined() ? nullptr : same_length(info, 3, "v");
    if (!v && kind != "momentum") raise(env, kArgument, "serverStep: " + kind + " needs second moments");
    Napi::Object o = object(info, 4, "options");
    ServerStep step{kind == "momentum" ? ServerKind::momentum
                    : kind == "adam"   ? ServerKind::adam
                                       : ServerKind::yogi,
                    number(o, "lr", 0), number(o, "beta1", 0, 1), number(o, "beta2", 0, 1), number(o, "tau", 0)};
    Locks locks;
    locks.write(env, self(env).lock, "the Vector");
    locks.read(env, delta->lock, "delta");
    locks.write(env, m->lock, "m");
    if (v) locks.write(env, v->lock, "v");
    return Job::start(env, std::move(locks), {},
                      [p = shared_->buffer, delta, m, v, step](Job&) {
                        phx::server_step(vector_context(), p->data, delta->buffer->data, m->buffer->data, v ? v->buffer->data : nullptr,
                                         p->count, step);
                      },
                      {});
  }

  Napi::Value to_bytes(const Napi::CallbackInfo& info) {
    double count = number(info.Env(), info[1], "count", 0);
    size_t offset = range(info, number(info.Env(), info[0], "offset", 0), count), n = size_t(count);
    return look<std::vector<float>>(
        info, {},
        [offset, n](const Buffer& a) {
          std::vector<real> values = on_host(a, offset, n);
          return std::vector<float>(values.begin(), values.end());
        },
        as_bytes<float>);
  }

  bool is_int8(const Napi::CallbackInfo& info) {
    std::string codec = info[0].ToString();
    if (codec != "bf16" && codec != "int8") raise(info.Env(), kArgument, "codec: expected bf16 or int8, got " + codec);
    return codec == "int8";
  }
  Napi::Value encode(const Napi::CallbackInfo& info) {
    bool int8 = is_int8(info);
    double count = number(info.Env(), info[2], "count", 0);
    size_t offset = range(info, number(info.Env(), info[1], "offset", 0), count), n = size_t(count);
    return look<std::vector<uint8_t>>(
        info, {},
        [offset, n, int8](const Buffer& a) {
          std::vector<uint8_t> block(int8 ? int8_bytes(n) : 2 * n);
          OnHost values(a.data + offset, n);
          (int8 ? encode_int8 : encode_bf16)(vector_context(), block.data(), values.data(), n);
          return block;
        },
        as_bytes<uint8_t>);
  }
  Napi::Value decode(const Napi::CallbackInfo& info) {
    bool int8 = is_int8(info);
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[1], "bytes", napi_uint8_array));
    double count = number(info.Env(), info[3], "count", 0);
    size_t offset = range(info, number(info.Env(), info[2], "offset", 0), count), n = size_t(count);
    if (bytes->size() != (int8 ? int8_bytes(n) : 2 * n))
      raise(info.Env(), kShape, "decode: " + std::to_string(n) + " values do not take " + std::to_string(bytes->size()) + " bytes");
    return change(info, {}, [bytes, offset, n, int8](Buffer& y) {
      OnHost values(y.data + offset, n, false);
      (int8 ? decode_int8 : decode_bf16)(vector_context(), values.data(), bytes->data(), n);
      values.put_back();
    });
  }
  Napi::Value encode_largest(const Napi::CallbackInfo& info) {
    size_t k = size_t(number(info.Env(), info[0], "k", 1, double(self(info.Env()).buffer->count)));
    return look<std::vector<uint8_t>>(
        info, {},
        [k](const Buffer& a) {
          OnHost values(a.data, a.count);
          return phx::encode_largest(vector_context(), values.data(), a.count, k);
        },
        as_bytes<uint8_t>);
  }
  Napi::Value decode_largest(const Napi::CallbackInfo& info) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[0], "bytes", napi_uint8_array));
    return change(info, {}, [bytes](Buffer& y) {
      OnHost values(y.data, y.count, false);
      phx::decode_largest(vector_context(), values.data(), y.count, bytes->data(), bytes->size());
      values.put_back();
    });
  }

  // Ranges as pairs (offset, count) within `whole` values, together `packed` of them.
  std::vector<std::pair<size_t, size_t>> ranges(Napi::Env env, Napi::Value value, size_t whole, size_t packed) {
    std::vector<double> pairs = doubles(env, value, "ranges");
    std::vector<std::pair<size_t, size_t>> result;
    double sum = 0;
    bool fits = pairs.size() % 2 == 0;
    for (size_t i = 0; fits && i < pairs.size(); i += 2) {
      double offset = pairs[i], count = pairs[i + 1];
      fits = offset >= 0 && count >= 0 && offset == std::floor(offset) && count == std::floor(count) && offset + count <= double(whole);
      sum += count;
      if (fits) result.emplace_back(size_t(offset), size_t(count));
    }
    if (!fits || sum != double(packed))
      raise(env, kShape, "ranges: expected pairs within " + std::to_string(whole) + " values, together " + std::to_string(packed));
    return result;
  }
  Napi::Value gather(const Napi::CallbackInfo& info) {
    auto from = vector_of(info.Env(), info[0], "from");
    auto pairs = ranges(info.Env(), info[1], from->buffer->count, self(info.Env()).buffer->count);
    return change(info, {from}, [from, pairs](Buffer& y) {
      real* to = y.data;
      for (auto [offset, count] : pairs) device_copy(to, from->buffer->data + offset, count), to += count;
    });
  }
  Napi::Value scatter(const Napi::CallbackInfo& info) {
    auto from = vector_of(info.Env(), info[0], "from");
    auto pairs = ranges(info.Env(), info[1], self(info.Env()).buffer->count, from->buffer->count);
    return change(info, {from}, [from, pairs](Buffer& y) {
      const real* next = from->buffer->data;
      for (auto [offset, count] : pairs) device_copy(y.data + offset, next, count), next += count;
    });
  }

  Napi::Value trimmed_mean(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto rows = vector_of(env, info[0], "rows");
    Napi::Object o = object(info, 1, "options");
    size_t n = size_t(whole(o, "rows", 1)), columns = size_t(number(o, "columns", 1, 1e12)), trim = size_t(whole(o, "trim", 0));
    if (double(n) * double(columns) > double(rows->buffer->count)) raise(env, kShape, "trimmedMean: rows·columns values expected");
    size_t offset = range(info, number(o, "offset", 0), double(columns));
    if (rows->buffer == shared_->buffer) raise(env, kArgument, "trimmedMean: expected rows in a Vector of their own");
    return change(info, {rows}, [rows, n, columns, trim, offset](Buffer& y) {
      OnHost values(rows->buffer->data, n * columns), mean(y.data + offset, columns, false);
      phx::trimmed_mean(vector_context(), mean.data(), values.data(), n, columns, trim);
      mean.put_back();
    });
  }
  Napi::Value row_distances(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    size_t n = size_t(whole(env, info[0], "rows", 1, 10000)), columns = size_t(number(env, info[1], "columns", 1, 1e12));
    range(info, 0, double(n) * double(columns));
    return look<std::vector<double>>(
        info, {},
        [n, columns](const Buffer& a) {
          std::vector<double> squared(n * n);
          OnHost values(a.data, n * columns);
          phx::row_distances(vector_context(), squared.data(), values.data(), n, columns);
          return squared;
        },
        [](Napi::Env env, auto squared) { return float_array(env, *squared); });
  }

  Napi::Value from_bytes(const Napi::CallbackInfo& info) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(info.Env(), info[0], "bytes", napi_uint8_array));
    if (bytes->size() % sizeof(float))
      raise(info.Env(), kShape, "fromBytes: expected whole float32 values, got " + std::to_string(bytes->size()) + " bytes");
    size_t n = bytes->size() / sizeof(float), offset = range(info, number(info.Env(), info[1], "offset", 0), double(n));
    return change(info, {}, [bytes, n, offset](Buffer& y) {
      std::vector<real> values(n);
      for (size_t i = 0; i < n; i++) {
        float value;
        std::memcpy(&value, bytes->data() + 4 * i, 4);
        values[i] = real(value);
      }
      device_put(y.data + offset, values.data(), n * sizeof(real));
    });
  }

  // One tensor of a checkpoint: where it lies in the vector and in the file.
  struct Entry {
    size_t offset, byte_offset;
    FileTensor tensor;
  };
  std::vector<Entry> entries(const Napi::CallbackInfo& info, Napi::Value value, size_t bytes, size_t item) {
    Napi::Env env = info.Env();
    std::vector<double> raw = doubles(env, value, "entries");
    if (raw.size() % 6) raise(env, kArgument, "entries: expected six numbers a tensor");
    std::vector<Entry> result;
    for (size_t i = 0; i < raw.size(); i += 6) {
      for (size_t j = 0; j < 6; j++)
        if (!(raw[i + j] >= 0 && raw[i + j] <= 9e15 && raw[i + j] == std::floor(raw[i + j])))
          raise(env, kArgument, "entries: expected whole numbers from 0");
      Entry e{range(info, raw[i], raw[i + 1]), size_t(raw[i + 2]), {size_t(raw[i + 3]), size_t(raw[i + 4]), size_t(raw[i + 5])}};
      if (double(raw[i + 3]) * raw[i + 4] * raw[i + 5] != raw[i + 1]) raise(env, kShape, "entries: count is not K·C·R·S");
      if (e.byte_offset > bytes || e.tensor.count() > (bytes - e.byte_offset) / item)
        raise(env, kShape, "entries: a tensor lies outside of the bytes");
      result.push_back(e);
    }
    return result;
  }

  FileType file_type(Napi::Env env, Napi::Value value) {
    std::string name = value.ToString();
    if (name == "F64") return FileType::f64;
    if (name == "F32") return FileType::f32;
    if (name == "F16") return FileType::f16;
    if (name == "BF16") return FileType::bf16;
    raise(env, kArgument, "importTensors: expected F64, F32, F16 or BF16, got " + name);
  }

  Napi::Value import_tensors(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto bytes = std::make_shared<std::vector<uint8_t>>(values<uint8_t, Napi::Uint8Array>(env, info[0], "bytes", napi_uint8_array));
    FileType type = file_type(env, info[1]);
    auto list = entries(info, info[2], bytes->size(), bytes_of(type));
    return change(info, {}, [bytes, type, list](Buffer& y) {
      for (const Entry& e : list) {
        std::vector<real> values(e.tensor.count());
        read_tensor(values.data(), bytes->data() + e.byte_offset, type, e.tensor);
        device_put(y.data + e.offset, values.data(), values.size() * sizeof(real));
      }
    });
  }

  Napi::Value export_tensors(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    size_t bytes = size_t(number(env, info[0], "byteLength", 0, 4e9));
    if (bytes % sizeof(float)) raise(env, kShape, "exportTensors: expected a length of whole float32 values");
    auto list = entries(info, info[1], bytes, sizeof(float));
    for (const Entry& e : list)
      if (e.byte_offset % sizeof(float)) raise(env, kShape, "exportTensors: expected byte offsets that are multiples of 4");
    return look<std::vector<float>>(
        info, {},
        [list, bytes](const Buffer& a) {
          std::vector<float> block(bytes / sizeof(float));
          for (const Entry& e : list)
            write_tensor(block.data() + e.byte_offset / sizeof(float), on_host(a, e.offset, e.tensor.count()).data(), e.tensor);
          return block;
        },
        as_bytes<float>);
  }

  std::shared_ptr<SharedVector> shared_;
};

Napi::Value create_vector(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  double length = number(env, info[0], "length", 1, 1e12);
  if (length != std::floor(length)) raise(env, kArgument, "length: expected a whole number, got " + std::to_string(length));
  return guarded(env,
                 [&] { return wrap_vector(env, std::make_shared<SharedVector>(SharedVector{std::make_shared<Buffer>(size_t(length))})); });
}

}  // namespace

Napi::Object wrap_vector(Napi::Env env, std::shared_ptr<SharedVector> shared) {
  return data_of(env).vector_class.New({Napi::External<std::shared_ptr<SharedVector>>::New(env, &shared)});
}

std::shared_ptr<SharedVector> vector_of(Napi::Env env, Napi::Value value, const char* name) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(data_of(env).vector_class.Value()))
    raise(env, kArgument, std::string(name) + ": expected a Vector");
  auto shared = VectorHandle::Unwrap(value.As<Napi::Object>())->shared();
  if (!shared) raise(env, kDisposed, std::string(name) + " was disposed of");
  return shared;
}

void add_vector(Napi::Env env, Napi::Object exports) {
  data_of(env).vector_class = Napi::Persistent(VectorHandle::define(env));
  exports.Set("createVector", Napi::Function::New<create_vector>(env));
  exports.Set("setVectorThreads", Napi::Function::New<set_vector_threads>(env));
}

}  // namespace phx
