// Loss twins: a block a row of the vocabulary, one pass over the logits forward (the log-sum-exp is
// kept with a running maximum) and one backward, which may write over the logits. The softmax is
// never stored.
//
// A kernel cannot throw: a target at or past the vocabulary gives a loss and a gradient of NaN, so
// the update is skipped and the run stops with exit code 5.
#include "core/kernels/loss.h"

#include "cuda/loss.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 512, kUnroll = 4;

// f(pack, column) on a row of v elements, kUnroll loads on their way; the thread's share only. Rows
// of an odd vocabulary (GPT-2's 50257) start off a 16-byte border: the elements before the first
// border and after the last go one by one, so f must take packs of 1 as well as of N.
template <int N, class T, class F>
__device__ __forceinline__ void each_pack(const T* row, int64_t v, const F& f) {
  const auto one = [&](int64_t column) {
    gpu::Pieces<T, 1> in;
    in.load(row + column);
    f(in, column);
  };
  int64_t begin = 0;
  if constexpr (N > 1) {
    const auto off = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16);
    begin = min(v, static_cast<int64_t>((16 - off) % 16 / sizeof(T)));
    if (threadIdx.x < begin) one(threadIdx.x);
  }
  const int64_t end = begin + (v - begin) / N * N;
  for (int64_t base = begin + threadIdx.x * N; base < end;
       base += int64_t{kThreads} * N * kUnroll) {
    gpu::Pieces<T, N> in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = base + u * kThreads * N;
      if (column < end) in[u].load(row + column);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = base + u * kThreads * N;
      if (column < end) f(in[u], column);
    }
  }
  if (end + threadIdx.x < v) one(end + threadIdx.x);
}

