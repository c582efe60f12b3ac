// Twins of scores, choices and their weights. E is small, so rows are walked plainly; work is cut
// into runs of whole rows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu/pack.h"
#include "core/kernels/moe.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// f(n) for every row of a (N, width) tensor.
template <class F>
void each_row(int64_t rows, int64_t width, const F& f) {
  parallel_for(rows, rows_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) f(n);
  });
}

// max(sum, eps), but NaN stays NaN.
template <class A>
A at_least_eps(A sum) {
  constexpr A eps = std::numeric_limits<A>::epsilon();
  return sum <= eps ? eps : sum;
}

constexpr int64_t kFewChoices = 8;

// The k best of one row, kept sorted while walking: cheap for the usual k of 1 or 2.
template <class A>
void insert_best(const A* score, int64_t experts, int64_t k, int32_t* best) {
  A top[kFewChoices];
  for (int64_t e = 0; e < experts; ++e) {
    const A s = score[e];
    if (e >= k && !(s > top[k - 1])) continue;
    int64_t place = std::min(e, k - 1);
    for (; place > 0 && s > top[place - 1]; --place) {
      top[place] = top[place - 1];
      best[place] = best[place - 1];
    }
    top[place] = s;
    best[place] = static_cast<int32_t>(e);
  }
}

template <class A>
void sort_best(const A* score, int64_t experts, int64_t k, int32_t* best) {
  std::vector<int32_t> order(static_cast<size_t>(experts));
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [score](int32_t a, int32_t b) {
    return score[a] > score[b] || (score[a] == score[b] && a < b);
  });
  std::copy_n(order.begin(), k, best);
}

template <class A>
bool any_nan(const A* x, int64_t n) {
  int found = 0;  // a plain count: the loop becomes vector code
  for (int64_t i = 0; i < n; ++i) found |= x[i] != x[i];
  return found != 0;
}

}  // namespace

void sigmoid_rows_forward(const Tensor& x, Tensor& y) {
  const int64_t d = x.dim(-1);
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    each_row(x.dim(0), d, [=](int64_t n) {
      const T* row = px + n * d;
      each_pack<A>(
          0, d, [=](auto at) { store(py + n * d, at, A{1} / (A{1} + exp_pack(-load(row, at)))); });
      bool nan = false;
      for (int64_t e = 0; e < d; ++e) nan |= std::isnan(static_cast<A>(row[e]));
      if (nan) std::fill(py + n * d, py + (n + 1) * d, T(std::numeric_limits<A>::quiet_NaN()));
    });
  });
}

void sigmoid_rows_backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  visit_floating(y.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pdy = dy.data<T>(), *py = y.data<T>();
    T* pdx = dx.data<T>();
    each_row(y.numel(), 1, [=](int64_t i) {
      const A v = static_cast<A>(py[i]);
      pdx[i] = static_cast<T>(static_cast<A>(pdy[i]) * v * (A{1} - v));
    });
  });
}

void normalize_rows_forward(const Tensor& x, Tensor& y) {
  const int64_t d = x.dim(-1);
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    each_row(x.dim(0), d, [=](int64_t n) {
      const T* row = px + n * d;
      const A sum = at_least_eps(sum_packs<A>(0, d, [=](auto at) { return load(row, at); }));
      each_pack<A>(0, d, [=](auto at) { store(py + n * d, at, load(row, at) / sum); });
    });
  });
}

void normalize_rows_backward(const Tensor& dy, const Tensor& x, const Tensor& y, Tensor& dx) {
  const int64_t d = x.dim(-1);
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *py = y.data<T>();
    T* pdx = dx.data<T>();
    each_row(x.dim(0), d, [=](int64_t n) {
      const T *g = pdy + n * d, *in = px + n * d, *out = py + n * d;
      const A sum = sum_packs<A>(0, d, [=](auto at) { return load(in, at); });
      const A divisor = at_least_eps(sum);
      // Where the sum was clamped it is a constant and pulls on nobody.
      const A pull = divisor != sum && sum == sum
                         ? A{0}
                         : sum_packs<A>(0, d, [=](auto at) { return load(g, at) * load(out, at); });
      each_pack<A>(0, d, [=](auto at) { store(pdx + n * d, at, (load(g, at) - pull) / divisor); });
    });
  });
}

void top_k(const Tensor& score, const Tensor& bias, Tensor& expert) {
  const int64_t experts = score.dim(1), k = expert.dim(1);
  PM_CHECK(k >= 1 && k <= experts, "top_k: ", k, " choices among ", experts, " experts");
  PM_CHECK(!bias.defined() || bias.dtype() == score.dtype(), "top_k: the bias is ",
           to_string(bias.dtype()), ", the scores are ", to_string(score.dtype()));
  visit_floating(score.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* ps = score.data<T>();
    const T* pb = bias.defined() ? bias.data<T>() : nullptr;
    int32_t* pe = expert.data<int32_t>();
    parallel_for(score.dim(0), rows_grain(experts), [=](int64_t begin, int64_t end) {
      std::vector<A> steered(static_cast<size_t>(experts));
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t e = 0; e < experts; ++e) {
          steered[static_cast<size_t>(e)] =
              static_cast<A>(ps[n * experts + e]) + (pb ? static_cast<A>(pb[e]) : A{0});
        }
        int32_t* best = pe + n * k;
        if (any_nan(steered.data(), experts)) {
          for (int64_t j = 0; j < k; ++j) best[j] = static_cast<int32_t>(j);
        } else if (k <= kFewChoices) {
          insert_best(steered.data(), experts, k, best);
        } else {
          sort_best(steered.data(), experts, k, best);
        }
      }
    });
  });
}

