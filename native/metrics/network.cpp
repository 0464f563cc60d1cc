#include "network.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace phx {
namespace {

void relu(Context& ctx, Tensor x) {
  parallel_for(ctx, x.size(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) x.data[i] = std::max(x.data[i], real(0));
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
    check(layer.stride == 1 || (h % 2 == 0 && w % 2 == 0), what, "even sides before a stride of 2");
    check(!layer.residual || (before.channels && layer.stride == 1 && !before.residual), what,
          "a residual over two layers, the second of stride 1");
    weights += size_t(layer.channels) * (9 * size_t(c) + 1);
    h /= layer.stride, w /= layer.stride, c = layer.channels;
    before = layer;
  }
  weights += size_t(net.classes) * (size_t(c) + 1);
  check(net.weights.size() == weights, what, std::to_string(weights) + " weights, not " + std::to_string(net.weights.size()));
}

void run_network(Context& ctx, const Network& net, const uint8_t* pixels, int count, float* features, float* logits) {
  size_t side = size_t(net.height) * net.width, largest = side * net.channels;
  for (int h = net.height, w = net.width; const NetworkLayer& layer : net.layers) {
    h /= layer.stride, w /= layer.stride;
    largest = std::max(largest, size_t(h) * w * layer.channels);
  }
  // Layer i reads block i % 3 and writes the next; the third still holds the input of the layer before.
  std::vector<real> blocks[3], halved(largest * count);
  for (auto& block : blocks) block.resize(largest * count);
  Tensor x = tensor(blocks[0].data(), count, net.height, net.width, net.channels), before;
  parallel_for(ctx, x.rows(), [&](size_t begin, size_t end) {
    for (size_t pixel = begin; pixel < end; pixel++)
      for (int c = 0; c < x.c; c++) x.row(pixel)[c] = real(pixels[pixel * x.c + c]) * net.scale[c] + net.shift[c];
  });
  real* weights = const_cast<real*>(net.weights.data());  // a Tensor has no const; ops do not write their parameters
  for (size_t i = 0; i < net.layers.size(); i++) {
    const NetworkLayer& layer = net.layers[i];
    Tensor y = tensor(blocks[(i + 1) % 3].data(), count, x.h / layer.stride, x.w / layer.stride, layer.channels);
    Tensor w{weights, layer.channels, 3, 3, x.c, x.c}, b = vector(weights + w.size(), layer.channels), residual;
    if (layer.residual) {
      residual = before;
      if (!same_shape(before, y)) shortcut(ctx, residual = tensor(halved.data(), count, y.h, y.w, y.c), before);
    }
    conv2d_forward(ctx, y, x, {}, residual, w, b, Conv2d{layer.stride, 1, 1});
    relu(ctx, y);
    weights += w.size() + b.size();
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