template <int N, class T>
__device__ __forceinline__ float log_sum_exp(const T* row, int64_t v, float factor,
                                             float2* shared) {
  gpu::OnlineSum online;
  each_pack<N>(row, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t) {
    online.add<T, K>(factor, [&](int i) { return in[i]; });
  });
  return online.log_sum_exp(shared);
}

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* logits, const int32_t* target, int64_t v, float* loss, float* lse) {
  __shared__ float2 shared[gpu::kWarp];
  const int64_t n = blockIdx.x;
  const float kept = log_sum_exp<N>(logits + n * v, v, 1.0f, shared);
  if (threadIdx.x != 0) return;
  const int32_t t = target[n];
  lse[n] = kept;
  loss[n] = t < 0 ? 0.0f : t < v ? kept - gpu::to_float(logits[n * v + t]) : NAN;
}

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(gpu::Scalar dloss, double tokens, const T* logits, const int32_t* target,
                    const float* lse, int64_t v, T* dlogits) {
  const int64_t n = blockIdx.x;
  const int64_t t = target[n];
  T* out = dlogits + n * v;
  if (t < 0) {
    for (int64_t i = threadIdx.x; i < v; i += kThreads) out[i] = gpu::from_float<T>(0.0f);
    return;
  }
  const float g = t < v ? static_cast<float>(dloss.get() / tokens) : NAN;
  const gpu::Exponential<T> e(1.0f, lse[n]);
  each_pack<N>(logits + n * v, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
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

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    distill_forward_kernel(const T* student, const T* teacher, int64_t v, float cold, float* loss,
                           float* student_lse, float* teacher_lse) {
  __shared__ float2 shared[2][gpu::kWarp];
  __shared__ float sums[gpu::kWarp];
  const int64_t n = blockIdx.x;
  const T *s = student + n * v, *t = teacher + n * v;
  const float ls = log_sum_exp<N>(s, v, cold, shared[0]);
  const float lt = log_sum_exp<N>(t, v, cold, shared[1]);
  const gpu::Exponential<T> e(cold, lt);
  float gap = 0;
  each_pack<N>(t, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
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
__global__ void __launch_bounds__(kThreads)
    distill_backward_kernel(gpu::Scalar dloss, double factor, const T* student, const T* teacher,
                            int64_t v, float cold, const float* student_lse,
                            const float* teacher_lse, T* dstudent) {
  const int64_t n = blockIdx.x;
  const auto g = static_cast<float>(dloss.get() * factor);
  const gpu::Exponential<T> es(cold, student_lse[n]), et(cold, teacher_lse[n]);
  each_pack<N>(student + n * v, v, [&]<int K>(const gpu::Pieces<T, K>& in, int64_t column) {
    gpu::Pieces<T, K> other;
    other.load(teacher + n * v + column);
    float value[K];
#pragma unroll
    for (int i = 0; i < K; ++i) value[i] = (es(in[i]) - et(other[i])) * g;
    other.put(value);
    other.store(dstudent + n * v + column);
  });
}

void check_rows(const char* name, const Tensor& logits, const Tensor& target) {
  PM_CHECK(target.numel() == logits.dim(0) && target.dtype() == DType::i32, name, ": ",
           logits.dim(0), " rows of logits, ", target.numel(), " targets of ",
           to_string(target.dtype()), ", expected i32");
}
void check_f32(const char* name, const Tensor& x) {
  PM_CHECK(x.dtype() == DType::f32, name, ": losses and log-sum-exps are f32 on a GPU, got ",
           to_string(x.dtype()));
}
void check_pair(const char* name, const Tensor& student, const Tensor& teacher) {
  PM_CHECK(student.shape() == teacher.shape() && student.dtype() == teacher.dtype(), name,
           ": student logits ", to_string(student.shape()), " ", to_string(student.dtype()),
           ", teacher ", to_string(teacher.shape()), " ", to_string(teacher.dtype()));
}

// Calls f with the elements a pack of T has: 16 bytes, or one where the tensors do not start at the
// same place of a 16-byte line (views).
template <class T, class F>
void visit_pack(std::initializer_list<const T*> tensors, F&& f) {
  const auto place = [](const T* p) { return reinterpret_cast<uintptr_t>(p) % 16; };
  bool together = true;
  for (const T* p : tensors) together = together && place(p) == place(*tensors.begin());
  if (together) {
    f.template operator()<static_cast<int>(16 / sizeof(T))>();
  } else {
    f.template operator()<1>();
  }
  PM_LAUNCHED();
}

}  // namespace

void cross_entropy_forward(const Tensor& logits, const Tensor& target, Tensor& loss, Tensor& lse) {
  const char* name = "cross_entropy_forward";
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  check_rows(name, logits, target);
  check_f32(name, loss);
  check_f32(name, lse);
  if (rows == 0) return;
  gpu::visit_floating(logits.dtype(), name, [&]<class T>() {
    const auto* x = gpu::data<const T>(logits);
    visit_pack<T>({x}, [&]<int N>() {
      forward_kernel<N><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
          x, gpu::data<const int32_t>(target), v, gpu::data<float>(loss), gpu::data<float>(lse));
    });
  });
}

void cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& target,
                            const Tensor& lse, int64_t tokens, Tensor& dlogits) {
  const char* name = "cross_entropy_backward";
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  check_rows(name, logits, target);
  check_f32(name, lse);
  if (rows == 0) return;
  gpu::visit_floating(logits.dtype(), name, [&]<class T>() {
    const auto* x = gpu::data<const T>(logits);
    auto* dx = gpu::data<T>(dlogits);
    visit_pack<T>({x, dx}, [&]<int N>() {
      backward_kernel<N><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
          gpu::Scalar(dloss), static_cast<double>(tokens), x, gpu::data<const int32_t>(target),
          gpu::data<const float>(lse), v, dx);
    });
  });
}

void distill_forward(const Tensor& student, const Tensor& teacher, double temperature, Tensor& loss,
                     Tensor& student_lse, Tensor& teacher_lse) {
  const char* name = "distill_forward";
  const int64_t rows = student.dim(0), v = student.dim(1);
  check_pair(name, student, teacher);
  for (const Tensor* x : {&loss, &student_lse, &teacher_lse}) check_f32(name, *x);
  if (rows == 0) return;
  gpu::visit_floating(student.dtype(), name, [&]<class T>() {
    const auto *s = gpu::data<const T>(student), *t = gpu::data<const T>(teacher);
    visit_pack<T>({s, t}, [&]<int N>() {
      distill_forward_kernel<N><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
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
  check_pair(name, student, teacher);
  for (const Tensor* x : {&student_lse, &teacher_lse}) check_f32(name, *x);
  if (rows == 0) return;
  gpu::visit_floating(student.dtype(), name, [&]<class T>() {
    const auto *s = gpu::data<const T>(student), *t = gpu::data<const T>(teacher);
    auto* ds = gpu::data<T>(dstudent);
    visit_pack<T>({s, t, ds}, [&]<int N>() {
      distill_backward_kernel<N><<<gpu::grid(rows, 1), kThreads, 0, gpu::stream()>>>(
          gpu::Scalar(dloss), temperature / static_cast<double>(rows), s, t, v,
          static_cast<float>(1 / temperature), gpu::data<const float>(student_lse),
          gpu::data<const float>(teacher_lse), ds);
    });
  });
}

}  // namespace pyramoe::kernels::cuda
