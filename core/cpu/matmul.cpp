// CPU twins of core/kernels/matmul.h: shapes checked, then everything through the GEMM seam.
//
// A grouped product is a list of plain ones, one an expert, that the seam spreads over the threads
// together. Sums over an expert's tokens run in row order.
#include "core/kernels/matmul.h"

#include <algorithm>
#include <vector>

#include "core/cpu/gemm.h"
#include "core/cpu/pack.h"
#include "core/cpu/simd.h"
#include "core/kernels/elementwise.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// Any leading axes are rows.
struct Matrix {
  int64_t rows, cols;
  explicit Matrix(const Tensor& x) : rows(0), cols(x.rank() == 0 ? 1 : x.dim(-1)) {
    if (x.numel() > 0) {
      rows = x.numel() / cols;
    } else {
      rows = 1;
      for (int64_t i = 0; i + 1 < x.rank(); ++i) rows *= x.dim(static_cast<int>(i));
    }
  }
};

void check_shape(const char* op, const char* name, const Tensor& x, int64_t rows, int64_t cols) {
  const Matrix m(x);
  PM_CHECK(m.rows == rows && m.cols == cols, op, ": ", name, " has shape ", to_string(x.shape()),
           ", expected (", rows, ", ", cols, ")");
}

void check_dtype(const char* op, const char* name, const Tensor& x, DType expected) {
  PM_CHECK(x.dtype() == expected, op, ": ", name, " is ", to_string(x.dtype()), ", expected ",
           to_string(expected));
}

// Calls f<T, TC>() for inputs of type T and an output of the same type, or f32 above bf16.
template <class F>
void visit_types(const char* op, DType in, DType out, F&& f) {
  visit_floating(in, [&]<class T>() {
    if (out == in) {
      f.template operator()<T, T>();
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      PM_CHECK(out == DType::f32, op, ": a bf16 product writes bf16 or f32, not ", to_string(out));
      f.template operator()<BFloat16, float>();
    } else {
      fail(Exit::bug, op, ": inputs are ", to_string(in), ", the output is ", to_string(out));
    }
  });
}

// y = x w^T + bias, and gelu of it; `pre` may be undefined when only the gelu is wanted.
void linear(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Tensor& gelu) {
  const Matrix in(x), weight(w);
  PM_CHECK(in.cols == weight.cols, op, ": x has K = ", in.cols, ", weight expects ", weight.cols);
  const Tensor& c = y.defined() ? y : gelu;
  check_shape(op, "y", c, in.rows, weight.rows);
  check_dtype(op, "w", w, x.dtype());
  check_dtype(op, "y", c, x.dtype());
  if (bias.defined()) {
    check_shape(op, "bias", bias, 1, weight.rows);
    check_dtype(op, "bias", bias, x.dtype());
  }
  if (gelu.defined()) {
    check_shape(op, "gelu", gelu, in.rows, weight.rows);
    check_dtype(op, "gelu", gelu, x.dtype());
  }
  visit_floating(x.dtype(), [&]<class T>() {
    gemm::Product<T> p;
    p.m = in.rows, p.n = weight.rows, p.k = in.cols;
    p.a = x.data<T>(), p.lda = in.cols;
    p.b = w.data<T>(), p.ldb = in.cols, p.transpose_b = true;
    p.c = c.data<T>(), p.ldc = weight.rows;
    if (bias.defined()) p.bias = bias.data<T>();
    if (gelu.defined()) p.gelu = gelu.data<T>();
    gemm::multiply(p);
  });
}

// The rows of each expert, checked.
struct Segments {
  std::vector<int64_t> begin;  // (E + 1)
  int64_t experts;
  Segments(const char* op, const Tensor& offsets, int64_t experts_expected, int64_t rows)
      : experts(experts_expected) {
    PM_CHECK(offsets.numel() == experts + 1, op, ": ", experts, " experts need ", experts + 1,
             " offsets, got ", offsets.numel());
    const int32_t* o = offsets.data<int32_t>();
    begin.assign(o, o + experts + 1);
    PM_CHECK(
        begin.front() >= 0 && begin.back() <= rows && std::is_sorted(begin.begin(), begin.end()),
        op, ": offsets must rise from 0 or more to at most the ", rows, " rows there are");
  }
};

