// CPU twins of core/kernels/step.h.
#include "core/kernels/step.h"

#include <algorithm>
#include <cmath>

namespace pyramoe::kernels::cpu {

void add_to_totals(std::span<const Tensor> terms, Tensor& totals) {
  int64_t next = 0;
  for (const Tensor& term : terms) next += term.numel();
  PM_CHECK(next == totals.numel(), "add_to_totals: ", next, " elements for ", totals.numel(),
           " totals");
  double* total = totals.data<double>();
  const auto add = [&]<class T>(const Tensor& term) {
    for (const T x : term.span<T>()) *total++ += static_cast<double>(x);
  };
  for (const Tensor& term : terms) {
    if (term.dtype() == DType::i32) {
      add.template operator()<int32_t>(term);
    } else {
      visit_floating(term.dtype(), [&]<class T>() { add.template operator()<T>(term); });
    }
  }
}

void guard_step(const Tensor& squares, const Tensor& loss, double most, Tensor& scalars) {
  double sum = 0;
  for (const double x : squares.span<double>()) sum += x;
  const double norm = std::sqrt(sum);
  double* s = scalars.data<double>();
  s[3] = most > 0 ? std::min(1.0, most / (norm + 1e-6)) : 1.0;
  s[4] = std::isfinite(norm) && std::isfinite(loss.data<double>()[0]) ? 0 : 1;
  s[5] = norm;
}

}  // namespace pyramoe::kernels::cpu