void round_robin(int64_t first_row, int64_t experts, Tensor& expert) {
  const int64_t first = first_row % experts * expert.dim(1);
  int32_t* pe = expert.data<int32_t>();
  for (int64_t i = 0; i < expert.numel(); ++i) pe[i] = static_cast<int32_t>((first + i) % experts);
}

void take_forward(const Tensor& score, const Tensor& expert, Tensor& weight) {
  const int64_t experts = score.dim(1), k = expert.dim(1);
  const int32_t* pe = expert.data<int32_t>();
  visit_floating(score.dtype(), [&]<class T>() {
    const T* ps = score.data<T>();
    T* pw = weight.data<T>();
    each_row(expert.dim(0), k, [=](int64_t n) {
      for (int64_t j = n * k; j < (n + 1) * k; ++j) pw[j] = ps[n * experts + pe[j]];
    });
  });
}

void take_backward(const Tensor& dweight, const Tensor& expert, Tensor& dscore) {
  const int64_t experts = dscore.dim(1), k = expert.dim(1);
  const int32_t* pe = expert.data<int32_t>();
  visit_floating(dscore.dtype(), [&]<class T>() {
    const T* pdw = dweight.data<T>();
    T* pds = dscore.data<T>();
    each_row(expert.dim(0), experts, [=](int64_t n) {
      std::fill(pds + n * experts, pds + (n + 1) * experts, T{});
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        T& sum = pds[n * experts + pe[j]];
        sum = static_cast<T>(static_cast<Acc<T>>(sum) + static_cast<Acc<T>>(pdw[j]));
      }
    });
  });
}

void keep_weights_forward(const Tensor& weight, const Tensor& row, bool renormalize, Tensor& kept) {
  const int64_t k = weight.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(weight.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* pw = weight.data<T>();
    T* py = kept.data<T>();
    each_row(weight.dim(0), k, [=](int64_t n) {
      A sum = 0;
      for (int64_t j = n * k; j < (n + 1) * k; ++j) sum += pr[j] < 0 ? A{0} : static_cast<A>(pw[j]);
      const A divisor = renormalize ? at_least_eps(sum) : A{1};
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        py[j] = pr[j] < 0 ? T{} : static_cast<T>(static_cast<A>(pw[j]) / divisor);
      }
    });
  });
}

void keep_weights_backward(const Tensor& dkept, const Tensor& weight, const Tensor& row,
                           bool renormalize, Tensor& dweight) {
  const int64_t k = weight.dim(1);
  const int32_t* pr = row.data<int32_t>();
  visit_floating(weight.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pg = dkept.data<T>(), *pw = weight.data<T>();
    T* pd = dweight.data<T>();
    each_row(weight.dim(0), k, [=](int64_t n) {
      A sum = 0, dot = 0;
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        if (pr[j] < 0) continue;
        sum += static_cast<A>(pw[j]);
        dot += static_cast<A>(pg[j]) * static_cast<A>(pw[j]);
      }
      const A divisor = renormalize ? at_least_eps(sum) : A{1};
      const bool clamped = sum <= std::numeric_limits<A>::epsilon();
      const A pull = renormalize && !clamped ? dot / divisor : A{0};
      for (int64_t j = n * k; j < (n + 1) * k; ++j) {
        pd[j] = pr[j] < 0 ? T{} : static_cast<T>((static_cast<A>(pg[j]) - pull) / divisor);
      }
    });
  });
}

void balance_bias_step(const Tensor& load, double rate, Tensor& bias) {
  const int64_t experts = bias.dim(0);
  PM_CHECK(load.numel() == experts, "balance_bias_step: load of ", load.numel(),
           " experts, bias of ", experts);
  const int64_t* pl = load.data<int64_t>();
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) total += pl[e];
  visit_floating(bias.dtype(), [&]<class T>() {
    using A = Acc<T>;
    T* pb = bias.data<T>();
    for (int64_t e = 0; e < experts; ++e) {
      // Whole numbers: an expert at the mean stays where it is, exactly.
      const int64_t short_by = total - pl[e] * experts;
      const double step = short_by > 0 ? rate : short_by < 0 ? -rate : 0.0;
      pb[e] = static_cast<T>(static_cast<A>(pb[e]) + static_cast<A>(step));
    }
  });
}

}  // namespace pyramoe::kernels::cpu