void check_weight(const char* op, const Tensor& w) {
  PM_CHECK(w.rank() == 3, op, ": the experts' weight must be (E, M, K), got ",
           to_string(w.shape()));
}

void grouped_linear(const char* op, const Tensor& x, const Tensor& offsets, const Tensor& w,
                    const Tensor& bias, const Tensor& y, const Tensor& gelu) {
  check_weight(op, w);
  const int64_t experts = w.dim(0), m = w.dim(1), k = w.dim(2);
  const Matrix in(x);
  const Tensor& c = y.defined() ? y : gelu;
  PM_CHECK(in.cols == k, op, ": x has K = ", in.cols, ", weight expects ", k);
  check_shape(op, "y", c, in.rows, m);
  check_dtype(op, "w", w, x.dtype());
  check_dtype(op, "y", c, x.dtype());
  if (bias.defined()) {
    check_shape(op, "bias", bias, experts, m);
    check_dtype(op, "bias", bias, x.dtype());
  }
  if (gelu.defined()) {
    check_shape(op, "gelu", gelu, in.rows, m);
    check_dtype(op, "gelu", gelu, x.dtype());
  }
  const Segments segments(op, offsets, experts, in.rows);
  visit_floating(x.dtype(), [&]<class T>() {
    std::vector<gemm::Product<T>> products(static_cast<size_t>(experts));
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t first = segments.begin[static_cast<size_t>(e)];
      gemm::Product<T>& p = products[static_cast<size_t>(e)];
      p.m = segments.begin[static_cast<size_t>(e) + 1] - first, p.n = m, p.k = k;
      p.a = x.data<T>() + first * k, p.lda = k;
      p.b = w.data<T>() + e * m * k, p.ldb = k, p.transpose_b = true;
      p.c = c.data<T>() + first * m, p.ldc = m;
      if (bias.defined()) p.bias = bias.data<T>() + e * m;
      if (gelu.defined()) p.gelu = gelu.data<T>() + first * m;
    }
    gemm::multiply_all<T, T>(products);
  });
}

// db[e, :] (+)= the sum of dy over the rows of expert e.
template <class T, class TC>
void column_sums(const Tensor& dy, const Segments& segments, int64_t m, bool accumulate,
                 Tensor& db) {
  using V = simd::Vec<Acc<T>>;
  constexpr int64_t block = 4;  // vectors of columns in a task
  const int64_t blocks = (m + block * V::lanes - 1) / (block * V::lanes);
  const T* x = dy.data<T>();
  TC* sums = db.data<TC>();
  parallel_for(segments.experts * blocks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t e = task / blocks, first = task % blocks * block * V::lanes;
      for (int64_t j = first; j < std::min(m, first + block * V::lanes); j += V::lanes) {
        const int64_t n = m - j;
        V sum = accumulate ? V::load(sums + e * m + j, n) : V(0);
        for (int64_t r = segments.begin[static_cast<size_t>(e)];
             r < segments.begin[static_cast<size_t>(e) + 1]; ++r) {
          sum = sum + V::load(x + r * m + j, n);
        }
        sum.store(sums + e * m + j, n);
      }
    }
  });
}

}  // namespace

void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, bool accumulate,
            Tensor& c) {
  const Matrix am(a), bm(b);
  const int64_t m = transpose_a ? am.cols : am.rows, k = transpose_a ? am.rows : am.cols;
  const int64_t n = transpose_b ? bm.rows : bm.cols, kb = transpose_b ? bm.cols : bm.rows;
  PM_CHECK(k == kb, "matmul: a ", to_string(a.shape()), " has K = ", k, ", b ",
           to_string(b.shape()), " has K = ", kb);
  check_shape("matmul", "c", c, m, n);
  check_dtype("matmul", "b", b, a.dtype());
  visit_types("matmul", a.dtype(), c.dtype(), [&]<class T, class TC>() {
    gemm::Product<T, TC> p;
    p.m = m, p.n = n, p.k = k;
    p.a = a.data<T>(), p.lda = am.cols, p.transpose_a = transpose_a;
    p.b = b.data<T>(), p.ldb = bm.cols, p.transpose_b = transpose_b;
    p.c = c.data<TC>(), p.ldc = n, p.accumulate = accumulate;
    gemm::multiply(p);
  });
}

