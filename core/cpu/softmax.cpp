// Softmax twins: a row at a time, its largest element subtracted first.
#include "core/kernels/softmax.h"

#include <algorithm>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {

void softmax_forward(const Tensor& x, Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t d = x.dim(-1);
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_for(x.numel() / d, rows_grain(d), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = px + n * d;
        T* out = py + n * d;
        const A top = max_of(row, 0, d);
        A sum = 0;
        if constexpr (std::is_same_v<T, A>) {
          each_pack<A>(0, d, [=](auto at) { store(out, at, exp_pack(load(row, at) - top)); });
          sum = sum_packs<A>(0, d, [=](auto at) { return load(out, at); });
          each_pack<A>(0, d, [=](auto at) { store(out, at, load(out, at) * (A{1} / sum)); });
        } else {  // bf16: rounded once, so e^x is computed twice
          for (int64_t i = 0; i < d; i += kLanes<A>) {
            const Part at{i, std::min(kLanes<A>, d - i)};
            const Pack<A> e = exp_pack(load(row, at) - top);
            for (int64_t j = 0; j < at.count; ++j) sum += e[j];
          }
          each_pack<A>(
              0, d, [=](auto at) { store(out, at, exp_pack(load(row, at) - top) * (A{1} / sum)); });
        }
      }
    });
  });
}

void softmax_backward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  if (y.numel() == 0) return;
  const int64_t d = y.dim(-1);
  visit_floating(y.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *pdy = dy.data<T>(), *py = y.data<T>();
    T* pdx = dx.data<T>();
    parallel_for(y.numel() / d, rows_grain(d), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T *g = pdy + n * d, *row = py + n * d;
        T* out = pdx + n * d;
        const A dot = sum_packs<A>(0, d, [=](auto at) { return load(g, at) * load(row, at); });
        each_pack<A>(0, d, [=](auto at) { store(out, at, load(row, at) * (load(g, at) - dot)); });
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
