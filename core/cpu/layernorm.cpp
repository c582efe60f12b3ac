// Layer norm twins: a row at a time, in two passes over a row that stays in cache. Weights and
// biases may be kept wider than the activations: they are read in the sums' type.
#include "core/kernels/layernorm.h"

#include "core/cpu/pack.h"
#include "core/cpu/row_sums.h"
#include "core/kernels/elementwise.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {

void layernorm_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                       Tensor& y, Tensor& mean, Tensor& rstd) {
  if (x.numel() == 0) return;
  const int64_t d = x.dim(-1);
  PM_CHECK(weight.numel() == d && bias.numel() == d, "layernorm: rows of ", d, ", weight has ",
           weight.numel(), ", bias ", bias.numel());
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Tensor wide_weight = weight.to(DTypeOf<A>::value), wide_bias = bias.to(DTypeOf<A>::value);
    const A *w = wide_weight.data<A>(), *b = wide_bias.data<A>();
    const T* px = x.data<T>();
    T* py = y.data<T>();
    A *pm = mean.data<A>(), *pr = rstd.data<A>();
    parallel_for(x.numel() / d, rows_grain(d), [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* row = px + n * d;
        T* out = py + n * d;
        const A m = sum_packs<A>(0, d, [=](auto at) { return load(row, at); }) / static_cast<A>(d);
        const A squares = sum_packs<A>(0, d, [=](auto at) {
          const Pack<A> c = load(row, at) - m;
          return masked<A>(c * c, at);
        });
        const A r = A{1} / std::sqrt(squares / static_cast<A>(d) + static_cast<A>(eps));
        pm[n] = m;
        pr[n] = r;
        each_pack<A>(0, d, [=](auto at) {
          store(out, at, (load(row, at) - m) * r * load(w, at) + load(b, at));
        });
      }
    });
  });
}

// With h = (x - mean) rstd and g = dy * weight:  dx = rstd (g - mean(g) - h mean(g h)).
void layernorm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
                        const Tensor& rstd, bool accumulate, Tensor& dx, Tensor& dweight,
                        Tensor& dbias) {
  const int64_t d = x.dim(-1);
  const int64_t rows = d ? x.numel() / d : 0;
  visit_floating(x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Tensor wide_weight = weight.to(DTypeOf<A>::value);
    const A *w = wide_weight.data<A>(), *pm = mean.data<A>(), *pr = rstd.data<A>();
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    T* pdx = dx.defined() ? dx.data<T>() : nullptr;
    const bool parameters = dweight.defined() || dbias.defined();
    const auto block = [=](int64_t begin, int64_t end, A* part) {
      for (int64_t n = begin; n < end; ++n) {
        const T *g = pdy + n * d, *row = px + n * d;
        const A m = pm[n], r = pr[n];
        if (pdx) {
          const A c1 = sum_packs<A>(0, d, [=](auto at) { return load(g, at) * load(w, at); }) /
                       static_cast<A>(d);
          const A c2 =
              sum_packs<A>(
                  0, d, [=](auto at) { return load(g, at) * load(w, at) * (load(row, at) - m); }) *
              r / static_cast<A>(d);
          T* out = pdx + n * d;
          each_pack<A>(0, d, [=](auto at) {
            const Pack<A> h = (load(row, at) - m) * r;
            store(out, at, (load(g, at) * load(w, at) - c1 - h * c2) * r);
          });
        }
        if (part) {
          each_pack<A>(0, d, [=](auto at) {
            const Pack<A> gy = load(g, at);
            store(part, at, load(part, at) + gy * ((load(row, at) - m) * r));
            store(part + d, at, load(part + d, at) + gy);
          });
        }
      }
    };
    if (parameters) {
      sum_over_rows<A>(rows, d, accumulate, {&dweight, &dbias}, block);
    } else {
      parallel_for(rows, rows_grain(d),
                   [=](int64_t begin, int64_t end) { block(begin, end, nullptr); });
    }
  });
}

void add_layernorm_forward(const Tensor& x, const Tensor& residual, const Tensor& weight,
                           const Tensor& bias, double eps, Tensor& h, Tensor& y, Tensor& mean,
                           Tensor& rstd) {
  add(x, residual, h);
  layernorm_forward(h, weight, bias, eps, y, mean, rstd);
}

void add_layernorm_backward(const Tensor& dy, const Tensor& dh, const Tensor& h,
                            const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                            bool accumulate, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  layernorm_backward(dy, h, weight, mean, rstd, accumulate, dx, dweight, dbias);
  if (dx.defined()) add(dx, dh, dx);
}

}  // namespace pyramoe::kernels::cpu