void linear_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y) {
  linear("linear_forward", x, w, bias, y, Tensor());
}

void linear_gelu_forward(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& pre,
                         Tensor& y) {
  linear("linear_gelu_forward", x, w, bias, pre, y);
}

void linear_dx_gelu(const Tensor& dy, const Tensor& w, const Tensor& pre, Tensor& dpre, Tensor& y) {
  const Matrix out(pre);
  check_shape("linear_dx_gelu", "dpre", dpre, out.rows, out.cols);
  check_dtype("linear_dx_gelu", "dpre", dpre, pre.dtype());
  if (!y.defined()) {
    Tensor dgelu = dpre.same_memory(pre) ? empty_like(pre) : dpre;
    matmul(dy, false, w, false, false, dgelu);
    return gelu_backward(dgelu, pre, dpre);
  }
  check_shape("linear_dx_gelu", "y", y, out.rows, out.cols);
  check_dtype("linear_dx_gelu", "y", y, pre.dtype());
  matmul(dy, false, w, false, false, y);  // y is room for the gradient of itself first
  visit_floating(y.dtype(), [&]<class T>() {
    using V = simd::Vec<Acc<T>>;
    constexpr int64_t block = 64;
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += block) {
        const int64_t n = std::min(block, end - i);
        T x[block];
        std::copy_n(pre.data<T>() + i, n, x);
        T *gelu = y.data<T>() + i, *to = dpre.data<T>() + i;
        each_pack<Acc<T>>(0, n, [&](auto at) {
          store(to, at, load(gelu, at) * Gelu<Acc<T>>::slope(load(x, at)));
        });
        for (int64_t j = 0; j < n; j += V::lanes) {
          simd::gelu(V::load(x + j, n - j)).store(gelu + j, n - j);
        }
      }
    });
  });
}

void grouped_linear_forward(const Tensor& x, const Tensor& offsets, const Tensor& w,
                            const Tensor& bias, Tensor& y) {
  grouped_linear("grouped_linear_forward", x, offsets, w, bias, y, Tensor());
}

void grouped_linear_gelu_forward(const Tensor& x, const Tensor& offsets, const Tensor& w,
                                 const Tensor& bias, Tensor& pre, Tensor& y) {
  grouped_linear("grouped_linear_gelu_forward", x, offsets, w, bias, pre, y);
}

void grouped_linear_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w, Tensor& dx) {
  const char* op = "grouped_linear_dx";
  check_weight(op, w);
  const int64_t experts = w.dim(0), m = w.dim(1), k = w.dim(2);
  const Matrix out(dy);
  PM_CHECK(out.cols == m, op, ": dy has M = ", out.cols, ", weight expects ", m);
  check_shape(op, "dx", dx, out.rows, k);
  check_dtype(op, "w", w, dy.dtype());
  const Segments segments(op, offsets, experts, out.rows);
  visit_types(op, dy.dtype(), dx.dtype(), [&]<class T, class TC>() {
    std::vector<gemm::Product<T, TC>> products(static_cast<size_t>(experts));
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t first = segments.begin[static_cast<size_t>(e)];
      gemm::Product<T, TC>& p = products[static_cast<size_t>(e)];
      p.m = segments.begin[static_cast<size_t>(e) + 1] - first, p.n = k, p.k = m;
      p.a = dy.data<T>() + first * m, p.lda = m;
      p.b = w.data<T>() + e * m * k, p.ldb = k;
      p.c = dx.data<TC>() + first * k, p.ldc = k;
    }
    gemm::multiply_all<T, TC>(products);
  });
}

