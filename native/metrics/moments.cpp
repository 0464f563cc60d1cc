// Mean, covariance, symmetric eigenvalues and the Fréchet distance.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/check.h"
#include "kernels/parallel.h"
#include "metrics/metrics.h"

namespace phx {
namespace {

using Matrix = std::vector<double>;

// Eight partial sums: a fixed order that the compiler may vectorise.
double inner(const double* a, const double* b, size_t n) {
  double part[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t lane = 0; lane < 8; lane++) part[lane] += a[i + lane] * b[i + lane];
  for (; i < n; i++) part[0] += a[i] * b[i];
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

void add_scaled(double* y, const double* x, double a, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}

// c = a·b, all (n,n)
Matrix product(Context& ctx, const Matrix& a, const Matrix& b, size_t n) {
  constexpr size_t kBlock = 64;
  Matrix c(n * n, 0.0);
  parallel_for(ctx, n, [&](size_t begin, size_t end) {
    for (size_t k0 = 0; k0 < n; k0 += kBlock)
      for (size_t i = begin; i < end; i++)
        for (size_t k = k0; k < std::min(n, k0 + kBlock); k++) add_scaled(&c[i * n], &b[k * n], a[i * n + k], n);
  });
  return c;
}

// One reflection I - beta·v·vᵀ a column; v of column k has its first k+1 entries 0 and lies in row k of `vectors`.
struct Tridiagonal {
  std::vector<double> diagonal, off, beta;
  Matrix vectors;
};

Tridiagonal tridiagonalise(Context& ctx, Matrix a, size_t n) {
  Tridiagonal t{std::vector<double>(n), std::vector<double>(n, 0.0), std::vector<double>(n, 0.0), Matrix(n * n, 0.0)};
  std::vector<double> w(n);
  for (size_t k = 0; k + 1 < n; k++) {
    double* v = &t.vectors[k * n];
    size_t first = k + 1, size = n - first;
    std::copy_n(&a[k * n + first], size, v + first);
    double largest = 0;
    for (size_t i = first; i < n; i++) largest = std::max(largest, std::abs(v[i]));
    if (size == 1 || largest == 0) {
      t.off[k] = v[first];
      continue;
    }
    for (size_t i = first; i < n; i++) v[i] /= largest;
    double norm = std::sqrt(inner(v + first, v + first, size)), alpha = v[first] > 0 ? -norm : norm;
    t.off[k] = alpha * largest;
    v[first] -= alpha;
    double beta = 2 / inner(v + first, v + first, size);
    t.beta[k] = beta;
    parallel_for(ctx, size, [&](size_t begin, size_t end) {
      for (size_t i = first + begin; i < first + end; i++) w[i] = beta * inner(&a[i * n + first], v + first, size);
    });
    add_scaled(&w[first], v + first, -beta / 2 * inner(&w[first], v + first, size), size);
    parallel_for(ctx, size, [&](size_t begin, size_t end) {
      for (size_t i = first + begin; i < first + end; i++)
        for (size_t j = first; j < n; j++) a[i * n + j] -= v[i] * w[j] + w[i] * v[j];
    });
  }
  for (size_t i = 0; i < n; i++) t.diagonal[i] = a[i * n + i];
  return t;
}

// The product of all reflections, transposed: each thread carries some columns through all of them.
Matrix transposed_basis(Context& ctx, const Tridiagonal& t, size_t n) {
  Matrix q(n * n, 0.0), result(n * n);
  for (size_t i = 0; i < n; i++) q[i * n + i] = 1;
  parallel_for(ctx, n, [&](size_t begin, size_t end) {
    std::vector<double> sum(end - begin);
    for (size_t k = n; k-- > 0;) {
      if (t.beta[k] == 0) continue;
      const double* v = &t.vectors[k * n];
      std::fill(sum.begin(), sum.end(), 0.0);
      for (size_t i = k + 1; i < n; i++) add_scaled(sum.data(), &q[i * n + begin], v[i], end - begin);
      for (size_t i = k + 1; i < n; i++) add_scaled(&q[i * n + begin], sum.data(), -t.beta[k] * v[i], end - begin);
    }
    for (size_t i = 0; i < n; i++)
      for (size_t j = begin; j < end; j++) result[j * n + i] = q[i * n + j];
  });
  return result;
}

struct Rotation {
  double c, s;
};

// One QR step with Wilkinson's shift on rows first..last of the tridiagonal matrix; rotation k turns rows k and k + 1.
void qr_step(std::vector<double>& d, std::vector<double>& e, size_t first, size_t last, std::vector<Rotation>& rotations) {
  double half = (d[last - 1] - d[last]) / 2, off = e[last - 1];
  double shift = d[last] - off * (off / (half + std::copysign(std::hypot(half, off), half)));
  double x = d[first] - shift, bulge = e[first];
  rotations.clear();
  for (size_t k = first; k < last; k++) {
    double r = std::hypot(x, bulge), c = r > 0 ? x / r : 1, s = r > 0 ? bulge / r : 0;
    if (k > first) e[k - 1] = r;
    double upper = d[k], lower = d[k + 1], between = e[k];
    double turned = s * (lower - upper) + 2 * c * between;  // 2cs·between + s²·(lower - upper) = s·turned
    d[k] = upper + s * turned;
    d[k + 1] = lower - s * turned;
    e[k] = c * turned - between;
    if (k + 1 < last) {
      x = e[k];
      bulge = s * e[k + 1];
      e[k + 1] *= c;
    }
    rotations.push_back({c, s});
  }
}

}  // namespace

Moments moments(Context& ctx, const Features& x) {
  check(x.rows >= 2, "moments", "at least two rows");
  size_t n = x.columns;
  Moments m{std::vector<double>(n, 0.0), Matrix(n * n, 0.0)};
  for (size_t r = 0; r < x.rows; r++) add_scaled(m.mean.data(), x.row(r), 1, n);
  for (double& value : m.mean) value /= double(x.rows);
  Features centred = x;
  parallel_for(ctx, x.rows, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; r++) add_scaled(&centred.data[r * n], m.mean.data(), -1, n);
  });
  // Blocks of rows of the upper triangle, the first beside the last: all threads have the same work.
  constexpr size_t kBlock = 16;
  size_t blocks = ceil_div(n, kBlock);
  auto fill = [&](size_t block) {
    size_t first = block * kBlock, last = std::min(n, first + kBlock);
    for (size_t r = 0; r < x.rows; r++)
      for (size_t i = first; i < last; i++) add_scaled(&m.covariance[i * n + i], centred.row(r) + i, centred.row(r)[i], n - i);
  };
  parallel_for(ctx, (blocks + 1) / 2, [&](size_t begin, size_t end) {
    for (size_t pair = begin; pair < end; pair++) {
      fill(pair);
      if (blocks - 1 - pair != pair) fill(blocks - 1 - pair);
    }
  });
  for (size_t i = 0; i < n; i++)
    for (size_t j = i; j < n; j++) m.covariance[j * n + i] = m.covariance[i * n + j] /= double(x.rows - 1);
  return m;
}

