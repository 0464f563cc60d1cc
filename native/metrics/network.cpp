#include "metrics/network.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace phx {
namespace {

void activate(Context& ctx, Tensor x, real most) {
  parallel_for(ctx, x.size(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) x.data[i] = std::min(std::max(x.data[i], real(0)), most);
  });
}

// y[i,j,c] = b[c] + Σ_rs w[r,s,c]·x[i·stride+r-pad, j·stride+s-pad, c]
void depthwise(Context& ctx, Tensor y, Tensor x, const real* w, const real* b, int stride, int pad) {
  parallel_for(ctx, size_t(y.n) * y.h, [&](size_t begin, size_t end) {
    for (size_t line = begin; line < end; line++) {
      int image = int(line / size_t(y.h)), i = int(line % size_t(y.h));
      for (int j = 0; j < y.w; j++) {
        real* out = y.row(line * size_t(y.w) + size_t(j));
        std::copy_n(b, y.c, out);
        for (int tap = 0; tap < 9; tap++) {
          int row = i * stride + tap / 3 - pad, column = j * stride + tap % 3 - pad;
          if (row < 0 || row >= x.h || column < 0 || column >= x.w) continue;
          const real* in = x.row((size_t(image) * x.h + row) * x.w + column);
          const real* weight = w + tap * y.c;
          for (int c = 0; c < y.c; c++) out[c] += weight[c] * in[c];
        }
      }
    }
  });
}

// The network's input, u8·scale + shift. Output pixel i sees the input at (i + 1/2)·in/out - 1/2, held within the image.
void load(Context& ctx, Tensor x, const Network& net, NetworkImages images) {
  auto place = [](int i, int out, int in, int& first, int& second, real& share) {
    double at = std::clamp((i + 0.5) * in / out - 0.5, 0.0, in - 1.0);
    first = int(at), second = std::min(first + 1, in - 1), share = real(at - first);
  };
  parallel_for(ctx, size_t(x.n) * x.h, [&](size_t begin, size_t end) {
    for (size_t line = begin; line < end; line++) {
      int image = int(line / size_t(x.h)), top, bottom, left, right;
      real down, across;
      place(int(line % size_t(x.h)), x.h, images.height, top, bottom, down);
      auto pixel = [&](int i, int j, int c) {
        size_t at = (size_t(image) * images.height + i) * images.width + j;
        return real(images.pixels[at * images.channels + (images.channels == 1 ? 0 : c)]);
      };
      for (int j = 0; j < x.w; j++) {
        place(j, x.w, images.width, left, right, across);
        for (int c = 0; c < x.c; c++) {
          real upper = pixel(top, left, c) + across * (pixel(top, right, c) - pixel(top, left, c));
          real lower = pixel(bottom, left, c) + across * (pixel(bottom, right, c) - pixel(bottom, left, c));
          x.row(line * size_t(x.w) + size_t(j))[c] = (upper + down * (lower - upper)) * net.scale[c] + net.shift[c];
        }
      }
    }
  });
}

// He et al. 2016, §4.2, option A: every (x.h / y.h)-th pixel, its channels in the middle of y's, zeros around them.
void shortcut(Context& ctx, Tensor y, Tensor x) {
  int step = x.h / y.h, before = (y.c - x.c) / 2;
  parallel_for(ctx, y.rows(), [&](size_t begin, size_t end) {
    for (size_t pixel = begin; pixel < end; pixel++) {
      size_t column = pixel % size_t(y.w), row = pixel / size_t(y.w) % size_t(y.h), image = pixel / size_t(y.w) / size_t(y.h);
      std::fill_n(y.row(pixel), y.c, real(0));
      std::copy_n(x.row((image * size_t(x.h) + row * size_t(step)) * size_t(x.w) + column * size_t(step)), x.c, y.row(pixel) + before);
    }
  });
}

void average(Context& ctx, Tensor y, Tensor x) {
  size_t pixels = size_t(x.h) * x.w;
  parallel_for(ctx, size_t(x.n), [&](size_t begin, size_t end) {
    for (size_t image = begin; image < end; image++)
      for (int c = 0; c < x.c; c++) {
        double sum = 0;
        for (size_t pixel = 0; pixel < pixels; pixel++) sum += double(x.row(image * pixels + pixel)[c]);
        y.row(image)[c] = real(sum / double(pixels));
      }
  });
}

}  // namespace

