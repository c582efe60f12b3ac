// Conversion twins. f32 and bf16 to each other go through the flat map, 16 bytes at a time; the
// rest (ids, scalars) are small and take a plain loop.
#include "core/kernels/cast.h"

#include "cuda/map.cuh"

namespace pyramoe::kernels::cuda {
namespace {

struct Same {
  __device__ float operator()(float x) const { return x; }
};

// As C++ converts; to and from bf16 by way of float.
template <class Y, class X>
__device__ Y convert(X x) {
  if constexpr (std::is_same_v<X, gpu::Bf16>) {
    return convert<Y>(__bfloat162float(x));
  } else if constexpr (std::is_same_v<Y, gpu::Bf16>) {
    return __float2bfloat16_rn(static_cast<float>(x));
  } else {
    return static_cast<Y>(x);
  }
}

template <class X, class Y>
__global__ void __launch_bounds__(256) convert_kernel(int64_t n, const X* x, Y* y) {
  const int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (i < n) y[i] = convert<Y>(x[i]);
}

template <class F>
void visit_number(DType type, F&& f) {
  switch (type) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<gpu::Bf16>();
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    case DType::u8:
      fail(Exit::bug, "cast: u8 holds raw bytes; expected f64, f32, bf16, i32 or i64");
  }
}

template <class T>
inline constexpr bool kWide = std::is_same_v<T, float> || std::is_same_v<T, gpu::Bf16>;

}  // namespace

void cast(const Tensor& x, Tensor& y) {
  PM_CHECK(x.shape() == y.shape(), "cast: ", to_string(x.shape()), " into ", to_string(y.shape()));
  const int64_t n = x.numel();
  if (n == 0) return;
  visit_number(x.dtype(), [&]<class X>() {
    visit_number(y.dtype(), [&]<class Y>() {
      if constexpr (kWide<X> && kWide<Y>) {
        gpu::map(n, Same{}, gpu::data<Y>(y), gpu::data<const X>(x));
      } else {
        convert_kernel<<<gpu::grid(n, 256), 256, 0, gpu::stream()>>>(n, gpu::data<const X>(x),
                                                                     gpu::data<Y>(y));
        PM_LAUNCHED();
      }
    });
  });
}

}  // namespace pyramoe::kernels::cuda
