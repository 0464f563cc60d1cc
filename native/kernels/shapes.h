// What the ops expect of their tensors, once for all backends: an op's first line. A shape that does not fit throws std::invalid_argument
// with the op, the argument and both shapes. Arguments are those of ops.h.
#pragma once
#include <string>

#include "kernels/check.h"
#include "kernels/ops.h"

namespace phx::shapes {

// ---- what the checks are made of

inline void like(const char* op, const char* name, const Tensor& t, const Tensor& wanted) {
  check_shape(op, name, t, wanted.n, wanted.h, wanted.w, wanted.c);
}
inline void like_if_given(const char* op, const char* name, const Tensor& t, const Tensor& wanted) {
  if (t) like(op, name, t, wanted);
}

// As many rows and columns, whatever sides the rows come from.
inline void rows_like(const char* op, const char* name, const Tensor& t, size_t rows, int columns) {
  if (t.rows() != rows || t.c != columns)
    fail(std::string(op) + ": " + name + " is " + shape_of(t) + ", expected " + std::to_string(rows) + " rows of " +
         std::to_string(columns));
}
// A value per `what`.
inline void values(const char* op, const char* name, const Tensor& t, size_t count, const char* what) {
  if (t.size() != count)
    fail(std::string(op) + ": " + name + " is " + shape_of(t) + ", expected " + std::to_string(count) + " values, one per " + what);
}

inline int joined(const Tensor& x0, const Tensor& x1) { return x0.c + (x1 ? x1.c : 0); }

inline void conv2d(const char* op, const Tensor& y, const Tensor& x, const Tensor& w, Conv2d a) {
  check((a.stride == 1 || a.stride == 2) && (a.upsample == 1 || a.upsample == 2) && (a.pad == 0 || a.pad == 1), op,
        "stride 1 or 2, upsample 1 or 2, pad 0 or 1");
  check(a.upsample == 1 || (a.stride == 1 && a.pad == 1), op, "upsample 2 with stride 1 and pad 1 only");
  check_shape(op, "y", y, x.n, x.h * a.upsample / a.stride, x.w * a.upsample / a.stride, w.n);
  check_shape(op, "w", w, y.c, 3, 3, x.c);
  check(w.contiguous(), op, "contiguous w");
}

inline void linear(const char* op, const Tensor& y, const Tensor& x0, const Tensor& x1, const Tensor& w) {
  check_shape(op, "w", w, y.c, 1, 1, joined(x0, x1));
  rows_like(op, "x0", x0, y.rows(), x0.c);
  if (x1) rows_like(op, "x1", x1, y.rows(), x1.c);
}

inline void group_norm(const char* op, const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x0, const Tensor& x1,
                       const Tensor& w, const Tensor& b, int groups) {
  int channels = joined(x0, x1);
  check(groups > 0 && channels % groups == 0, op,
        "channels (" + std::to_string(channels) + ") that are a multiple of the groups (" + std::to_string(groups) + ")");
  check_shape(op, "y", y, x0.n, x0.h, x0.w, channels);
  if (x1) check_shape(op, "x1", x1, x0.n, x0.h, x0.w, x1.c);
  values(op, "w", w, size_t(channels), "channel");
  values(op, "b", b, size_t(channels), "channel");
  rows_like(op, "mean", mean, size_t(x0.n), groups);
  rows_like(op, "rstd", rstd, size_t(x0.n), groups);
}

inline void attention(const char* op, const Tensor& o, const Tensor& lse, const Tensor& qkv, int heads) {
  check(heads > 0 && o.c % heads == 0, op,
        "channels (" + std::to_string(o.c) + ") that are a multiple of the heads (" + std::to_string(heads) + ")");
  check_shape(op, "qkv", qkv, o.n, o.h, o.w, 3 * o.c);
  check_shape(op, "lse", lse, o.n, 1, 1, heads * o.h * o.w);
}

inline void mse(const char* op, const Tensor& y, const Tensor& target, const Tensor& weight) {
  like(op, "target", target, y);
  values(op, "weight", weight, size_t(y.n), "image");
}

inline void padded(const char* op, const Tensor& y, const Tensor& x) {
  check(x.n == y.n && x.c == y.c, op, "as many images and channels in " + shape_of(x) + " as in " + shape_of(y));
}

// ---- the ops

inline void conv2d_forward(const Tensor& y, const Tensor& x, const Tensor& temb, const Tensor& residual, const Shortcut& shortcut,
                           const Tensor& w, const Tensor& b, Conv2d a) {
  const char* op = "conv2d_forward";
  conv2d(op, y, x, w, a);
  values(op, "b", b, size_t(y.c), "out-channel");
  if (temb) rows_like(op, "temb", temb, size_t(y.n), y.c);
  like_if_given(op, "residual", residual, y);
  if (!shortcut.x0) return;
  check_shape(op, "skip_w", shortcut.w, y.c, 1, 1, joined(shortcut.x0, shortcut.x1));
  rows_like(op, "skip0", shortcut.x0, y.rows(), shortcut.x0.c);
  if (shortcut.x1) rows_like(op, "skip1", shortcut.x1, y.rows(), shortcut.x1.c);
  if (shortcut.b) values(op, "skip_b", shortcut.b, size_t(y.c), "out-channel");
}

inline void conv2d_backward(const Grad& dx, const Tensor& dtemb, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x,
                            const Tensor& w, Conv2d a) {
  const char* op = "conv2d_backward";
  conv2d(op, dy, x, w, a);
  like_if_given(op, "dx", dx.t, x);
  if (dtemb) rows_like(op, "dtemb", dtemb, size_t(dy.n), dy.c);
  like(op, "dw", dw, w);
  check(dw.contiguous(), op, "contiguous dw");
  values(op, "db", db, size_t(dy.c), "out-channel");
}

inline void linear_forward(const Tensor& y, const Tensor& x0, const Tensor& x1, const Tensor& residual, const Tensor& w, const Tensor& b) {
  const char* op = "linear_forward";
  linear(op, y, x0, x1, w);
  if (residual) rows_like(op, "residual", residual, y.rows(), y.c);
  if (b) values(op, "b", b, size_t(y.c), "column of y");
}

inline void linear_backward(const Grad& dx0, const Grad& dx1, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x0,
                            const Tensor& x1, const Tensor& w) {
  const char* op = "linear_backward";
  linear(op, dy, x0, x1, w);
  if (dx0) rows_like(op, "dx0", dx0.t, x0.rows(), x0.c);
  if (dx1) rows_like(op, "dx1", dx1.t, x1.rows(), x1.c);
  like_if_given(op, "dw", dw, w);
  if (db) values(op, "db", db, size_t(dy.c), "column of dy");
}

inline void group_norm_forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x0, const Tensor& x1, const Tensor& w,
                               const Tensor& b, const GroupNorm& a) {
  group_norm("group_norm_forward", y, mean, rstd, x0, x1, w, b, a.groups);
}