void check_network(const Network& net) {
  const char* what = "network";
  check(!net.layers.empty(), what, "at least one layer");
  check(net.scale.size() == size_t(net.channels) && net.shift.size() == size_t(net.channels), what, "a scale and a shift for each channel");
  size_t weights = 0;
  int h = net.height, w = net.width, c = net.channels;
  NetworkLayer before{};
  for (const NetworkLayer& layer : net.layers) {
    check(layer.stride == 1 || (h % 2 == 0 && w % 2 == 0 && layer.kind != LayerKind::pointwise), what,
          "even sides before a stride of 2, which no pointwise layer has");
    check(layer.kind != LayerKind::depthwise || layer.channels == c, what, "as many channels out of a depthwise layer as in");
    check(!layer.residual || (before.channels && layer.kind == LayerKind::conv && layer.stride == 1 && !before.residual), what,
          "a residual over two layers, the second a convolution of stride 1");
    size_t inputs = layer.kind == LayerKind::conv ? 9 * size_t(c) : layer.kind == LayerKind::depthwise ? 9 : size_t(c);
    weights += size_t(layer.channels) * (inputs + 1);
    h /= layer.stride, w /= layer.stride, c = layer.channels;
    before = layer;
  }
  weights += size_t(net.classes) * (size_t(c) + 1);
  check(net.weights.size() == weights, what, std::to_string(weights) + " weights, not " + std::to_string(net.weights.size()));
}

void run_network(Context& ctx, const Network& net, NetworkImages images, float* features, float* logits) {
  int count = images.count;
  size_t side = size_t(net.height) * net.width, largest = side * net.channels;
  for (int h = net.height, w = net.width; const NetworkLayer& layer : net.layers) {
    h /= layer.stride, w /= layer.stride;
    largest = std::max(largest, size_t(h) * w * layer.channels);
  }
  // Layer i reads block i % 3 and writes the next; the third still holds the input of the layer before.
  std::vector<real> blocks[3], halved(largest * count);
  for (auto& block : blocks) block.resize(largest * count);
  Tensor x = tensor(blocks[0].data(), count, net.height, net.width, net.channels), before;
  load(ctx, x, net, images);
  real* weights = const_cast<real*>(net.weights.data());  // a Tensor has no const; ops do not write their parameters
  for (size_t i = 0; i < net.layers.size(); i++) {
    const NetworkLayer& layer = net.layers[i];
    Tensor y = tensor(blocks[(i + 1) % 3].data(), count, x.h / layer.stride, x.w / layer.stride, layer.channels);
    int pad = layer.stride == 2 ? net.pad : 1;
    size_t used;
    if (layer.kind == LayerKind::depthwise) {
      used = 9 * size_t(y.c);
      depthwise(ctx, y, x, weights, weights + used, layer.stride, pad);
    } else if (layer.kind == LayerKind::pointwise) {
      Tensor w = matrix(weights, layer.channels, x.c);
      used = w.size();
      linear_forward(ctx, y, x, {}, {}, w, vector(weights + used, layer.channels));
    } else {
      Tensor w{weights, layer.channels, 3, 3, x.c, x.c}, residual;
      used = w.size();
      if (layer.residual) {
        residual = before;
        if (!same_shape(before, y)) shortcut(ctx, residual = tensor(halved.data(), count, y.h, y.w, y.c), before);
      }
      conv2d_forward(ctx, y, x, {}, residual, {}, w, vector(weights + used, layer.channels), Conv2d{layer.stride, pad, 1});
    }
    activate(ctx, y, real(net.most));
    weights += used + size_t(layer.channels);
    before = x, x = y;
  }
  std::vector<real> pooled(size_t(count) * x.c), scores(size_t(count) * net.classes);
  Tensor mean = matrix(pooled.data(), count, x.c);
  average(ctx, mean, x);
  std::copy(pooled.begin(), pooled.end(), features);
  if (!net.classes) return;
  Tensor w = matrix(weights, net.classes, x.c), b = vector(weights + w.size(), net.classes);
  linear_forward(ctx, matrix(scores.data(), count, net.classes), mean, {}, {}, w, b);
  std::copy(scores.begin(), scores.end(), logits);
}

}  // namespace phx
