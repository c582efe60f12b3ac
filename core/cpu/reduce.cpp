// Sums. A flat sum is cut into blocks of kGrain elements, a sum over rows into blocks of 64 rows;
// blocks are added in order in one thread. The cut follows from the shape alone.
#include "core/kernels/reduce.h"

#include <vector>

#include "core/cpu/pack.h"
#include "core/cpu/row_sums.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// Sum of f(begin, end) over fixed blocks of n elements, in double and in order.
template <class F>
double sum_blocks(int64_t n, const F& f) {
  std::vector<double> part(static_cast<size_t>((n + kGrain - 1) / kGrain));
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    part[static_cast<size_t>(begin / kGrain)] = f(begin, end);
  });
  double sum = 0;
  for (double p : part) sum += p;
  return sum;
}

void set_scalar(const char* name, double value, Tensor& y) {
  PM_CHECK(y.numel() == 1, name, ": the result has shape ", to_string(y.shape()),
           ", expected one element");
  if (y.dtype() == DType::f64) {
    *y.data<double>() = value;
  } else {
    *y.data<float>() = static_cast<float>(value);
  }
}

}  // namespace

void sum_all(const Tensor& x, Tensor& y) {
  visit_floating(x.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    const double sum = sum_blocks(x.numel(), [=](int64_t begin, int64_t end) -> double {
      return sum_packs<Acc<T>>(begin, end, [=](auto at) { return load(px, at); });
    });
    set_scalar("sum_all", sum, y);
  });
}

void sum_rows(const Tensor& x, bool accumulate, Tensor& y) {
  const int64_t d = y.numel();
  PM_CHECK(x.rank() == 2 && x.dim(1) == d, "sum_rows: x is ", to_string(x.shape()), ", y has ", d,
           " columns");
  visit_floating(x.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    sum_over_rows<Acc<T>>(
        x.dim(0), d, accumulate, {&y}, [=](int64_t begin, int64_t end, Acc<T>* part) {
          for (int64_t row = begin; row < end; ++row) {
            const T* r = px + row * d;
            each_pack<Acc<T>>(0, d,
                              [=](auto at) { store(part, at, load(part, at) + load(r, at)); });
          }
        });
  });
}

void sum_squares(const Tensor& x, Tensor& y) {
  visit_floating(x.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    const double sum = sum_blocks(x.numel(), [=](int64_t begin, int64_t end) {
      double lane[8] = {};
      int64_t i = begin;
      for (; i + 8 <= end; i += 8) {
        for (int j = 0; j < 8; ++j) {
          const auto v = static_cast<double>(px[i + j]);
          lane[j] += v * v;
        }
      }
      for (; i < end; ++i) lane[0] += static_cast<double>(px[i]) * static_cast<double>(px[i]);
      return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
             ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    });
    set_scalar("sum_squares", sum, y);
  });
}

void weighted_sum(std::span<const Tensor> terms, const Tensor& weight, Tensor& y) {
  PM_CHECK(weight.numel() == static_cast<int64_t>(terms.size()), "weighted_sum: ", terms.size(),
           " terms, ", weight.numel(), " weights");
  const double* w = weight.data<double>();
  double sum = 0;
  for (size_t i = 0; i < terms.size(); ++i) sum += w[i] * terms[i].item();
  set_scalar("weighted_sum", sum, y);
}

}  // namespace pyramoe::kernels::cpu
