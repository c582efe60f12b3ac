// Conversion twins: one plain loop per pair of types.
#include "core/kernels/cast.h"

#include <cstring>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

template <class X, class Y>
Y convert(X x) {
  if constexpr (std::is_same_v<Y, BFloat16>) {
    return BFloat16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<X, BFloat16>) {
    return static_cast<Y>(static_cast<float>(x));
  } else {
    return static_cast<Y>(x);
  }
}

// Calls f with the C++ type of a dtype that can be converted.
template <class F>
void visit_number(DType type, F&& f) {
  switch (type) {
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    default:
      return visit_floating(type, f);
  }
}

}  // namespace

void cast(const Tensor& x, Tensor& y) {
  PM_CHECK(x.shape() == y.shape(), "cast: ", to_string(x.shape()), " into ", to_string(y.shape()));
  visit_number(x.dtype(), [&]<class X>() {
    visit_number(y.dtype(), [&]<class Y>() {
      const X* px = x.data<X>();
      Y* py = y.data<Y>();
      parallel_for(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
        if constexpr (!std::is_integral_v<X> && !std::is_integral_v<Y> &&
                      std::is_same_v<Acc<X>, Acc<Y>>) {
          each_pack<Acc<Y>>(begin, end, [=](auto at) { store(py, at, load(px, at)); });
        } else {
          for (int64_t i = begin; i < end; ++i) py[i] = convert<X, Y>(px[i]);
        }
      });
    });
  });
}

}  // namespace pyramoe::kernels::cpu
