// CUDA twins of core/kernels/attention.h: from tensors to one of the paths of attention.cuh.
//
// Hopper kernels where they fit (bf16, head dim 64 or 128, no dropout), the mma kernels for other
// bf16 heads up to 128, the plain ones for the rest. A prompt that goes into a cache takes the same
// tiles as the portable forward pass, so there its bits are the same; a decode step of few tokens
// sums over chunks of keys instead and agrees within rounding.
#include "core/kernels/attention.h"

#include <cmath>

#include "cuda/attention.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Bf16;
using gpu::data;
namespace attention = gpu::attention;

// The sizes of a packed qkv (B, T, 3, H, Dh).
struct Sizes {
  int64_t batch, tokens, heads, dim;
  Sizes(const char* op, const Tensor& qkv) {
    PM_CHECK(qkv.rank() == 5 && qkv.dim(2) == 3, op, ": qkv must be (B, T, 3, H, Dh), got ",
             to_string(qkv.shape()));
    batch = qkv.dim(0), tokens = qkv.dim(1), heads = qkv.dim(3), dim = qkv.dim(4);
    const int64_t tiles = batch * heads * gpu::ceil_div(tokens, 16);
    PM_CHECK(tokens < int64_t{1} << 30 && tiles < int64_t{1} << 31, op, ": qkv ",
             to_string(qkv.shape()), " has ", tiles,
             " tiles of 16 queries; the CUDA kernels take up to 2^31: split the batch");
  }
  int64_t width() const { return heads * dim; }
  float scale() const {
    return static_cast<float>(1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, dim))));
  }
  bool empty() const { return batch * tokens * width() == 0; }
};

void check(const char* op, const char* name, const Tensor& x, int64_t count, DType dtype) {
  PM_CHECK(x.numel() == count && x.dtype() == dtype, op, ": ", name, " is ", to_string(x.dtype()),
           " ", to_string(x.shape()), ", expected ", to_string(dtype), " with ", count,
           " elements");
}

// part 0, 1, 2: q, k, v of a packed tensor.
template <class T>
attention::Rows<T> packed_rows(T* qkv, const Sizes& s, int64_t part) {
  return {qkv + part * s.width(), 3 * s.tokens * s.width(), 3 * s.width()};
}
template <class T>
attention::Rows<T> output_rows(T* y, const Sizes& s) {
  return {y, s.tokens * s.width(), s.width()};
}

attention::Drop drop(const AttentionDropout& dropout, const Sizes& s) {
  if (dropout.p <= 0) return {};
  attention::Drop d;
  d.threshold = static_cast<uint32_t>(std::ceil(dropout.p * 16777216.0));
  d.factor = static_cast<float>(1 / (1 - dropout.p));
  d.key = dropout.key;
  d.first_head = static_cast<uint64_t>(dropout.first_sequence * s.heads);
  d.tokens = static_cast<uint64_t>(s.tokens);
  return d;
}

template <class T>
attention::Forward<T> forward_of(const Sizes& s, const Tensor& qkv, const Tensor& y) {
  attention::Forward<T> f{};
  const T* x = data<T>(qkv);
  f.q = packed_rows(x, s, 0), f.k = packed_rows(x, s, 1), f.v = packed_rows(x, s, 2);
  f.y = output_rows(data<T>(y), s);
  f.batch = static_cast<int>(s.batch), f.heads = static_cast<int>(s.heads);
  f.queries = f.capacity = static_cast<int>(s.tokens), f.dim = static_cast<int>(s.dim);
  f.scale = s.scale();
  return f;
}

// The portable paths.
template <class T>
void forward_tiles(const attention::Forward<T>& f) {
  if constexpr (sizeof(T) == 2) {
    if (f.dim <= attention::kMmaMaxDim) return attention::mma_forward(f);
  }
  attention::plain_forward(f);
}

}  // namespace

