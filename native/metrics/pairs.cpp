// Metrics over all pairs of rows: neighbours, balls, kernel sums, clusters. Rows of y are laid out sixteen side by side, so that one row of
// x meets sixteen at once and every distance is one sum in the order of the columns: d(x,y) and d(y,x) are the same bits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/parallel.h"
#include "metrics/metrics.h"

namespace phx {
namespace {

constexpr size_t kLanes = 16;
constexpr size_t kRows = 32;  // rows of x that share a visit to a tile of y

// Tile t holds rows 16t.. of y, [column][lane]; what is missing in the last is 0.
std::vector<double> tiles_of(const Features& y) {
  std::vector<double> tiles(round_up(y.rows, kLanes) * y.columns, 0.0);
  for (size_t j = 0; j < y.rows; j++)
    for (size_t c = 0; c < y.columns; c++) tiles[(j / kLanes * y.columns + c) * kLanes + j % kLanes] = y.row(j)[c];
  return tiles;
}

template <bool kProduct>
void meet(double* __restrict out, const double* __restrict x, const double* __restrict tile, size_t columns) {
  double sum[kLanes] = {};
  for (size_t c = 0; c < columns; c++)
    for (size_t lane = 0; lane < kLanes; lane++) {
      double y = tile[c * kLanes + lane], difference = x[c] - y;
      sum[lane] += kProduct ? x[c] * y : difference * difference;
    }
  std::copy_n(sum, kLanes, out);
}

// visit(i, j, value) for rows begin..end of x and all rows of y; for each i in the order of j. Values: squared distance, or x·y.
template <bool kProduct, class Visit>
void visit_pairs(const Features& x, size_t begin, size_t end, const std::vector<double>& tiles, size_t y_rows, Visit visit) {
  double values[kLanes];
  for (size_t i0 = begin; i0 < end; i0 += kRows)
    for (size_t j0 = 0; j0 < y_rows; j0 += kLanes)
      for (size_t i = i0; i < std::min(end, i0 + kRows); i++) {
        meet<kProduct>(values, x.row(i), &tiles[j0 * x.columns], x.columns);
        for (size_t lane = 0; lane < std::min(kLanes, y_rows - j0); lane++) visit(i, j0 + lane, values[lane]);
      }
}

void check_columns(const char* what, const Features& x, const Features& y) {
  check(x.columns == y.columns && x.columns > 0, what,
        "rows of equal length, not " + std::to_string(x.columns) + " and " + std::to_string(y.columns));
}

Features picked(const Features& x, const int32_t* rows, size_t count) {
  Features result{std::vector<double>(count * x.columns), count, x.columns};
  for (size_t i = 0; i < count; i++) {
    check(rows[i] >= 0 && size_t(rows[i]) < x.rows, "kernel_distances", "row numbers inside of the matrix");
    std::copy_n(x.row(size_t(rows[i])), x.columns, &result.data[i * x.columns]);
  }
  return result;
}

// Σ of the kernel over the pairs of rows, without a row's pair with itself where x is y
double kernel_sum(const Features& x, const Features& y, bool self) {
  std::vector<double> rows(x.rows, 0.0);
  visit_pairs<true>(x, 0, x.rows, tiles_of(y), y.rows, [&](size_t i, size_t j, double dot) {
    if (self && i == j) return;
    double base = dot / double(x.columns) + 1;
    rows[i] += base * base * base;
  });
  double sum = 0;
  for (double row : rows) sum += row;
  return sum;
}

}  // namespace

Neighbours neighbours(Context& ctx, const Features& x, const Features& y, int k, bool self) {
  check_columns("neighbours", x, y);
  check(k >= 1 && size_t(k) + (self ? 1 : 0) <= y.rows, "neighbours", "k from 1 to the number of other rows, not " + std::to_string(k));
  check(!self || x.rows == y.rows, "neighbours", "one matrix for neighbours within it");
  size_t width = size_t(k);
  std::vector<double> best(x.rows * width, std::numeric_limits<double>::infinity());
  std::vector<int32_t> which(x.rows * width, -1);
  std::vector<double> tiles = tiles_of(y);
  parallel_for(ctx, x.rows, [&](size_t begin, size_t end) {
    visit_pairs<false>(x, begin, end, tiles, y.rows, [&](size_t i, size_t j, double squared) {
      double* nearest = &best[i * width];
      if (!(squared < nearest[width - 1]) || (self && i == j)) return;
      int32_t* index = &which[i * width];
      size_t at = width - 1;
      for (; at > 0 && squared < nearest[at - 1]; at--) nearest[at] = nearest[at - 1], index[at] = index[at - 1];
      nearest[at] = squared, index[at] = int32_t(j);
    });
  });
  Neighbours result{std::vector<double>(x.rows), std::vector<int32_t>(x.rows)};
  for (size_t i = 0; i < x.rows; i++) result.squared[i] = best[i * width + width - 1], result.index[i] = which[i * width + width - 1];
  return result;
}

std::vector<int32_t> ball_counts(Context& ctx, const Features& x, const Features& centres, const std::vector<double>& squared_radii,
                                 bool strict) {
  check_columns("ball_counts", x, centres);
  check(squared_radii.size() == centres.rows, "ball_counts", "one radius a centre");
  std::vector<int32_t> counts(x.rows, 0);
  std::vector<double> tiles = tiles_of(centres);
  parallel_for(ctx, x.rows, [&](size_t begin, size_t end) {
    visit_pairs<false>(x, begin, end, tiles, centres.rows, [&](size_t i, size_t j, double squared) {
      counts[i] += strict ? squared < squared_radii[j] : squared <= squared_radii[j];
    });
  });
  return counts;
}

std::vector<double> kernel_distances(Context& ctx, const Features& x, const Features& y, const std::vector<int32_t>& x_rows,
                                     const std::vector<int32_t>& y_rows, size_t size) {
  check_columns("kernel_distances", x, y);
  check(size >= 2 && x_rows.size() == y_rows.size() && x_rows.size() % size == 0, "kernel_distances",
        "subsets of equally many rows, two at least");
  std::vector<double> distances(x_rows.size() / size);
  parallel_for(ctx, distances.size(), [&](size_t begin, size_t end) {
    for (size_t s = begin; s < end; s++) {
      Features a = picked(x, &x_rows[s * size], size), b = picked(y, &y_rows[s * size], size);
      double pairs = double(size) * double(size - 1);
      distances[s] =
          kernel_sum(a, a, true) / pairs + kernel_sum(b, b, true) / pairs - 2 * kernel_sum(a, b, false) / (double(size) * double(size));
    }
  });
  return distances;
}

Clusters kmeans(Context& ctx, const Features& x, const std::vector<double>& uniforms, int iterations) {
  size_t k = uniforms.size(), n = x.columns;
  check(k >= 1 && k <= x.rows && n > 0, "kmeans", "as many rows as centres, at least: " + std::to_string(k));
  Clusters result;
  Features& centres = result.centres;
  centres.columns = n;
  std::vector<double> squared(x.rows, 1.0);
  for (double uniform : uniforms) {
    double total = 0;
    for (double weight : squared) total += weight;
    size_t chosen = 0;
    double left = uniform * total;
    for (size_t i = 0; i < x.rows; i++) {
      if (squared[i] > 0) chosen = i;
      if (squared[i] > 0 && (left -= squared[i]) < 0) break;
    }
    Features centre{std::vector<double>(x.row(chosen), x.row(chosen) + n), 1, n};
    centres.data.insert(centres.data.end(), centre.data.begin(), centre.data.end());
    bool first = centres.rows++ == 0;
    Neighbours nearest = neighbours(ctx, x, centre, 1, false);
    for (size_t i = 0; i < x.rows; i++) squared[i] = first ? nearest.squared[i] : std::min(squared[i], nearest.squared[i]);
  }
  for (;;) {
    Neighbours nearest = neighbours(ctx, x, centres, 1, false);
    bool same = nearest.index == result.assignment;
    result.assignment = nearest.index;
    result.inertia = 0;
    for (double value : nearest.squared) result.inertia += value;
    if (same || result.iterations == iterations) return result;
    result.iterations++;
    std::vector<double> sums(k * n, 0.0);
    std::vector<size_t> counts(k, 0);
    for (size_t i = 0; i < x.rows; i++) {
      size_t own = size_t(nearest.index[i]);
      counts[own]++;
      for (size_t c = 0; c < n; c++) sums[own * n + c] += x.row(i)[c];
    }
    for (size_t centre = 0; centre < k; centre++) {
      if (counts[centre]) {
        for (size_t c = 0; c < n; c++) centres.data[centre * n + c] = sums[centre * n + c] / double(counts[centre]);
        continue;
      }
      size_t farthest = size_t(std::max_element(nearest.squared.begin(), nearest.squared.end()) - nearest.squared.begin());
      std::copy_n(x.row(farthest), n, &centres.data[centre * n]);
      nearest.squared[farthest] = 0;
    }
  }
}

}  // namespace phx