void symmetric_eigen(Context& ctx, std::vector<double> a, size_t n, std::vector<double>& values, std::vector<double>* vectors) {
  Tridiagonal t = tridiagonalise(ctx, std::move(a), n);
  if (vectors) *vectors = transposed_basis(ctx, t, n);
  std::vector<double>&d = t.diagonal, &e = t.off;
  auto negligible = [&](size_t k) {
    return std::abs(e[k]) <= std::numeric_limits<double>::epsilon() * (std::abs(d[k]) + std::abs(d[k + 1])) ||
           std::abs(e[k]) < std::numeric_limits<double>::min();
  };
  std::vector<Rotation> rotations;
  size_t steps = 0;
  for (size_t last = n - 1; last > 0;) {
    if (negligible(last - 1)) {
      e[--last] = 0;
      continue;
    }
    size_t first = last - 1;
    while (first > 0 && !negligible(first - 1)) first--;
    if (++steps > 60 * n) throw std::runtime_error("symmetric_eigen: no convergence; are all values finite?");
    qr_step(d, e, first, last, rotations);
    if (!vectors) continue;
    parallel_for(ctx, n, [&](size_t begin, size_t end) {
      for (size_t k = first; k < last; k++) {
        auto [c, s] = rotations[k - first];
        double *upper = &(*vectors)[k * n], *lower = upper + n;
        for (size_t i = begin; i < end; i++) {
          double u = upper[i], l = lower[i];
          upper[i] = c * u + s * l;
          lower[i] = c * l - s * u;
        }
      }
    });
  }
  values = d;
}

double frechet_distance(Context& ctx, const Moments& a, const Moments& b) {
  size_t n = a.mean.size();
  check(n > 0 && b.mean.size() == n && a.covariance.size() == n * n && b.covariance.size() == n * n, "frechet_distance",
        "moments of equally many features");
  double distance = 0;
  for (size_t i = 0; i < n; i++) {
    double difference = a.mean[i] - b.mean[i];
    distance += difference * difference + a.covariance[i * n + i] + b.covariance[i * n + i];
  }
  std::vector<double> values;
  Matrix root, transposed(n * n);
  symmetric_eigen(ctx, a.covariance, n, values, &root);
  // With A = Vᵀ Λ V (vectors in V's rows), A^½ B A^½ has the eigenvalues of (Λ^½ V) B (Λ^½ V)ᵀ.
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) transposed[j * n + i] = root[i * n + j] *= std::sqrt(std::max(0.0, values[i]));
  Matrix inside = product(ctx, product(ctx, root, b.covariance, n), transposed, n);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < i; j++) inside[i * n + j] = inside[j * n + i] = (inside[i * n + j] + inside[j * n + i]) / 2;
  symmetric_eigen(ctx, std::move(inside), n, values, nullptr);
  std::sort(values.begin(), values.end());
  for (double value : values) distance -= 2 * std::sqrt(std::max(0.0, value));
  return distance;
}

}  // namespace phx
