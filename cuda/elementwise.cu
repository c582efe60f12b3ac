// Element-wise twins: each is one call of a flat map (cuda/map.cuh), bound by memory.
#include "core/kernels/elementwise.h"

#include "cuda/gelu.cuh"
#include "cuda/map.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::data;
using gpu::visit_floating;

void check_same(const char* name, const Tensor& x, const Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), name,
           ": expected one shape and dtype,", " got ", to_string(x.shape()), " ",
           to_string(x.dtype()), " and ", to_string(y.shape()), " ", to_string(y.dtype()));
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Multiply {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct Scale {
  float factor;
  __device__ float operator()(float x) const { return x * factor; }
};
struct ScaleBy {
  gpu::Scalar where;
  float factor = 0;
  __device__ void start() { factor = static_cast<float>(where.get()); }
  __device__ float operator()(float x) const { return x * factor; }
};
struct AddScaled : ScaleBy {
  __device__ float operator()(float x, float y) const { return y + x * factor; }
};
template <class T>
struct GeluValue {
  __device__ float operator()(float x) const { return gpu::Gelu<T>::value(x); }
};
template <class T>
struct GeluSlope {
  __device__ float operator()(float dy, float x) const { return dy * gpu::Gelu<T>::slope(x); }
};

// The same bits `count` times, W wide; whole 16-byte stores where y is aligned.
template <class W>
__global__ void __launch_bounds__(256) fill_kernel(int64_t count, W word, W* y) {
  const int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (i < count) y[i] = word;
}

template <class T>
void fill_typed(T value, Tensor& y) {
  const int64_t n = y.numel();
  if (n == 0) return;
  constexpr int64_t kPack = 16 / static_cast<int64_t>(sizeof(T));
  using Wide = gpu::Vec<T, kPack>;
  T* out = data<T>(y);
  const int64_t packs = gpu::aligned16(out) ? n / kPack : 0, rest = n - packs * kPack;
  if (packs > 0) {
    Wide wide;
    for (T& v : wide.v) v = value;
    fill_kernel<<<gpu::grid(packs, 256), 256, 0, gpu::stream()>>>(packs, wide,
                                                                  reinterpret_cast<Wide*>(out));
    PM_LAUNCHED();
  }
  if (rest > 0) {
    fill_kernel<<<gpu::grid(rest, 256), 256, 0, gpu::stream()>>>(rest, value, out + packs * kPack);
    PM_LAUNCHED();
  }
}

}  // namespace

void fill(double value, Tensor& y) {
  switch (y.dtype()) {
    case DType::f64:
      return fill_typed<double>(value, y);
    case DType::f32:
      return fill_typed<float>(static_cast<float>(value), y);
    case DType::bf16:
      return fill_typed<uint16_t>(BFloat16(static_cast<float>(value)).bits, y);
    case DType::i64:
      return fill_typed<int64_t>(static_cast<int64_t>(value), y);
    case DType::i32:
      return fill_typed<int32_t>(static_cast<int32_t>(value), y);
    case DType::u8:
      return fill_typed<uint8_t>(static_cast<uint8_t>(value), y);
  }
}

void add(const Tensor& a, const Tensor& b, Tensor& y) {
  check_same("add", a, b);
  check_same("add", a, y);
  visit_floating(y.dtype(), "add", [&]<class T>() {
    gpu::map(y.numel(), Add{}, data<T>(y), data<const T>(a), data<const T>(b));
  });
}

void accumulate(const Tensor& x, Tensor& y) {
  PM_CHECK(x.shape() == y.shape(), "accumulate: ", to_string(x.shape()), " into ",
           to_string(y.shape()));
  visit_floating(x.dtype(), "accumulate", [&]<class X>() {
    visit_floating(y.dtype(), "accumulate", [&]<class Y>() {
      gpu::map(y.numel(), Add{}, data<Y>(y), data<const Y>(y), data<const X>(x));
    });
  });
}

void multiply(const Tensor& a, const Tensor& b, Tensor& y) {
  check_same("multiply", a, b);
  check_same("multiply", a, y);
  visit_floating(y.dtype(), "multiply", [&]<class T>() {
    gpu::map(y.numel(), Multiply{}, data<T>(y), data<const T>(a), data<const T>(b));
  });
}

void scale(const Tensor& x, double factor, Tensor& y) {
  check_same("scale", x, y);
  visit_floating(y.dtype(), "scale", [&]<class T>() {
    gpu::map(y.numel(), Scale{static_cast<float>(factor)}, data<T>(y), data<const T>(x));
  });
}

void scale_by(const Tensor& x, const Tensor& factor, Tensor& y) {
  check_same("scale_by", x, y);
  PM_CHECK(factor.numel() == 1 && is_floating(factor.dtype()), "scale_by: the factor has shape ",
           to_string(factor.shape()), " ", to_string(factor.dtype()),
           ", expected one floating element");
  visit_floating(y.dtype(), "scale_by", [&]<class T>() {
    gpu::map(y.numel(), ScaleBy{gpu::Scalar(factor)}, data<T>(y), data<const T>(x));
  });
}

void add_scaled(const Tensor& x, const Tensor& factor, bool add, Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && factor.numel() == 1 && is_floating(factor.dtype()),
           "add_scaled: ", to_string(x.shape()), " times a factor ", to_string(factor.shape()), " ",
           to_string(factor.dtype()), " into ", to_string(y.shape()));
  visit_floating(x.dtype(), "add_scaled", [&]<class X>() {
    visit_floating(y.dtype(), "add_scaled", [&]<class Y>() {
      const ScaleBy by{gpu::Scalar(factor)};
      if (add) {
        gpu::map(y.numel(), AddScaled{by}, data<Y>(y), data<const X>(x), data<const Y>(y));
      } else {
        gpu::map(y.numel(), by, data<Y>(y), data<const X>(x));
      }
    });
  });
}

void gelu_forward(const Tensor& x, Tensor& y) {
  check_same("gelu_forward", x, y);
  visit_floating(y.dtype(), "gelu_forward", [&]<class T>() {
    gpu::map(y.numel(), GeluValue<T>{}, data<T>(y), data<const T>(x));
  });
}

void gelu_backward(const Tensor& dy, const Tensor& x, Tensor& dx) {
  check_same("gelu_backward", dy, x);
  check_same("gelu_backward", x, dx);
  visit_floating(x.dtype(), "gelu_backward", [&]<class T>() {
    gpu::map(x.numel(), GeluSlope<T>{}, data<T>(dx), data<const T>(dy), data<const T>(x));
  });
}

}  // namespace pyramoe::kernels::cuda
