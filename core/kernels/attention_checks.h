// What both twins of attention.h ask of their arguments, and the sizes they read from them. What
// only one device asks (lengths that fit, how many tiles a launch takes) stays with its twin.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/kernels/attention.h"

namespace pyramoe::kernels {

// The sizes of a packed qkv (B, T, 3, H, Dh).
struct AttentionSizes {
  int64_t batch, tokens, heads, dim;

  AttentionSizes(const char* op, const Tensor& qkv) {
    PM_CHECK(qkv.rank() == 5 && qkv.dim(2) == 3, op, ": qkv must be (B, T, 3, H, Dh), got ",
             to_string(qkv.shape()));
    batch = qkv.dim(0), tokens = qkv.dim(1), heads = qkv.dim(3), dim = qkv.dim(4);
  }
  int64_t width() const { return heads * dim; }
  int64_t outputs() const { return batch * tokens * width(); }  // elements of y
  int64_t rows() const { return batch * heads * tokens; }       // elements of lse
  double scale() const { return 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, dim))); }
  bool empty() const { return outputs() == 0; }
};

inline void check_attention_tensor(const char* op, const char* name, const Tensor& x, int64_t count,
                                   DType dtype) {
  PM_CHECK(x.numel() == count && x.dtype() == dtype, op, ": ", name, " is ", to_string(x.dtype()),
           " ", to_string(x.shape()), ", expected ", to_string(dtype), " with ", count,
           " elements");
}

inline AttentionSizes check_attention_forward(const char* op, const Tensor& qkv, const Tensor& y,
                                              const Tensor& lse) {
  const AttentionSizes s(op, qkv);
  check_attention_tensor(op, "y", y, s.outputs(), qkv.dtype());
  check_attention_tensor(op, "lse", lse, s.rows(),
                         qkv.dtype() == DType::f64 ? DType::f64 : DType::f32);
  return s;
}

inline AttentionSizes check_attention_backward(const char* op, const Tensor& dy, const Tensor& qkv,
                                               const Tensor& y, const Tensor& lse,
                                               const Tensor& dqkv) {
  const AttentionSizes s = check_attention_forward(op, qkv, y, lse);
  check_attention_tensor(op, "dy", dy, s.outputs(), qkv.dtype());
  check_attention_tensor(op, "dqkv", dqkv, qkv.numel(), qkv.dtype());
  return s;
}

inline AttentionSizes check_attention_cached(const char* op, const Tensor& qkv,
                                             const Tensor& lengths, const Tensor& cache,
                                             const Tensor& y) {
  const AttentionSizes s(op, qkv);
  PM_CHECK(cache.rank() == 5 && cache.dim(0) == s.batch && cache.dim(2) == 2 &&
               cache.dim(3) == s.heads && cache.dim(4) == s.dim && cache.dtype() == qkv.dtype(),
           op, ": cache is ", to_string(cache.dtype()), " ", to_string(cache.shape()),
           ", expected (B, T_max, 2, H, Dh) to match qkv ", to_string(qkv.shape()));
  check_attention_tensor(op, "y", y, s.outputs(), qkv.dtype());
  check_attention_tensor(op, "lengths", lengths, s.batch, DType::i32);
  return s;
}

}  // namespace pyramoe::kernels
