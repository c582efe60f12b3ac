// Dense products through cuBLAS; bias and GELU ride in its epilogue where they can. Linear layers
// of up to four rows (decoding) take a kernel of ours (matvec.cu).
//
// cuBLAS's GELU uses the hardware's approximate tanh, too coarse for f32, so it serves bf16 only.
// Where cuBLAS has no kernel for a product with an epilogue (odd widths), the sums go to fp32
// scratch and a kernel here adds the bias, rounds and applies GELU: one rounding either way.
#include "core/kernels/matmul.h"

#include "cuda/cublas.h"
#include "cuda/gelu.cuh"
#include "cuda/launch.cuh"
#include "cuda/matvec.h"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Product;

// Any leading axes are rows.
struct Matrix {
  int64_t rows, cols;
  explicit Matrix(const Tensor& x) : rows(1), cols(x.rank() == 0 ? 1 : x.dim(-1)) {
    for (int64_t i = 0; i + 1 < x.rank(); ++i) rows *= x.dim(static_cast<int>(i));
  }
};

void check(const char* op, const char* name, const Tensor& x, int64_t rows, int64_t cols,
           DType type) {
  const Matrix m(x);
  PM_CHECK(m.rows == rows && m.cols == cols, op, ": ", name, " has shape ", to_string(x.shape()),
           ", expected (", rows, ", ", cols, ")");
  PM_CHECK(x.dtype() == type, op, ": ", name, " is ", to_string(x.dtype()), ", expected ",
           to_string(type));
}

// c (+)= sum, or pre = sum + bias and y = gelu(pre), from fp32 sums (rows, cols).
template <class T, bool kGelu>
__global__ void finish_kernel(const float* sum, const T* bias, int64_t count, int64_t cols, T* pre,
                              T* y) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float x = sum[i] + (bias ? gpu::to_float(bias[i % cols]) : 0.0f);
  if constexpr (kGelu) {
    if (pre) pre[i] = gpu::from_float<T>(x);
    y[i] = gpu::from_float<T>(gpu::Gelu<T>::value(x));
  } else {
    y[i] = gpu::from_float<T>(x);
  }
}

// dpre = sum * gelu'(pre), from fp32 sums.
template <class T>
__global__ void finish_dx_kernel(const float* sum, const T* pre, int64_t count, T* dpre) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  dpre[i] = gpu::from_float<T>(sum[i] * gpu::Gelu<T>::slope(gpu::to_float(pre[i])));
}

template <class T, class C>
__global__ void plain_product_kernel(const T* a, int64_t step_a_row, int64_t step_a_k, const T* b,
                                     int64_t step_b_k, int64_t step_b_col, int64_t m, int64_t n,
                                     int64_t k, bool accumulate, C* c) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= m * n) return;
  const int64_t row = i / n, col = i % n;
  float sum = 0;
  for (int64_t j = 0; j < k; ++j) {
    sum = fmaf(gpu::to_float(a[row * step_a_row + j * step_a_k]),
               gpu::to_float(b[j * step_b_k + col * step_b_col]), sum);
  }
  c[i] = gpu::from_float<C>(accumulate ? gpu::to_float(c[i]) + sum : sum);
}

constexpr int kThreads = 256;

// The last resort, one thread an element: products without terms (k = 0), and whatever cuBLAS
// refuses.
void plain_product(const Product& p) {
  const int64_t a_row = p.transpose_a ? 1 : p.k, a_k = p.transpose_a ? p.m : 1;
  const int64_t b_k = p.transpose_b ? 1 : p.n, b_col = p.transpose_b ? p.k : 1;
  const auto launch = [&]<class T, class C>() {
    plain_product_kernel<T, C><<<gpu::grid(p.m * p.n, kThreads), kThreads, 0, gpu::stream()>>>(
        static_cast<const T*>(p.a), a_row, a_k, static_cast<const T*>(p.b), b_k, b_col, p.m, p.n,
        p.k, p.accumulate, static_cast<C*>(p.c));
    PM_LAUNCHED();
  };
  if (p.type == DType::f32) {
    launch.template operator()<float, float>();
  } else if (p.c_type == DType::f32) {
    launch.template operator()<gpu::Bf16, float>();
  } else {
    launch.template operator()<gpu::Bf16, gpu::Bf16>();
  }
}

void product(const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0 || !gpu::multiply(p)) plain_product(p);
}

