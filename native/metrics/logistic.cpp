// Multinomial logistic regression by Nesterov's accelerated gradient with restarts (O'Donoghue & Candès 2015, §3.2), on standardised
// features.
#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/parallel.h"
#include "metrics/metrics.h"

namespace phx {
namespace {

double inner(const double* a, const double* b, size_t n) {
  double part[4] = {};
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t lane = 0; lane < 4; lane++) part[lane] += a[i + lane] * b[i + lane];
  for (; i < n; i++) part[0] += a[i] * b[i];
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// Largest eigenvalue of XᵀX/rows by 60 power iterations.
double largest_eigenvalue(Context& ctx, const Features& x) {
  std::vector<double> v(x.columns, 1.0 / std::sqrt(double(x.columns))), products(x.rows);
  double value = 0;
  for (int iteration = 0; iteration < 60; iteration++) {
    parallel_for(ctx, x.rows, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++) products[i] = inner(x.row(i), v.data(), x.columns);
    });
    std::vector<double> next(x.columns, 0.0);
    parallel_for(ctx, x.columns, [&](size_t begin, size_t end) {
      for (size_t i = 0; i < x.rows; i++)
        for (size_t c = begin; c < end; c++) next[c] += products[i] * x.row(i)[c] / double(x.rows);
    });
    double norm = std::sqrt(inner(next.data(), next.data(), x.columns));
    if (norm == 0) return 0;
    value = norm;
    for (size_t c = 0; c < x.columns; c++) v[c] = next[c] / norm;
  }
  return value;
}

}  // namespace

LogisticFit logistic_regression(Context& ctx, const Features& features, const std::vector<int32_t>& labels, int classes, double l2,
                                int iterations) {
  check(labels.size() == features.rows && features.rows > 0 && features.columns > 0, "logistic_regression", "one label a row");
  check(classes >= 2 && classes <= 65536 && l2 >= 0, "logistic_regression", "two classes at least and a weight l2 >= 0");
  for (int32_t label : labels) check(label >= 0 && label < classes, "logistic_regression", "labels below " + std::to_string(classes));

  // Standardised columns, and a last column of ones for the bias.
  size_t n = features.columns, rows = features.rows, k = size_t(classes);
  Features x{std::vector<double>(rows * (n + 1), 1.0), rows, n + 1};
  std::vector<double> mean(n, 0.0), deviation(n, 0.0);
  for (size_t i = 0; i < rows; i++)
    for (size_t c = 0; c < n; c++) mean[c] += features.row(i)[c] / double(rows);
  for (size_t i = 0; i < rows; i++)
    for (size_t c = 0; c < n; c++) deviation[c] += (features.row(i)[c] - mean[c]) * (features.row(i)[c] - mean[c]) / double(rows);
  for (double& d : deviation) d = d > 1e-24 ? std::sqrt(d) : 1;
  for (size_t i = 0; i < rows; i++)
    for (size_t c = 0; c < n; c++) x.data[i * (n + 1) + c] = (features.row(i)[c] - mean[c]) / deviation[c];

  // w (classes, n+1): f(w) = mean(log Σ exp(wx) - (wx)[label]) + l2/2·|w without biases|²; its Hessian is below λmax/2 + l2 (Böhning 1992).
  double step = 1 / (0.55 * largest_eigenvalue(ctx, x) + l2 + 1e-12);
  std::vector<double> w(k * (n + 1), 0.0), y = w, before = w, residual(rows * k), gradient(w.size());
  LogisticFit fit;
  double momentum = 1;
  for (; fit.iterations < iterations; fit.iterations++) {
    parallel_for(ctx, rows, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++) {
        double* r = &residual[i * k];
        for (size_t c = 0; c < k; c++) r[c] = inner(x.row(i), &y[c * (n + 1)], n + 1);
        double most = *std::max_element(r, r + k), sum = 0;
        for (size_t c = 0; c < k; c++) sum += r[c] = std::exp(r[c] - most);
        for (size_t c = 0; c < k; c++) r[c] = r[c] / sum - (int32_t(c) == labels[i]);
      }
    });
    parallel_for(ctx, n + 1, [&](size_t begin, size_t end) {
      for (size_t c = 0; c < k; c++)
        for (size_t j = begin; j < end; j++) gradient[c * (n + 1) + j] = j < n ? l2 * y[c * (n + 1) + j] : 0;
      for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < k; c++)
          for (size_t j = begin; j < end; j++) gradient[c * (n + 1) + j] += residual[i * k + c] * x.row(i)[j] / double(rows);
    });
    fit.gradient = 0;
    for (double g : gradient) fit.gradient = std::max(fit.gradient, std::abs(g));
    if (fit.gradient < 1e-7) {
      w = y;
      break;
    }
    before.swap(w);
    double along = 0;
    for (size_t j = 0; j < w.size(); j++) {
      w[j] = y[j] - step * gradient[j];
      along += gradient[j] * (w[j] - before[j]);
    }
    double next = along > 0 ? 1 : (1 + std::sqrt(1 + 4 * momentum * momentum)) / 2;
    double share = along > 0 ? 0 : (momentum - 1) / next;
    for (size_t j = 0; j < w.size(); j++) y[j] = w[j] + share * (w[j] - before[j]);
    momentum = next;
  }

  fit.weights.resize(k * n), fit.biases.resize(k);
  for (size_t c = 0; c < k; c++) {
    fit.biases[c] = w[c * (n + 1) + n];
    for (size_t j = 0; j < n; j++) {
      fit.weights[c * n + j] = w[c * (n + 1) + j] / deviation[j];
      fit.biases[c] -= fit.weights[c * n + j] * mean[j];
    }
  }
  return fit;
}

}  // namespace phx
