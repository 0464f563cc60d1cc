// group_norm for floats: y = dropout(silu((x - mean)·rstd·w + b)), x = [x0 | x1], mean and rstd over (C/G, H, W).  Wu & He 2018, eq. 1
// One task per image, in strips of 64 pixels. Statistics in one sweep: each strip's sums are taken about its first pixel and merged per
// channel in double, Σ(x-mean)² = Σ_strips [squares - sum²/n] + n·(middle - mean)² (Chan et al. 1983), so nothing cancels however large
// the mean is; the second sweep applies, while the image is still in the second-level cache (1024 pixels of 128 channels: 512 KB).
// Backward: the first sweep leaves dz where dx will be (or in scratch, if dx accumulates), the second turns it into dx.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd/group_norm.h"
#include "kernels/dropout.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"
#include "kernels/shapes.h"

namespace phx {
namespace {

constexpr int kStrip = 64;

// Shapes, shared by both directions. `padded`: the channels, rounded up to whole vectors. `array`: the length of an array with one value
// per channel.
// It is longer than the channels, because the inner loops (group_norm.simd.cpp) read whole vectors, and may start at any channel: at the
// first of x1.
struct Shape {
  int images, pixels, channels, groups, width, padded, array;
  Tensor x[2];

  Shape(const Tensor& x0, const Tensor& x1, const GroupNorm& a)
      : images(x0.n), pixels(x0.h * x0.w), channels(x0.c + (x1 ? x1.c : 0)), groups(a.groups), x{x0, x1} {
    width = channels / groups;
    padded = round_up(channels, 16);
    array = padded + 16;
  }
};

// body(slot, n) for every image, where images of equal slot never run at the same time.
template <class Body>
void for_images(Context& ctx, int images, Body body) {
  int slots = std::min(ctx.threads(), images);
  parallel_for(ctx, slots, [&](size_t begin, size_t end) {
    for (size_t slot = begin; slot < end; slot++)
      for (size_t n = images * slot / slots; n < images * (slot + 1) / slots; n++) body(slot, n);
  });
}

StripDropout strip_dropout(const DropoutRule& rule, const Shape& s, size_t row, int channel) {
  const Draw draw = rule.active() ? *rule.dropout.draw : Draw{};
  return {draw.key, rule.dropout.layer, draw.step, rule.threshold, rule.factor, row * s.channels + channel, size_t(s.channels)};
}

// body(source, first channel, first row, pixels) for the strips of image n, source by source.
template <class Body>
void for_strips(const Shape& s, size_t n, Body body) {
  int channel = 0;
  for (const Tensor& x : s.x) {
    if (!x) continue;
    for (int p = 0; p < s.pixels; p += kStrip) body(x, channel, n * s.pixels + p, std::min(kStrip, s.pixels - p));
    channel += x.c;
  }
}

}  // namespace

void group_norm_forward(Context& ctx, Tensor y, Tensor mean, Tensor rstd, Tensor x0, Tensor x1, Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_forward(y, mean, rstd, x0, x1, w, b, a);
  Shape s(x0, x1, a);
  DropoutRule rule(a.dropout);
  const NormMicrokernels& micro = norm_microkernels();
  // Per slot: totals and squares in double, then mean, scale, bias and a strip's two sums.
  const size_t slot_size = 4 * s.padded + 5 * s.array;
  float* scratch = ctx.scratch(slot_size * std::min(ctx.threads(), s.images));
  for_images(ctx, s.images, [&](size_t slot, size_t n) {
    double* total = reinterpret_cast<double*>(scratch + slot * slot_size);
    double* square = total + s.padded;
    float* means = reinterpret_cast<float*>(square + s.padded);
    float *scales = means + s.array, *biases = scales + s.array, *strip_sum = biases + s.array, *strip_square = strip_sum + s.array;

    std::fill_n(total, 2 * s.padded, 0.0);
    std::fill_n(means, 3 * s.array, 0.0f);
    std::copy_n(b.data, s.channels, biases);
    for_strips(s, n, [&](const Tensor& x, int channel, size_t row, int pixels) {
      const float* first = x.row(row);
      micro.sums(strip_sum, strip_square, first, x.ld, pixels, x.c);
      for (int c = 0; c < x.c; c++) {
        double shift = strip_sum[c] / double(pixels), middle = first[c] + shift;
        total[channel + c] += pixels * middle;
        square[channel + c] += strip_square[c] - strip_sum[c] * shift + pixels * middle * middle;
      }
    });

    const double count = double(s.pixels) * s.width;
    for (int g = 0; g < s.groups; g++) {
      double sum = 0, squares = 0;
      for (int c = g * s.width; c < (g + 1) * s.width; c++) sum += total[c], squares += square[c];
      double middle = sum / count, variance = squares / count - middle * middle;
      if (variance < 0) variance = 0;
      mean.row(n)[g] = float(middle);
      rstd.row(n)[g] = float(1 / std::sqrt(variance + a.eps));
      for (int c = g * s.width; c < (g + 1) * s.width; c++) {
        means[c] = mean.row(n)[g];
        scales[c] = rstd.row(n)[g] * w.data[c];
      }
    }
    for_strips(s, n, [&](const Tensor& x, int channel, size_t row, int pixels) {
      micro.apply(y.row(row) + channel, y.ld, x.row(row), x.ld, pixels, x.c, means + channel, scales + channel, biases + channel, a.silu,
                  strip_dropout(rule, s, row, channel));
    });
  });
}

void group_norm_backward(Context& ctx, Grad dx0, Grad dx1, Tensor dw, Tensor db, Tensor dy, Tensor mean, Tensor rstd, Tensor x0, Tensor x1,
                         Tensor w, Tensor b, GroupNorm a) {
  shapes::group_norm_backward(dx0, dx1, dw, db, dy, mean, rstd, x0, x1, w, b, a);
  Shape s(x0, x1, a);
  DropoutRule rule(a.dropout);
  const NormMicrokernels& micro = norm_microkernels();
  const Grad dx[2] = {dx0, dx1};
  // Per image: Σ dz and Σ dz·x̂ of each channel in double. Per slot: mean, rstd, w, b, scale, offset, slope, a strip's two sums, and dz
  // where it cannot lie in dx.
  const size_t slots = std::min(ctx.threads(), s.images);
  const bool keep = (dx0 && dx0.accumulate) || (dx1 && dx1.accumulate);
  const size_t image_size = 4 * s.padded, array = s.array;
  const size_t slab = keep ? round_up(size_t(s.pixels) * s.channels, 16) : 0, slot_size = 9 * array + slab;
  float* scratch = ctx.scratch(s.images * image_size + slots * slot_size);
  double* sums = reinterpret_cast<double*>(scratch);

  for_images(ctx, s.images, [&](size_t slot, size_t n) {
    double *sum = sums + n * 2 * s.padded, *product = sum + s.padded;
    float* arrays = scratch + s.images * image_size + slot * slot_size;
    float *means = arrays, *rstds = means + array, *weights = rstds + array, *biases = weights + array, *scales = biases + array;
    float *offsets = scales + array, *slopes = offsets + array, *strip_sum = slopes + array, *strip_product = strip_sum + array;
    float* kept = arrays + 9 * array;

    std::fill_n(arrays, 7 * array, 0.0f);
    std::copy_n(w.data, s.channels, weights);
    std::copy_n(b.data, s.channels, biases);
    for (int c = 0; c < s.channels; c++) {
      means[c] = mean.row(n)[c / s.width];
      rstds[c] = rstd.row(n)[c / s.width];
    }
    // Where a source's dz lies: in dx if that is free, else in scratch.
    auto place = [&](int channel, size_t row) {
      const Grad& grad = dx[channel >= x0.c];
      if (!grad) return Tensor{};
      if (!grad.accumulate) return Tensor{grad.t.row(row), 1, 1, 1, grad.t.c, grad.t.ld};
      return Tensor{kept + (row - n * s.pixels) * s.channels + channel, 1, 1, 1, grad.t.c, s.channels};
    };

    std::fill_n(sum, 2 * s.padded, 0.0);
    for_strips(s, n, [&](const Tensor& x, int channel, size_t row, int pixels) {
      Tensor dz = place(channel, row);
      micro.backward_sums(dz.data, dz.ld, strip_sum, strip_product, dy.row(row) + channel, dy.ld, x.row(row), x.ld, pixels, x.c,
                          means + channel, rstds + channel, weights + channel, biases + channel, a.silu,
                          strip_dropout(rule, s, row, channel));
      for (int c = 0; c < x.c; c++) {
        sum[channel + c] += strip_sum[c];
        product[channel + c] += strip_product[c];
      }
    });
    if (!dx0 && !dx1) return;

    const double count = double(s.pixels) * s.width;
    for (int g = 0; g < s.groups; g++) {
      double all = 0, products = 0, factor = rstd.row(n)[g];
      for (int c = g * s.width; c < (g + 1) * s.width; c++) {
        all += double(w.data[c]) * sum[c];
        products += double(w.data[c]) * product[c];
      }
      for (int c = g * s.width; c < (g + 1) * s.width; c++) {
        scales[c] = float(factor * w.data[c]);
        offsets[c] = float(factor * all / count);
        slopes[c] = float(factor * factor * products / count);
      }
    }
    for_strips(s, n, [&](const Tensor& x, int channel, size_t row, int pixels) {
      const Grad& grad = dx[channel >= x0.c];
      if (!grad) return;
      Tensor dz = place(channel, row);
      micro.backward_apply(grad.t.row(row), grad.t.ld, dz.data, dz.ld, x.row(row), x.ld, pixels, x.c, means + channel, scales + channel,
                           offsets + channel, slopes + channel, grad.accumulate);
    });
  });

  for (int c = 0; c < s.channels; c++) {
    double weight = 0, bias = 0;
    for (int n = 0; n < s.images; n++) {
      bias += sums[n * 2 * s.padded + c];
      weight += sums[n * 2 * s.padded + s.padded + c];
    }
    dw.data[c] = float(weight);
    db.data[c] = float(bias);
  }
}

}  // namespace phx
