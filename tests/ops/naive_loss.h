// Losses by plain loops over f64, for the rows that test them.
#pragma once

#include <cmath>

#include "tests/ops/op_test.h"

namespace pyramoe::optest {

// log(softmax(x / t)) of row n, entry j.
inline double log_probability(const Tensor& x, int64_t n, int64_t j, double t) {
  const int64_t v = x.dim(1);
  const double* row = x.data<double>() + n * v;
  double sum = 0;
  for (int64_t i = 0; i < v; ++i) sum += std::exp((row[i] - row[j]) / t);
  return -std::log(sum);
}

inline Tensor naive_cross_entropy(const Tensor& logits, const Tensor& target) {
  double sum = 0;
  for (int64_t n = 0; n < logits.dim(0); ++n) {
    const int32_t hit = target.data<int32_t>()[n];
    if (hit >= 0) sum -= log_probability(logits, n, hit, 1);
  }
  return make({1}, [&](int64_t) { return sum / static_cast<double>(logits.dim(0)); });
}

// Mean T^2 KL(teacher || student) of logits.
inline Tensor naive_distill(const Tensor& student, const Tensor& teacher, double t) {
  double sum = 0;
  for (int64_t n = 0; n < student.dim(0); ++n) {
    for (int64_t j = 0; j < student.dim(1); ++j) {
      const double taught = log_probability(teacher, n, j, t);
      sum += std::exp(taught) * (taught - log_probability(student, n, j, t));
    }
  }
  return make({1}, [&](int64_t) { return t * t * sum / static_cast<double>(student.dim(0)); });
}

// x (N, D), w (V, D) -> x w^T.
inline Tensor naive_head(const Tensor& x, const Tensor& w) {
  const int64_t n = x.dim(0), d = x.dim(1), v = w.dim(0);
  return make({n, v}, [&](int64_t i) {
    double sum = 0;
    for (int64_t k = 0; k < d; ++k) {
      sum += x.data<double>()[i / v * d + k] * w.data<double>()[i % v * d + k];
    }
    return sum;
  });
}

}  // namespace pyramoe::optest
