// A block a row of the vocabulary, for kernels that read their rows from device memory: the walk
// over a row, its log-sum-exp, and the checks of a call.
#pragma once

#include "cuda/loss.cuh"

namespace pyramoe::gpu {

inline constexpr int kRowThreads = 512, kRowUnroll = 4;

// f(pack, column) on a row of v elements, kRowUnroll loads on their way; the thread's share only.
// Rows of an odd vocabulary (GPT-2's 50257) start off a 16-byte border: the elements before the
// first border and after the last go one by one, so f must take packs of 1 as well as of N.
template <int N, class T, class F>
__device__ __forceinline__ void each_pack(const T* row, int64_t v, const F& f) {
  const auto one = [&](int64_t column) {
    Pieces<T, 1> in;
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
       base += int64_t{kRowThreads} * N * kRowUnroll) {
    Pieces<T, N> in[kRowUnroll];
#pragma unroll
    for (int u = 0; u < kRowUnroll; ++u) {
      const int64_t column = base + u * kRowThreads * N;
      if (column < end) in[u].load(row + column);
    }
#pragma unroll
    for (int u = 0; u < kRowUnroll; ++u) {
      const int64_t column = base + u * kRowThreads * N;
      if (column < end) f(in[u], column);
    }
  }
  if (end + threadIdx.x < v) one(end + threadIdx.x);
}

template <int N, class T>
__device__ __forceinline__ float log_sum_exp(const T* row, int64_t v, float factor,
                                             float2* shared) {
  OnlineSum online;
  each_pack<N>(row, v, [&]<int K>(const Pieces<T, K>& in, int64_t) {
    online.add<T, K>(factor, [&](int i) { return in[i]; });
  });
  return online.log_sum_exp(shared);
}

inline void check_targets(const char* name, const Tensor& logits, const Tensor& target) {
  PM_CHECK(target.numel() == logits.dim(0) && target.dtype() == DType::i32, name, ": ",
           logits.dim(0), " rows of logits, ", target.numel(), " targets of ",
           to_string(target.dtype()), ", expected i32");
}
inline void check_f32(const char* name, const Tensor& x) {
  PM_CHECK(x.dtype() == DType::f32, name, ": losses and log-sum-exps are f32 on a GPU, got ",
           to_string(x.dtype()));
}
inline void check_pair(const char* name, const Tensor& student, const Tensor& teacher) {
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

}  // namespace pyramoe::gpu