// y = x w^T + bias, and gelu of it when `gelu` is set (then `pre` may be undefined).
void linear(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& pre,
            const Tensor& y, bool gelu) {
  const Matrix in(x), weight(w);
  PM_CHECK(in.cols == weight.cols, op, ": x has K = ", in.cols, ", weight expects ", weight.cols);
  const DType type = x.dtype();
  check(op, "w", w, weight.rows, weight.cols, type);
  check(op, "y", y, in.rows, weight.rows, type);
  if (bias.defined()) check(op, "bias", bias, 1, weight.rows, type);
  if (pre.defined()) check(op, "pre", pre, in.rows, weight.rows, type);
  if (y.numel() == 0) return;
  if (gpu::few_rows({.rows = in.rows,
                     .m = weight.rows,
                     .k = in.cols,
                     .x = x.raw(),
                     .w = w.raw(),
                     .bias = bias.raw(),
                     .y = y.raw(),
                     .pre = pre.raw(),
                     .gelu = gelu,
                     .type = type})) {
    return;
  }
  gpu::visit_floating(type, op, [&]<class T>() {
    Product p;
    p.m = in.rows, p.n = weight.rows, p.k = in.cols;
    p.a = x.raw(), p.b = w.raw(), p.transpose_b = true;
    p.type = p.c_type = type, p.c = y.raw(), p.bias = bias.raw();
    const bool in_epilogue = !gelu || (type == DType::bf16 && pre.defined());
    if (gelu) p.pre = pre.raw();
    if (p.k > 0 && in_epilogue && gpu::multiply(p)) return;
    const gpu::Scratch sum(y.numel() * static_cast<int64_t>(sizeof(float)));
    p.c = sum.data<float>(), p.c_type = DType::f32, p.bias = p.pre = nullptr;
    product(p);
    const auto finish = gelu ? finish_kernel<T, true> : finish_kernel<T, false>;
    finish<<<gpu::grid(y.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        sum.data<float>(), static_cast<const T*>(bias.raw()), y.numel(), weight.rows,
        static_cast<T*>(pre.raw()), static_cast<T*>(y.raw()));
    PM_LAUNCHED();
  });
}

}  // namespace

void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate,
            Tensor& c) {
  const Matrix am(a), bm(b);
  Product p;
  p.m = transpose_a ? am.cols : am.rows, p.k = transpose_a ? am.rows : am.cols;
  p.n = transpose_b ? bm.rows : bm.cols;
  const int64_t kb = transpose_b ? bm.cols : bm.rows;
  PM_CHECK(p.k == kb, "matmul: a ", to_string(a.shape()), " has K = ", p.k, ", b ",
           to_string(b.shape()), " has K = ", kb);
  PM_CHECK(a.dtype() == b.dtype(), "matmul: a is ", to_string(a.dtype()), ", b ",
           to_string(b.dtype()));
  const bool wide_c = a.dtype() == DType::bf16 && c.dtype() == DType::f32;
  check("matmul", "c", c, p.m, p.n, wide_c ? DType::f32 : a.dtype());
  p.a = a.raw(), p.b = b.raw(), p.c = c.raw();
  p.transpose_a = transpose_a, p.transpose_b = transpose_b, p.accumulate = accumulate;
  p.type = a.dtype(), p.c_type = c.dtype();
  gpu::visit_floating(a.dtype(), "matmul", [&]<class T>() { product(p); });
}

void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  linear("linear_forward", x, w, bias, Tensor(), y, false);
}

void linear_gelu_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& pre,
                         Tensor& y) {
  linear("linear_gelu_forward", x, w, bias, pre, y, true);
}

void linear_dx_gelu(const Tensor& dy, const Tensor& w, const Tensor& pre, Tensor& dpre) {
  const char* op = "linear_dx_gelu";
  const Matrix out(dy), weight(w);
  const DType type = dy.dtype();
  PM_CHECK(out.cols == weight.rows, op, ": dy has M = ", out.cols, ", weight expects ",
           weight.rows);
  check(op, "w", w, weight.rows, weight.cols, type);
  check(op, "pre", pre, out.rows, weight.cols, type);
  check(op, "dpre", dpre, out.rows, weight.cols, type);
  if (dpre.numel() == 0) return;
  gpu::visit_floating(type, op, [&]<class T>() {
    Product p;
    p.m = out.rows, p.n = weight.cols, p.k = out.cols;
    p.a = dy.raw(), p.b = w.raw(), p.c = dpre.raw(), p.type = p.c_type = type;
    p.gelu_of = pre.raw();
    if (type == DType::bf16 && p.k > 0 && gpu::multiply(p)) return;
    const gpu::Scratch sum(dpre.numel() * static_cast<int64_t>(sizeof(float)));
    p.c = sum.data<float>(), p.c_type = DType::f32, p.gelu_of = nullptr;
    product(p);
    finish_dx_kernel<T><<<gpu::grid(dpre.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        sum.data<float>(), static_cast<const T*>(pre.raw()), dpre.numel(),
        static_cast<T*>(dpre.raw()));
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
