// Loss twins: a row of the vocabulary at a time. The softmax is never stored; one log-sum-exp a row
// is enough to make it again in the backward pass.
#include "core/kernels/loss.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// log(sum(exp(factor * row))).
template <class T>
Acc<T> log_sum_exp(const T* row, int64_t v, Acc<T> factor) {
  using A = Acc<T>;
  const A top = max_of(row, 0, v) * factor;
  const A sum = sum_packs<A>(
      0, v, [=](auto at) { return masked<A>(exp_pack(load(row, at) * factor - top), at); });
  return top + std::log(sum);
}

void check_targets(const Tensor& target, int64_t rows, int64_t v) {
  PM_CHECK(target.numel() == rows, "cross_entropy: ", rows, " rows of logits, ", target.numel(),
           " targets");
  const int32_t* t = target.data<int32_t>();
  for (int64_t n = 0; n < rows; ++n) {
    if (t[n] < v) continue;
    fail(Exit::data, "cross_entropy: target ", t[n], " at place ", n, " is outside the ", v,
         " entries of the vocabulary: the text was tokenized with another vocabulary");
  }
}

}  // namespace

void cross_entropy_forward(const Tensor& logits, const Tensor& target, Tensor& loss, Tensor& lse) {
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  check_targets(target, rows, v);
  visit_floating(logits.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* x = logits.data<T>();
    const int32_t* t = target.data<int32_t>();
    A *out = loss.data<A>(), *kept = lse.data<A>();
    parallel_for(rows, rows_grain(v), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = x + n * v;
        kept[n] = log_sum_exp<T>(row, v, 1);
        out[n] = t[n] < 0 ? A{0} : kept[n] - static_cast<A>(row[t[n]]);
      }
    });
  });
}

void cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& target,
                            const Tensor& lse, int64_t tokens, Tensor& dlogits) {
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  visit_floating(logits.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const auto g = static_cast<A>(dloss.item() / static_cast<double>(tokens));
    const T* x = logits.data<T>();
    const int32_t* t = target.data<int32_t>();
    const A* kept = lse.data<A>();
    T* dx = dlogits.data<T>();
    parallel_for(rows, rows_grain(v), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = x + n * v;
        T* out = dx + n * v;
        if (t[n] < 0) {
          std::fill(out, out + v, T{});
          continue;
        }
        const A norm = kept[n];
        const A hit = std::exp(static_cast<A>(row[t[n]]) - norm);  // before `out` covers it
        each_pack<A>(0, v, [=](auto at) { store(out, at, exp_pack(load(row, at) - norm) * g); });
        out[t[n]] = static_cast<T>((hit - 1) * g);
      }
    });
  });
}

void cross_entropy_in_place(const Tensor& target, int64_t tokens, Tensor& logits, Tensor& loss) {
  Tensor lse = empty_like(loss);
  cross_entropy_forward(logits, target, loss, lse);
  cross_entropy_backward(Tensor::scalar(1, loss.dtype()), logits, target, lse, tokens, logits);
}

void distill_forward(const Tensor& student, const Tensor& teacher, double temperature, Tensor& loss,
                     Tensor& student_lse, Tensor& teacher_lse) {
  PM_CHECK(student.shape() == teacher.shape() && student.dtype() == teacher.dtype(),
           "distill: student logits ", to_string(student.shape()), ", teacher ",
           to_string(teacher.shape()));
  const int64_t rows = student.dim(0), v = student.dim(1);
  visit_floating(student.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const auto cold = static_cast<A>(1 / temperature);
    const T *s = student.data<T>(), *t = teacher.data<T>();
    A *out = loss.data<A>(), *slse = student_lse.data<A>(), *tlse = teacher_lse.data<A>();
    parallel_for(rows, rows_grain(v), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T *srow = s + n * v, *trow = t + n * v;
        const A ls = slse[n] = log_sum_exp<T>(srow, v, cold);
        const A lt = tlse[n] = log_sum_exp<T>(trow, v, cold);
        const A gap = sum_packs<A>(0, v, [=](auto at) {
          const Pack<A> a = load(trow, at) * cold, b = load(srow, at) * cold;
          return masked<A>(exp_pack(a - lt) * ((a - lt) - (b - ls)), at);
        });
        out[n] = gap / (cold * cold);
      }
    });
  });
}

void distill_backward(const Tensor& dloss, const Tensor& student, const Tensor& teacher,
                      double temperature, const Tensor& student_lse, const Tensor& teacher_lse,
                      Tensor& dstudent) {
  const int64_t rows = student.dim(0), v = student.dim(1);
  visit_floating(student.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const auto cold = static_cast<A>(1 / temperature);
    const auto g =
        static_cast<A>(rows ? dloss.item() / static_cast<double>(rows) * temperature : 0);
    const T *s = student.data<T>(), *t = teacher.data<T>();
    const A *slse = student_lse.data<A>(), *tlse = teacher_lse.data<A>();
    T* ds = dstudent.data<T>();
    parallel_for(rows, rows_grain(v), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T *srow = s + n * v, *trow = t + n * v;
        T* out = ds + n * v;
        const A ls = slse[n], lt = tlse[n];
        each_pack<A>(0, v, [=](auto at) {
          store(out, at,
                (exp_pack(load(srow, at) * cold - ls) - exp_pack(load(trow, at) * cold - lt)) * g);
        });
      }
    });
  });
}

void distill_in_place(const Tensor& target, const Tensor& teacher, double temperature,
                      const Tensor& weight, int64_t tokens, Tensor& logits, Tensor& loss,
                      Tensor& distill) {
  Tensor lse = empty_like(loss), student_lse = empty_like(loss), teacher_lse = empty_like(loss);
  cross_entropy_forward(logits, target, loss, lse);
  distill_forward(logits, teacher, temperature, distill, student_lse, teacher_lse);
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  const double* share = weight.data<double>();
  visit_floating(logits.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const auto cold = static_cast<A>(1 / temperature);
    const auto g = static_cast<A>(share[0] / static_cast<double>(tokens));
    const auto gk = static_cast<A>(share[1] / static_cast<double>(tokens) * temperature);
    const T* t = teacher.data<T>();
    const int32_t* hits = target.data<int32_t>();
    const A *kept = lse.data<A>(), *slse = student_lse.data<A>(), *tlse = teacher_lse.data<A>();
    T* s = logits.data<T>();
    parallel_for(rows, rows_grain(v), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        T* srow = s + n * v;
        const T* trow = t + n * v;
        const A l = kept[n], ls = slse[n], lt = tlse[n];
        const auto pulled = [=](auto at) {  // by the teacher
          return (exp_pack(load(srow, at) * cold - ls) - exp_pack(load(trow, at) * cold - lt)) * gk;
        };
        if (hits[n] < 0) {
          each_pack<A>(0, v, [=](auto at) { store(srow, at, pulled(at)); });
          continue;
        }
        // The target's entry on its own: e^x - 1 is rounded once, after both losses are added.
        const int64_t hit = hits[n];
        const A x = static_cast<A>(srow[hit]), y = static_cast<A>(trow[hit]);
        const A there =
            (std::exp(x - l) - 1) * g + (std::exp(x * cold - ls) - std::exp(y * cold - lt)) * gk;
        each_pack<A>(
            0, v, [=](auto at) { store(srow, at, exp_pack(load(srow, at) - l) * g + pulled(at)); });
        srow[hit] = static_cast<T>(there);
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
