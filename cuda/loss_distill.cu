// Distillation twins that read their rows from device memory: a block a row of both vocabularies.
// distill_in_place comes here where two rows do not fit in shared memory
// (cuda/loss_distill_fused.cu).
#include "core/kernels/loss.h"
#include "cuda/loss_distill.cuh"
#include "cuda/loss_rows.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::kRowThreads;

template <int N, class T>
__global__ void __launch_bounds__(kRowThreads)
    distill_forward_kernel(const T* student, const T* teacher, int64_t v, float cold, float* loss,
                           float* student_lse, float* teacher_lse) {
  __shared__ float2 shared[2][gpu::kWarp];
  __shared__ float sums[gpu::kWarp];
  const int64_t n = blockIdx.x;
  const T *s = student + n * v, *t = teacher + n * v;
  const float ls = gpu::log_sum_exp<N>(s, v, cold, shared[0]);
  const float lt = gpu::log_sum_exp<N>(t, v, cold, shared[1]);
  const gpu::Exponential<T> e(cold, lt);
  float gap = 0;
  gpu::each_pack<N>(t, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    gpu::Pieces<T, K> other;
    other.load(s + column);
#pragma unroll
    for (int i = 0; i < K; ++i) {
      gap += e(in[i]) * ((in[i] * cold - lt) - (other[i] * cold - ls));
    }
  });
  gap = gpu::block_sum(gap, sums);
  if (threadIdx.x != 0) return;
  loss[n] = gap / (cold * cold);
  student_lse[n] = ls;
  teacher_lse[n] = lt;
}

template <int N, class T>
__global__ void __launch_bounds__(kRowThreads)
    distill_backward_kernel(gpu::Scalar dloss, double factor, const T* student, const T* teacher,
                            int64_t v, float cold, const float* student_lse,
                            const float* teacher_lse, T* dstudent) {
  const int64_t n = blockIdx.x;
  const auto g = static_cast<float>(dloss.get() * factor);
  const gpu::Exponential<T> es(cold, student_lse[n]), et(cold, teacher_lse[n]);
  gpu::each_pack<N>(student + n * v, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    gpu::Pieces<T, K> other;
    other.load(teacher + n * v + column);
    float value[K];
#pragma unroll
    for (int i = 0; i < K; ++i) value[i] = (es(in[i]) - et(other[i])) * g;
    other.put(value);
    other.store(dstudent + n * v + column);
  });
}

// Both losses and the gradient over the student's logits: one look for all sums, one more to write.
template <int N, class T>
__global__ void __launch_bounds__(kRowThreads) in_place_kernel(gpu::DistillRows<T> p) {
  __shared__ float2 shared[3][gpu::kWarp];
  __shared__ float sums[gpu::kWarp];
  const int64_t n = blockIdx.x;
  const int t = p.target[n];
  T* student = p.logits + n * p.v;
  const T* teacher = p.teacher + n * p.v;
  const bool known = t >= 0 && t < p.v;
  const float hit_logit = known ? gpu::to_float(student[t]) : 0.0f;
  gpu::OnlineSum warm, cold, taught;
  gpu::each_pack<N>(student, p.v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    gpu::Pieces<T, K> other;
    other.load(teacher + column);
    warm.add<T, K>(1.0f, [&](int i) { return in[i]; });
    cold.add<T, K>(p.cold, [&](int i) { return in[i]; });
    taught.add<T, K>(p.cold, [&](int i) { return other[i]; });
  });
  const float lse = warm.log_sum_exp(shared[0]), ls = cold.log_sum_exp(shared[1]),
              lt = taught.log_sum_exp(shared[2]);
  const gpu::DistillFactors factors(p, t);
  const gpu::Exponential<T> e(1.0f, lse), es(p.cold, ls), et(p.cold, lt);
  float gap = 0;
  gpu::each_pack<N>(student, p.v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    gpu::Pieces<T, K> other;
    other.load(teacher + column);
    float value[K];
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const float q = et(other[i]), hit = t - column == i ? 1.0f : 0.0f;
      gap += q * ((other[i] * p.cold - lt) - (in[i] * p.cold - ls));
      value[i] = factors.logit(e(in[i]) - hit, es(in[i]), q);
    }
    other.put(value);
    other.store(student + column);
  });
  gap = gpu::block_sum(gap, sums);
  if (threadIdx.x != 0) return;
  p.loss[n] = t < 0 ? 0.0f : known ? lse - hit_logit : NAN;
  p.distill[n] = gap / (p.cold * p.cold);
}

}  // namespace

void distill_forward(const Tensor& student, const Tensor& teacher, double temperature, Tensor& loss,
                     Tensor& student_lse, Tensor& teacher_lse) {
  const char* name = "distill_forward";
  const int64_t rows = student.dim(0), v = student.dim(1);
  gpu::check_pair(name, student, teacher);
  for (const Tensor* x : {&loss, &student_lse, &teacher_lse}) gpu::check_f32(name, *x);
  if (rows == 0) return;
  gpu::visit_floating(student.dtype(), name, [&]<class T>() {
    const auto *s = gpu::data<const T>(student), *t = gpu::data<const T>(teacher);
    gpu::visit_pack<T>({s, t}, [&]<int N>() {
      distill_forward_kernel<N><<<gpu::grid(rows, 1), kRowThreads, 0, gpu::stream()>>>(
          s, t, v, static_cast<float>(1 / temperature), gpu::data<float>(loss),
          gpu::data<float>(student_lse), gpu::data<float>(teacher_lse));
    });
  });
}

void distill_backward(const Tensor& dloss, const Tensor& student, const Tensor& teacher,
                      double temperature, const Tensor& student_lse, const Tensor& teacher_lse,
                      Tensor& dstudent) {
  const char* name = "distill_backward";
  const int64_t rows = student.dim(0), v = student.dim(1);
  gpu::check_pair(name, student, teacher);
  for (const Tensor* x : {&student_lse, &teacher_lse}) gpu::check_f32(name, *x);
  if (rows == 0) return;
  gpu::visit_floating(student.dtype(), name, [&]<class T>() {
    const auto *s = gpu::data<const T>(student), *t = gpu::data<const T>(teacher);
    auto* ds = gpu::data<T>(dstudent);
    gpu::visit_pack<T>({s, t, ds}, [&]<int N>() {
      distill_backward_kernel<N><<<gpu::grid(rows, 1), kRowThreads, 0, gpu::stream()>>>(
          gpu::Scalar(dloss), temperature / static_cast<double>(rows), s, t, v,
          static_cast<float>(1 / temperature), gpu::data<const float>(student_lse),
          gpu::data<const float>(teacher_lse), ds);
    });
  });
}

}  // namespace pyramoe::kernels::cuda

namespace pyramoe::gpu {

template <class T>
void distill_from_memory(const DistillRows<T>& p) {
  const T* student = p.logits;
  visit_pack<T>({student, p.teacher}, [&]<int N>() {
    kernels::cuda::in_place_kernel<N><<<grid(p.rows, 1), kRowThreads, 0, stream()>>>(p);
  });
}
template void distill_from_memory(const DistillRows<float>&);
template void distill_from_memory(const DistillRows<Bf16>&);

}  // namespace pyramoe::gpu
