// Element-wise twins: flat ranges cut into fixed pieces, one pack at a time. They are bound by
// memory, so each reads and writes every byte once.
#include "core/kernels/elementwise.h"

#include <algorithm>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

void check_same(const char* name, const Tensor& x, const Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), name,
           ": expected one shape and dtype,", " got ", to_string(x.shape()), " ",
           to_string(x.dtype()), " and ", to_string(y.shape()), " ", to_string(y.dtype()));
}

// f(at) on all packs of n elements, over all threads.
template <class A, class F>
void for_all(int64_t n, const F& f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) { each_pack<A>(begin, end, f); });
}

template <class T>
void fill_typed(double value, Tensor& y) {
  T v;
  if constexpr (std::is_same_v<T, BFloat16>) {
    v = BFloat16(static_cast<float>(value));
  } else {
    v = static_cast<T>(value);
  }
  T* out = y.data<T>();
  parallel_for(y.numel(), kGrain,
               [&](int64_t begin, int64_t end) { std::fill(out + begin, out + end, v); });
}

}  // namespace

void fill(double value, Tensor& y) {
  switch (y.dtype()) {
    case DType::i64:
      return fill_typed<int64_t>(value, y);
    case DType::i32:
      return fill_typed<int32_t>(value, y);
    case DType::u8:
      return fill_typed<uint8_t>(value, y);
    default:
      visit_floating(y.dtype(), [&]<class T>() { fill_typed<T>(value, y); });
  }
}

void add(const Tensor& a, const Tensor& b, Tensor& y) {
  check_same("add", a, b);
  check_same("add", a, y);
  visit_floating(y.dtype(), [&]<class T>() {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    for_all<Acc<T>>(y.numel(), [=](auto at) { store(py, at, load(pa, at) + load(pb, at)); });
  });
}

void accumulate(const Tensor& x, Tensor& y) {
  PM_CHECK(x.shape() == y.shape(), "accumulate: ", to_string(x.shape()), " into ",
           to_string(y.shape()));
  if (x.dtype() == y.dtype()) return add(x, y, y);
  visit_floating(x.dtype(), [&]<class X>() {
    visit_floating(y.dtype(), [&]<class Y>() {
      const X* px = x.data<X>();
      Y* py = y.data<Y>();
      if constexpr (std::is_same_v<Acc<X>, Acc<Y>>) {
        for_all<Acc<Y>>(y.numel(), [=](auto at) { store(py, at, load(py, at) + load(px, at)); });
      } else {
        parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const double sum = static_cast<double>(py[i]) + static_cast<double>(px[i]);
            py[i] = static_cast<Y>(static_cast<Acc<Y>>(sum));
          }
        });
      }
    });
  });
}

void multiply(const Tensor& a, const Tensor& b, Tensor& y) {
  check_same("multiply", a, b);
  check_same("multiply", a, y);
  visit_floating(y.dtype(), [&]<class T>() {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    for_all<Acc<T>>(y.numel(), [=](auto at) { store(py, at, load(pa, at) * load(pb, at)); });
  });
}

void scale(const Tensor& x, double factor, Tensor& y) {
  check_same("scale", x, y);
  visit_floating(y.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    const auto f = static_cast<Acc<T>>(factor);
    for_all<Acc<T>>(y.numel(), [=](auto at) { store(py, at, load(px, at) * f); });
  });
}

void scale_by(const Tensor& x, const Tensor& factor, Tensor& y) {
  PM_CHECK(factor.numel() == 1, "scale_by: the factor has shape ", to_string(factor.shape()),
           ", expected one element");
  scale(x, factor.item(), y);
}

void add_scaled(const Tensor& x, const Tensor& factor, bool add, Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && factor.numel() == 1, "add_scaled: ", to_string(x.shape()),
           " times a factor ", to_string(factor.shape()), " into ", to_string(y.shape()));
  const double f = factor.item();
  visit_floating(x.dtype(), [&]<class X>() {
    visit_floating(y.dtype(), [&]<class Y>() {
      using A = std::conditional_t<std::is_same_v<Acc<X>, double>, double, Acc<Y>>;
      const X* px = x.data<X>();
      Y* py = y.data<Y>();
      const auto by = static_cast<A>(f);
      parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const A term = static_cast<A>(px[i]) * by;
          py[i] = static_cast<Y>(static_cast<Acc<Y>>(add ? static_cast<A>(py[i]) + term : term));
        }
      });
    });
  });
}

void gelu_forward(const Tensor& x, Tensor& y) {
  check_same("gelu_forward", x, y);
  visit_floating(y.dtype(), [&]<class T>() {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    for_all<Acc<T>>(y.numel(), [=](auto at) { store(py, at, Gelu<Acc<T>>::value(load(px, at))); });
  });
}

void gelu_backward(const Tensor& dy, const Tensor& x, Tensor& dx) {
  check_same("gelu_backward", dy, x);
  check_same("gelu_backward", x, dx);
  visit_floating(x.dtype(), [&]<class T>() {
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    T* pdx = dx.data<T>();
    for_all<Acc<T>>(x.numel(), [=](auto at) {
      store(pdx, at, load(pdy, at) * Gelu<Acc<T>>::slope(load(px, at)));
    });
  });
}

}  // namespace pyramoe::kernels::cpu