void attention_forward(const Tensor& qkv, const AttentionDropout& dropout, Tensor& y, Tensor& lse) {
  const char* op = "attention_forward";
  const Sizes s(op, qkv);
  check(op, "y", y, s.batch * s.tokens * s.width(), qkv.dtype());
  check(op, "lse", lse, s.batch * s.heads * s.tokens, DType::f32);
  if (s.empty()) return;
  gpu::visit_floating(qkv.dtype(), op, [&]<class T>() {
    attention::Forward<T> f = forward_of<T>(s, qkv, y);
    f.lse = data<float>(lse);
    f.drop = drop(dropout, s);
    if constexpr (sizeof(T) == 2) {
      const bool fits = attention::hopper_takes(f.dim, qkv.raw(), y.raw());
      if (dropout.p <= 0 && fits) return attention::hopper_forward(f);
    }
    forward_tiles(f);
  });
}

void attention_backward(const Tensor& dy, const Tensor& qkv, const Tensor& y, const Tensor& lse,
                        const AttentionDropout& dropout, Tensor& dqkv) {
  const char* op = "attention_backward";
  const Sizes s(op, qkv);
  check(op, "dy", dy, s.batch * s.tokens * s.width(), qkv.dtype());
  check(op, "y", y, s.batch * s.tokens * s.width(), qkv.dtype());
  check(op, "dqkv", dqkv, qkv.numel(), qkv.dtype());
  check(op, "lse", lse, s.batch * s.heads * s.tokens, DType::f32);
  if (s.empty()) return;
  gpu::visit_floating(qkv.dtype(), op, [&]<class T>() {
    const attention::Forward<T> of = forward_of<T>(s, qkv, y);
    attention::Backward<T> f{};
    f.q = of.q, f.k = of.k, f.v = of.v;
    f.y = output_rows<const T>(data<T>(y), s), f.dy = output_rows<const T>(data<T>(dy), s);
    T* dx = data<T>(dqkv);
    f.dq = packed_rows(dx, s, 0), f.dk = packed_rows(dx, s, 1), f.dv = packed_rows(dx, s, 2);
    f.lse = data<float>(lse);
    f.batch = of.batch, f.heads = of.heads, f.tokens = of.queries, f.dim = of.dim;
    f.scale = of.scale, f.drop = drop(dropout, s);
    if constexpr (sizeof(T) == 2) {
      const bool fits = attention::hopper_takes(f.dim, qkv.raw(), dy.raw()) &&
                        attention::hopper_takes(f.dim, dqkv.raw(), y.raw());
      if (dropout.p <= 0 && fits) return attention::hopper_backward(f);
    }
    const gpu::Scratch delta(s.batch * s.heads * s.tokens * static_cast<int64_t>(sizeof(float)));
    f.delta = delta.data<float>();
    if constexpr (sizeof(T) == 2) {
      if (f.dim <= attention::kMmaMaxDim) return attention::mma_backward(f);
    }
    attention::plain_backward(f);
  });
}

// lengths live on the device, so "does not fit" cannot be an error here: tokens beyond the cache
// are not stored, and their rows of y see the keys that are there.
void attention_cached(const Tensor& qkv, const Tensor& lengths, Tensor& cache, Tensor& y) {
  const char* op = "attention_cached";
  const Sizes s(op, qkv);
  PM_CHECK(cache.rank() == 5 && cache.dim(0) == s.batch && cache.dim(2) == 2 &&
               cache.dim(3) == s.heads && cache.dim(4) == s.dim && cache.dtype() == qkv.dtype(),
           op, ": cache is ", to_string(cache.dtype()), " ", to_string(cache.shape()),
           ", expected (B, T_max, 2, H, Dh) to match qkv ", to_string(qkv.shape()));
  check(op, "y", y, s.batch * s.tokens * s.width(), qkv.dtype());
  check(op, "lengths", lengths, s.batch, DType::i32);
  PM_CHECK(s.tokens <= cache.dim(1), op, ": ", s.tokens, " tokens do not fit a cache of ",
           cache.dim(1));
  if (s.empty()) return;
  gpu::visit_floating(qkv.dtype(), op, [&]<class T>() {
    attention::Forward<T> f = forward_of<T>(s, qkv, y);
    f.lengths = data<int32_t>(lengths);
    f.capacity = static_cast<int>(cache.dim(1));
    T* kv = data<T>(cache);
    f.k = {kv, f.capacity * 2 * s.width(), 2 * s.width()};
    f.v = {kv + s.width(), f.k.batch, f.k.row};
    if (!attention::decode(f, data<T>(qkv), kv)) forward_tiles(f);
  });
}

}  // namespace pyramoe::kernels::cuda
