// Metrics of generative models on matrices of features, in double precision: what is too large for JavaScript.
// A matrix is row-major, one sample per row. Results do not depend on the number of threads. src/ddpm/metrics says what each metric means.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/context.h"

namespace phx {

struct Features {
  std::vector<double> data;
  size_t rows = 0, columns = 0;
  const double* row(size_t i) const { return data.data() + i * columns; }
};

// ---- moments and the Fréchet distance

// mean (columns) and covariance (columns²) with divisor rows - 1; at least two rows
struct Moments {
  std::vector<double> mean, covariance;
};
Moments moments(Context&, const Features& x);

// A symmetric a (n,n) = Σ values[i]·vectors[i]·vectors[i]ᵀ, vectors (n,n) one per row, or left out: Householder's tridiagonal form, then
// implicit
// QR steps with Wilkinson's shift.  Golub & Van Loan, Matrix Computations, 4th ed., alg. 8.3.1 to 8.3.3. The values are in no order.
void symmetric_eigen(Context&, std::vector<double> a, size_t n, std::vector<double>& values, std::vector<double>* vectors);

// |mean_a - mean_b|² + tr(A) + tr(B) - 2·tr √(A^½ B A^½).  Dowson & Landau 1982, eq. 4; eigenvalues below 0 are rounding and count as 0
double frechet_distance(Context&, const Moments& a, const Moments& b);

// ---- pairs of rows

// For every row of x its k-th nearest row of y: squared Euclidean distance and which one. `self`: x is y, and a row is not its own
// neighbour.
// Of equal distances the lower index is nearer. k from 1 to what y has to offer.
struct Neighbours {
  std::vector<double> squared;
  std::vector<int32_t> index;
};
Neighbours neighbours(Context&, const Features& x, const Features& y, int k, bool self);

// For every row of x: how many centres i have |x - centre|² <= squared_radii[i] (or < with `strict`).
std::vector<int32_t> ball_counts(Context&, const Features& x, const Features& centres, const std::vector<double>& squared_radii,
                                 bool strict);

// Unbiased MMD² with kernel (x·y/columns + 1)³ of each pair of subsets.  Gretton et al. 2012, eq. 3; Bińkowski et al. 2018, §4
// x_rows, y_rows: subsets·size row numbers each
std::vector<double> kernel_distances(Context&, const Features& x, const Features& y, const std::vector<int32_t>& x_rows,
                                     const std::vector<int32_t>& y_rows, size_t size);

// Lloyd's iterations from k-means++ centres (Arthur & Vassilvitskii 2007), `uniforms` in [0,1) driving the choice: one a centre. A centre
// that loses all rows moves to the row farthest from its own centre. Ends when no row changes its centre or after `iterations`.
struct Clusters {
  Features centres;
  std::vector<int32_t> assignment;
  double inertia = 0;  // Σ squared distance to the own centre
  int iterations = 0;
};
Clusters kmeans(Context&, const Features& x, const std::vector<double>& uniforms, int iterations);

// ---- a classifier on features

// Multinomial logistic regression: the minimum of mean cross-entropy + l2/2·|weights of the standardised columns|², biases free. Columns
// are standardised inside; what comes out is for the features as they are: logits = weights·x + biases.
struct LogisticFit {
  std::vector<double> weights, biases;  // (classes, columns), (classes)
  double gradient = 0;                  // largest entry of the gradient where it ended, below 1e-7 unless the iterations ran out
  int iterations = 0;
};
LogisticFit logistic_regression(Context&, const Features& x, const std::vector<int32_t>& labels, int classes, double l2, int iterations);

}  // namespace phx
