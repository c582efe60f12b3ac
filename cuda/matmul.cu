// Dense products through cuBLAS; a bias rides in its epilogue where it can. Linear layers of up to
// four rows (decoding) take a kernel of ours (matvec.cu), large bf16 ones with GELU on Hopper the
// experts' kernel (grouped_hopper.cu), of one expert: it finishes tiles at no cost, and its GELU
// reads what was rounded, so that the backward pass makes the same bits again.
//
// Where cuBLAS has no kernel for a product with a bias (odd widths), the sums go to fp32 scratch
// and a kernel here adds the bias and rounds: one rounding either way.
#include "core/kernels/matmul.h"

#include "core/kernels/elementwise.h"
#include "cuda/cublas.h"
#include "cuda/gelu.cuh"
#include "cuda/grouped.h"
#include "cuda/matvec.h"
#include "cuda/vec.cuh"

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

// y = sum + bias, from fp32 sums (rows, cols).
template <class T>
__global__ void finish_kernel(const float* sum, const T* bias, int64_t count, int64_t cols, T* y) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  y[i] = gpu::from_float<T>(sum[i] + (bias ? gpu::to_float(bias[i % cols]) : 0.0f));
}

// dpre = y * gelu'(pre), then y = gelu(pre): y held its own gradient. dpre may be pre.
template <class T, int N>
__global__ void finish_dx_kernel(const T* pre, int64_t packs, T* dpre, T* y) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= packs) return;
  gpu::Vec<T, N> x = gpu::load_vec<T, N>(pre + i * N), d = gpu::load_vec<T, N>(y + i * N);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const gpu::GeluBoth gelu = gpu::Gelu<T>::both(gpu::to_float(x.v[j]));
    x.v[j] = gpu::from_float<T>(gpu::to_float(d.v[j]) * gelu.slope);
    d.v[j] = gpu::from_float<T>(gelu.value);
  }
  gpu::store_vec(dpre + i * N, x);
  gpu::store_vec(y + i * N, d);
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

// Checks y = x w^T + bias, with `pre` of y's shape where defined; false when y has no elements.
bool check_linear(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias,
                  const Tensor& pre, const Tensor& y) {
  const Matrix in(x), weight(w);
  PM_CHECK(in.cols == weight.cols, op, ": x has K = ", in.cols, ", weight expects ", weight.cols);
  const DType type = x.dtype();
  check(op, "w", w, weight.rows, weight.cols, type);
  check(op, "y", y, in.rows, weight.rows, type);
  if (bias.defined()) check(op, "bias", bias, 1, weight.rows, type);
  if (pre.defined()) check(op, "pre", pre, in.rows, weight.rows, type);
  return y.numel() > 0;
}

bool few_rows(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& pre,
              const Tensor& y, bool gelu) {
  const Matrix in(x), weight(w);
  return gpu::few_rows({.rows = in.rows,
                        .m = weight.rows,
                        .k = in.cols,
                        .x = x.raw(),
                        .w = w.raw(),
                        .bias = bias.raw(),
                        .y = y.raw(),
                        .pre = pre.raw(),
                        .gelu = gelu,
                        .type = x.dtype()});
}

void linear(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const Matrix in(x), weight(w);
  const DType type = x.dtype();
  gpu::visit_floating(type, op, [&]<class T>() {
    Product p;
    p.m = in.rows, p.n = weight.rows, p.k = in.cols;
    p.a = x.raw(), p.b = w.raw(), p.transpose_b = true;
    p.type = p.c_type = type, p.c = y.raw(), p.bias = bias.raw();
    if (p.k > 0 && gpu::multiply(p)) return;
    const gpu::Scratch sum(y.numel() * static_cast<int64_t>(sizeof(float)));
    p.c = sum.data<float>(), p.c_type = DType::f32, p.bias = nullptr;
    product(p);
    finish_kernel<T><<<gpu::grid(y.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        sum.data<float>(), static_cast<const T*>(bias.raw()), y.numel(), weight.rows,
        static_cast<T*>(y.raw()));
    PM_LAUNCHED();
  });
}

__global__ void one_segment_kernel(int32_t rows, int32_t* offsets) {
  offsets[threadIdx.x] = threadIdx.x == 0 ? 0 : rows;
}