inline void group_norm_backward(const Grad& dx0, const Grad& dx1, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& mean,
                                const Tensor& rstd, const Tensor& x0, const Tensor& x1, const Tensor& w, const Tensor& b,
                                const GroupNorm& a) {
  const char* op = "group_norm_backward";
  group_norm(op, dy, mean, rstd, x0, x1, w, b, a.groups);
  like_if_given(op, "dx0", dx0.t, x0);
  if (dx1) like(op, "dx1", dx1.t, x1);
  values(op, "dw", dw, w.size(), "channel");
  values(op, "db", db, w.size(), "channel");
}

inline void attention_forward(const Tensor& o, const Tensor& lse, const Tensor& qkv, int heads) {
  attention("attention_forward", o, lse, qkv, heads);
}

inline void attention_backward(const Tensor& dqkv, const Tensor& d_o, const Tensor& lse, const Tensor& qkv, const Tensor& o, int heads) {
  const char* op = "attention_backward";
  attention(op, o, lse, qkv, heads);
  like(op, "d_o", d_o, o);
  like(op, "dqkv", dqkv, qkv);
}

inline void time_embedding_forward(const Tensor& y, const Tensor& t) {
  const char* op = "time_embedding_forward";
  values(op, "t", t, y.rows(), "row of y");
  check(y.c % 2 == 0, op, "an even width, not " + std::to_string(y.c));
}

inline void class_embedding_forward(const Tensor& y, const Tensor& x, const Tensor& classes, const Tensor& table) {
  const char* op = "class_embedding_forward";
  like(op, "x", x, y);
  values(op, "classes", classes, y.rows(), "row of y");
  rows_like(op, "table", table, table.rows(), y.c);
}

inline void class_embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& classes) {
  const char* op = "class_embedding_backward";
  values(op, "classes", classes, dy.rows(), "row of dy");
  rows_like(op, "dtable", dtable, dtable.rows(), dy.c);
}

inline void silu_forward(const Tensor& y, const Tensor& x) { like("silu_forward", "x", x, y); }

inline void silu_backward(const Grad& dx, const Tensor& dy, const Tensor& x) {
  like("silu_backward", "dx", dx.t, x);
  like("silu_backward", "dy", dy, x);
}

inline void pad_forward(const Tensor& y, const Tensor& x) { padded("pad_forward", y, x); }
inline void pad_backward(const Grad& dx, const Tensor& dy) { padded("pad_backward", dy, dx.t); }

inline void noise_batch(const Tensor& xt, const Tensor& target, const Tensor& weight, const Tensor& t, const NoiseBatch& a) {
  const char* op = "noise_batch";
  like(op, "target", target, xt);
  values(op, "weight", weight, size_t(xt.n), "image");
  values(op, "t", t, size_t(xt.n), "image");
  check(a.steps > 0, op, "steps > 0");
}

inline void mse_forward(const Tensor& loss, const Tensor& y, const Tensor& target, const Tensor& weight) {
  mse("mse_forward", y, target, weight);
  values("mse_forward", "loss", loss, size_t(y.n), "image");
}

inline void mse_backward(const Tensor& dy, const Tensor& y, const Tensor& target, const Tensor& weight) {
  mse("mse_backward", y, target, weight);
  like("mse_backward", "dy", dy, y);
}

inline void sampler_step(const Tensor& x, const Tensor& x0_prev, const Tensor& m) {
  like("sampler_step", "x0_prev", x0_prev, x);
  like("sampler_step", "m", m, x);
}

inline void convert(const Tensor& y, const Tensor& x) { like("convert", "x", x, y); }
inline void add(const Tensor& y, const Tensor& x) { like("add", "x", x, y); }

inline void adam_step(const Tensor& rounded, size_t count) {
  check(!rounded || (rounded.type == Type::bf16 && rounded.size() == count), "adam_step", "as many values in bf16 as parameters");
}

inline void next_record(size_t bytes) { check(bytes % 16 == 0, "next_record", "records of a multiple of 16 bytes"); }

inline void server_step(const real* v, ServerStep a) { check(a.kind == ServerKind::momentum || v, "server_step", "second moments v"); }

}  // namespace phx::shapes
