// Cross-entropy twins: a block a row of the vocabulary, one pass over the logits forward (the
// log-sum-exp is kept with a running maximum) and one backward, which may write over the logits.
// The softmax is never stored.
//
// A kernel cannot throw: a target at or past the vocabulary gives a loss and a gradient of NaN, so
// the update is skipped and the run stops with exit code 5.
#include "core/kernels/loss.h"

#include "cuda/loss_rows.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::kRowThreads;

template <int N, class T>
__global__ void __launch_bounds__(kRowThreads)
    forward_kernel(const T* logits, const int32_t* target, int64_t v, float* loss, float* lse) {
  __shared__ float2 shared[gpu::kWarp];
  const int64_t n = blockIdx.x;
  const float kept = gpu::log_sum_exp<N>(logits + n * v, v, 1.0f, shared);
  if (threadIdx.x != 0) return;
  const int32_t t = target[n];
  lse[n] = kept;
  loss[n] = t < 0 ? 0.0f : t < v ? kept - gpu::to_float(logits[n * v + t]) : NAN;
}

template <int N, class T>
__global__ void __launch_bounds__(kRowThreads)
    backward_kernel(gpu::Scalar dloss, double tokens, const T* logits, const int32_t* target,
                    const float* lse, int64_t v, T* dlogits) {
  const int64_t n = blockIdx.x;
  const int64_t t = target[n];
  T* out = dlogits + n * v;
  if (t < 0) {
    for (int64_t i = threadIdx.x; i < v; i += kRowThreads) out[i] = gpu::from_float<T>(0.0f);
    return;
  }
  const float g = t < v ? static_cast<float>(dloss.get() / tokens) : NAN;
  const gpu::Exponential<T> e(1.0f, lse[n]);
  gpu::each_pack<N>(logits + n * v, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    float value[K];
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const float p = e(in[i]);
      value[i] = (t - column == i ? p - 1.0f : p) * g;
    }
    gpu::Pieces<T, K> y;
    y.put(value);
    y.store(out + column);
  });
}

}  // namespace

void cross_entropy_forward(const Tensor& logits, const Tensor& target, Tensor& loss, Tensor& lse) {
  const char* name = "cross_entropy_forward";
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  gpu::check_targets(name, logits, target);
  gpu::check_f32(name, loss);
  gpu::check_f32(name, lse);
  if (rows == 0) return;
  gpu::visit_floating(logits.dtype(), name, [&]<class T>() {
    const auto* x = gpu::data<const T>(logits);
    gpu::visit_pack<T>({x}, [&]<int N>() {
      forward_kernel<N><<<gpu::grid(rows, 1), kRowThreads, 0, gpu::stream()>>>(
          x, gpu::data<const int32_t>(target), v, gpu::data<float>(loss), gpu::data<float>(lse));
    });
  });
}

void cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& target,
                            const Tensor& lse, int64_t tokens, Tensor& dlogits) {
  const char* name = "cross_entropy_backward";
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  gpu::check_targets(name, logits, target);
  gpu::check_f32(name, lse);
  if (rows == 0) return;
  gpu::visit_floating(logits.dtype(), name, [&]<class T>() {
    const auto* x = gpu::data<const T>(logits);
    auto* dx = gpu::data<T>(dlogits);
    gpu::visit_pack<T>({x, dx}, [&]<int N>() {
      backward_kernel<N><<<gpu::grid(rows, 1), kRowThreads, 0, gpu::stream()>>>(
          gpu::Scalar(dloss), static_cast<double>(tokens), x, gpu::data<const int32_t>(target),
          gpu::data<const float>(lse), v, dx);
    });
  });
}

}  // namespace pyramoe::kernels::cuda