// The experts' kernel, for all rows together: where it is there, takes the widths, and has a tile
// for every multiprocessor.
bool as_one_expert(gpu::grouped::Product p, int64_t columns) {
  p.experts = 1, p.bf16 = true;
  const int64_t tiles = gpu::ceil_div(p.rows, 128) * gpu::ceil_div(columns, 256);
  if (!gpu::has_hopper_kernels() || tiles < gpu::multiprocessors() || p.rows > INT32_MAX ||
      !gpu::grouped::fits_hopper(p)) {
    return false;
  }
  const gpu::Scratch offsets(2 * sizeof(int32_t));
  one_segment_kernel<<<1, 2, 0, gpu::stream()>>>(static_cast<int32_t>(p.rows),
                                                 offsets.data<int32_t>());
  PM_LAUNCHED();
  p.offsets = offsets.data<int32_t>();
  gpu::grouped::hopper(p, gpu::multiprocessors(), gpu::stream());
  return true;
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
  if (!check_linear("linear_forward", x, w, bias, Tensor(), y)) return;
  if (!few_rows(x, w, bias, Tensor(), y, false)) linear("linear_forward", x, w, bias, y);
}

void linear_gelu_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& pre,
                         Tensor& y) {
  const char* op = "linear_gelu_forward";
  if (!check_linear(op, x, w, bias, pre, y) || few_rows(x, w, bias, pre, y, true)) return;
  const Matrix in(x), weight(w);
  if (x.dtype() == DType::bf16 && pre.defined() &&
      as_one_expert({.form = gpu::grouped::Form::forward,
                     .finish = gpu::grouped::Finish::gelu,
                     .a = x.raw(),
                     .b = w.raw(),
                     .c = pre.raw(),
                     .bias = bias.raw(),
                     .extra = y.raw(),
                     .offsets = nullptr,
                     .experts = 1,
                     .rows = in.rows,
                     .m = weight.rows,
                     .k = in.cols,
                     .bf16 = true},
                    weight.rows)) {
    return;
  }
  const Tensor& sums = pre.defined() ? pre : y;
  linear(op, x, w, bias, sums);
  gelu_forward(sums, y);
}

void linear_dx_gelu(const Tensor& dy, const Tensor& w, const Tensor& pre, Tensor& dpre, Tensor& y) {
  const char* op = "linear_dx_gelu";
  const Matrix out(dy), weight(w);
  const DType type = dy.dtype();
  PM_CHECK(out.cols == weight.rows, op, ": dy has M = ", out.cols, ", weight expects ",
           weight.rows);
  check(op, "w", w, weight.rows, weight.cols, type);
  check(op, "pre", pre, out.rows, weight.cols, type);
  check(op, "dpre", dpre, out.rows, weight.cols, type);
  if (y.defined()) check(op, "y", y, out.rows, weight.cols, type);
  if (pre.numel() == 0) return;
  if (type == DType::bf16 && as_one_expert({.form = gpu::grouped::Form::dx,
                                            .finish = gpu::grouped::Finish::gelu_backward,
                                            .a = dy.raw(),
                                            .b = w.raw(),
                                            .c = dpre.raw(),
                                            .pre = pre.raw(),
                                            .extra = y.raw(),
                                            .offsets = nullptr,
                                            .experts = 1,
                                            .rows = out.rows,
                                            .m = weight.rows,
                                            .k = weight.cols,
                                            .bf16 = true},
                                           weight.cols)) {
    return;
  }
  Tensor room = y.defined() ? y : empty_like(pre);
  matmul(dy, false, w, false, false, room);
  gpu::visit_floating(type, op, [&]<class T>() {
    const T* x = gpu::data<T>(pre);
    T *to = gpu::data<T>(dpre), *gelu = gpu::data<T>(room);
    constexpr int N = 16 / sizeof(T);
    const int64_t n = room.numel();
    const bool aligned =
        gpu::rows_aligned(x, n) && gpu::rows_aligned(to, n) && gpu::rows_aligned(gelu, n);
    const int64_t packs = aligned ? n / N : n;
    const auto kernel = aligned ? finish_dx_kernel<T, N> : finish_dx_kernel<T, 1>;
    kernel<<<gpu::grid(packs, kThreads), kThreads, 0, gpu::stream()>>>(x, packs, to, gelu);
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
