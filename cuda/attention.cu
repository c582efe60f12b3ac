// CUDA twins of core/kernels/attention.h: from tensors to one of the paths of attention.cuh.
//
// Hopper kernels where they fit (bf16, head dim 64 or 128), the mma kernels for other bf16 heads up
// to 128, the plain ones for the rest. A prompt that goes into a cache takes the same tiles as the
// portable forward pass, so there its bits are the same; a decode step of few tokens sums over
// chunks of keys instead and agrees within rounding.
#include "core/kernels/attention.h"

#include "core/kernels/attention_checks.h"
#include "cuda/attention.cuh"
#include "cuda/attention_keep.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Bf16;
using gpu::data;
namespace attention = gpu::attention;
using Sizes = AttentionSizes;

void check_tiles(const char* op, const Sizes& s) {
  const int64_t tiles = s.batch * s.heads * gpu::ceil_div(s.tokens, 16);
  PM_CHECK(s.tokens < int64_t{1} << 30 && tiles < int64_t{1} << 31, op, ": ", s.batch,
           " sequences of ", s.tokens, " tokens and ", s.heads, " heads are ", tiles,
           " tiles of 16 queries; the CUDA kernels take up to 2^31: split the batch");
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
  PM_CHECK(dropout.heads == 0 || dropout.heads == s.heads, "attention dropout: ", s.heads, " of ",
           dropout.heads,
           " heads are here; the CUDA kernels draw the masks of a whole layer: keep ",
           "its heads on one device, or leave dropout out");
  attention::Drop d;
  d.threshold = static_cast<uint32_t>(std::ceil(dropout.p * 16777216.0));
  d.factor = static_cast<float>(1 / (1 - dropout.p));
  d.key = dropout.key;
  d.first_head = static_cast<uint64_t>(dropout.first_sequence * s.heads);
  d.heads = static_cast<uint64_t>(s.heads);
  d.tokens = static_cast<uint64_t>(s.tokens);
  return d;
}

// Both passes answer the same: the backward pass has twice the bits.
bool hopper_drops(const AttentionDropout& dropout, const Sizes& s) {
  return dropout.p <= 0 ||
         attention::KeepBits::bytes(s.batch, s.heads, s.tokens, true) <= attention::kMostKeepBytes;
}

template <class T>
attention::Forward<T> forward_of(const Sizes& s, const Tensor& qkv, const Tensor& y) {
  attention::Forward<T> f{};
  const T* x = data<T>(qkv);
  f.q = packed_rows(x, s, 0), f.k = packed_rows(x, s, 1), f.v = packed_rows(x, s, 2);
  f.y = output_rows(data<T>(y), s);
  f.batch = static_cast<int>(s.batch), f.heads = static_cast<int>(s.heads);
  f.queries = f.capacity = static_cast<int>(s.tokens), f.dim = static_cast<int>(s.dim);
  f.scale = static_cast<float>(s.scale());
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
  const Sizes s = check_attention_forward(op, qkv, y, lse);
  check_tiles(op, s);
  if (s.empty()) return;
  gpu::visit_floating(qkv.dtype(), op, [&]<class T>() {
    attention::Forward<T> f = forward_of<T>(s, qkv, y);
    f.lse = data<float>(lse);
    f.drop = drop(dropout, s);
    if constexpr (sizeof(T) == 2) {
      const bool fits =
          attention::hopper_takes(f.dim, qkv.raw(), y.raw()) && hopper_drops(dropout, s);
      if (fits) return attention::hopper_forward(f);
    }
    forward_tiles(f);
  });
}

void attention_backward(const Tensor& dy, const Tensor& qkv, const Tensor& y, const Tensor& lse,
                        const AttentionDropout& dropout, Tensor& dqkv) {
  const char* op = "attention_backward";
  const Sizes s = check_attention_backward(op, dy, qkv, y, lse, dqkv);
  check_tiles(op, s);
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
                        attention::hopper_takes(f.dim, dqkv.raw(), y.raw()) &&
                        hopper_drops(dropout, s);
      if (fits) return attention::hopper_backward(f);
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
  const Sizes s = check_attention_cached(op, qkv, lengths, cache, y);
  check_tiles(op, s);
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