void grouped_linear_dx_gelu(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                            const Tensor& pre, Tensor& dpre, Tensor& y) {
  const char* op = "grouped_linear_dx_gelu";
  const Matrix out(pre);
  check_shape(op, "dpre", dpre, out.rows, out.cols);
  check_shape(op, "y", y, out.rows, out.cols);
  check_dtype(op, "pre", pre, dy.dtype());
  check_dtype(op, "dpre", dpre, dy.dtype());
  check_dtype(op, "y", y, dy.dtype());
  Tensor dgelu = empty_like(pre);  // (R, K)
  grouped_linear_dx(dy, offsets, w, dgelu);
  const Segments segments(op, offsets, offsets.numel() - 1, out.rows);
  const int64_t begin = segments.begin.front() * out.cols;
  const int64_t n = segments.begin.back() * out.cols - begin;
  visit_floating(dy.dtype(), [&]<class T>() {
    using V = simd::Vec<Acc<T>>;
    const T* x = pre.data<T>() + begin;
    T* to = y.data<T>() + begin;
    parallel_for(n, kGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i += V::lanes) {
        simd::gelu(V::load(x + i, last - i)).store(to + i, last - i);
      }
    });
  });
  grouped_gelu_backward(dgelu, pre, offsets, dpre);
}

void grouped_linear_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets, bool accumulate,
                       Tensor& dw, Tensor& db) {
  const char* op = "grouped_linear_dw";
  check_weight(op, dw);
  const int64_t experts = dw.dim(0), m = dw.dim(1), k = dw.dim(2);
  const Matrix out(dy);
  PM_CHECK(out.cols == m, op, ": dy has M = ", out.cols, ", dw expects ", m);
  check_shape(op, "x", x, out.rows, k);
  check_dtype(op, "x", x, dy.dtype());
  if (db.defined()) check_shape(op, "db", db, experts, m);
  const Segments segments(op, offsets, experts, out.rows);
  visit_types(op, dy.dtype(), dw.dtype(), [&]<class T, class TC>() {
    std::vector<gemm::Product<T, TC>> products(static_cast<size_t>(experts));
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t first = segments.begin[static_cast<size_t>(e)];
      gemm::Product<T, TC>& p = products[static_cast<size_t>(e)];
      p.m = m, p.n = k, p.k = segments.begin[static_cast<size_t>(e) + 1] - first;
      p.a = dy.data<T>() + first * m, p.lda = m, p.transpose_a = true;
      p.b = x.data<T>() + first * k, p.ldb = k;
      p.c = dw.data<TC>() + e * m * k, p.ldc = k, p.accumulate = accumulate;
    }
    gemm::multiply_all<T, TC>(products);
  });
  if (!db.defined()) return;
  visit_types(op, dy.dtype(), db.dtype(),
              [&]<class T, class TC>() { column_sums<T, TC>(dy, segments, m, accumulate, db); });
}

void grouped_gelu_backward(const Tensor& dy, const Tensor& pre, const Tensor& offsets, Tensor& dx) {
  const char* op = "grouped_gelu_backward";
  const Matrix out(dy);
  check_shape(op, "pre", pre, out.rows, out.cols);
  check_shape(op, "dx", dx, out.rows, out.cols);
  const Segments segments(op, offsets, offsets.numel() - 1, out.rows);
  const int64_t begin = segments.begin.front() * out.cols;
  const int64_t n = segments.begin.back() * out.cols - begin;
  visit_floating(dy.dtype(), [&]<class T>() {
    using V = simd::Vec<Acc<T>>;
    const T *g = dy.data<T>() + begin, *x = pre.data<T>() + begin;
    T* to = dx.data<T>() + begin;
    parallel_for(n, kGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i += V::lanes) {
        const int64_t left = last - i;
        (V::load(g + i, left) * simd::gelu_slope(V::load(x + i, left))).store(to + i, left);
      }
    });
  });
}

}  // namespace pyramoe::kernels::cpu
