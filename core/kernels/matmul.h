// Matrix products, dense and grouped. A linear layer's weight is stored (out, in).
//
// Element (i, j) of a product is summed over k in one fixed order that depends on nothing else: not
// on the other rows, the shape, the number of threads or the instruction set. So a row's result
// does not change with the batch it travels in, bit for bit.
#pragma once

#include "core/kernel.h"

namespace pyramoe::kernels {

// c (+)= op(a) op(b); op transposes where the flag is set.   a (M, K), b (K, N), c (M, N) after op
// c may be f32 where a and b are bf16 (gradients kept in f32).
PM_KERNEL(matmul, (const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                   bool accumulate, Tensor& c))
// y = x w^T + bias.   x (N, K), w (M, K), bias (M) or undefined, y (N, M)
PM_KERNEL(linear_forward, (const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& y))
// pre = x w^T + bias, y = gelu(pre), of pre as it was rounded.   shapes as above, pre and y (N, M)
PM_KERNEL(linear_gelu_forward,
          (const Tensor& x, const Tensor& w, const Tensor& bias, Tensor& pre, Tensor& y))

// dpre = (dy w) * gelu'(pre): through a linear layer and the GELU before it. And y = gelu(pre) once
// more, in the forward pass's bits, for dw of the product that y entered: so nobody need keep y.
//   dy (N, M), w (M, K); pre, dpre and y (N, K), dpre may be pre; y undefined: not wanted
PM_KERNEL(linear_dx_gelu,
          (const Tensor& dy, const Tensor& w, const Tensor& pre, Tensor& dpre, Tensor& y))

// The grouped forms: expert e owns rows [offsets[e], offsets[e+1]) and has its own weight. Rows
// from offsets[E] on are neither read nor written.
//   x (R, K), offsets (E+1) i32, w (E, M, K), bias (E, M) or undefined, y (R, M)
PM_KERNEL(grouped_linear_forward,
          (const Tensor& x, const Tensor& offsets, const Tensor& w, const Tensor& bias, Tensor& y))
// pre = x w_e^T + bias_e, y = gelu(pre)
PM_KERNEL(grouped_linear_gelu_forward, (const Tensor& x, const Tensor& offsets, const Tensor& w,
                                        const Tensor& bias, Tensor& pre, Tensor& y))
// dx = dy w_e.   dy (R, M), dx (R, K)
PM_KERNEL(grouped_linear_dx, (const Tensor& dy, const Tensor& offsets, const Tensor& w, Tensor& dx))
// dpre = (dy w_e) * gelu'(pre), and y = gelu(pre) once more, for dw of the product that y entered:
// so a forward pass need not keep y.   dy (R, M), w (E, M, K); pre, dpre, y (R, K), dpre may be pre
PM_KERNEL(grouped_linear_dx_gelu, (const Tensor& dy, const Tensor& offsets, const Tensor& w,
                                   const Tensor& pre, Tensor& dpre, Tensor& y))
// dw_e (+)= dy_e^T x_e, db_e (+)= column sums of dy_e; an expert without rows gets zeros (or keeps
// what it had).   dw (E, M, K); db (E, M) or undefined
PM_KERNEL(grouped_linear_dw, (const Tensor& dy, const Tensor& x, const Tensor& offsets,
                              bool accumulate, Tensor& dw, Tensor& db))
// dx = dy * gelu'(pre) on the rows below offsets[E].   dy, pre, dx (R, M)
PM_KERNEL(grouped_gelu_backward,
          (const Tensor& dy, const Tensor& pre, const Tensor& offsets, Tensor& dx))

}  // namespace pyramoe::kernels
