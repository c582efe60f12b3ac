// Cross-entropy and distillation in one pass over device memory: both losses, and the gradient
// written over the student's logits.
//
// Apart, the two losses and their gradients read the logits of student and teacher four and three
// times and write two gradients, which are then added. Here a block keeps a row of both in shared
// memory (201 KB of GPT-2's vocabulary in bf16), so each is read once: three rows of traffic.
// Exponentials are summed as the rows arrive; where a pack has become gradient, the next rows' are
// asked for at once (cuda/loss_kept.cuh).
#include "core/kernels/loss.h"
#include "cuda/loss_distill.cuh"
#include "cuda/loss_kept.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 640, kWarps = kThreads / 32;

// The rows of one block, and what a thread of it keeps of the row at hand.
//   kOne  temperature 1: the student's exponentials serve both losses
template <class T, bool kOne>
struct Row {
  static constexpr int N = 16 / sizeof(T);
  using Pack = gpu::Pieces<T, N>;

  const gpu::DistillRows<T>& p;
  T *student, *teacher;  // in shared memory
  int packs;
  float2 (*shared)[gpu::kWarp];  // three: of the sums
  gpu::OnlineSum warm, cold, taught;

  __device__ __forceinline__ void ask(int64_t row, int pack) const {
    gpu::copy_async(student + pack * N, p.logits + row * p.v + pack * N);
    gpu::copy_async(teacher + pack * N, p.teacher + row * p.v + pack * N);
  }
  __device__ __forceinline__ void sum(int pack) {
    Pack s, t;
    s.load(student + pack * N);
    t.load(teacher + pack * N);
    warm.template add<T, N>(1.0f, [&](int i) { return s[i]; });
    if constexpr (!kOne) cold.template add<T, N>(p.cold, [&](int i) { return s[i]; });
    taught.template add<T, N>(p.cold, [&](int i) { return t[i]; });
  }
  // Writes the gradient of one row; returns this thread's part of the divergence.
  __device__ __forceinline__ float write(int64_t row, int64_t next) const {
    const float lse = warm.log_sum_exp(shared[0]);
    const float ls = kOne ? lse : cold.log_sum_exp(shared[1]);
    const float lt = taught.log_sum_exp(shared[2]);
    const int hit = p.target[row];
    if (threadIdx.x == 0 && (hit < 0 || hit >= p.v)) p.loss[row] = hit < 0 ? 0.0f : NAN;
    const gpu::DistillFactors factors(p, hit);
    const gpu::Exponential<T> e(1.0f, lse), es(p.cold, ls), et(p.cold, lt);
    float gap = 0;
#pragma unroll
    for (int part = 0; part < gpu::kRowParts; ++part) {
      gpu::each_kept<kThreads>(part, packs, [&](int pack) {
        Pack s, t;
        s.load(student + pack * N);
        t.load(teacher + pack * N);
        float value[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float x = e(s[i]), x_cold = kOne ? x : es(s[i]), q = et(t[i]);
          gap += q * ((t[i] * p.cold - lt) - (s[i] * p.cold - ls));
          value[i] = factors.logit(x, x_cold, q);
        }
        const int here = hit - pack * N;
        if (here >= 0 && here < N) {
#pragma unroll
          for (int i = 0; i < N; ++i) {
            if (i != here) continue;
            const float x = e(s[i]);
            p.loss[row] = lse - s[i];
            value[i] = factors.logit(x - 1.0f, kOne ? x : es(s[i]), et(t[i]));
          }
        }
        s.put(value);
        s.store(p.logits + row * p.v + pack * N);
        if (next < p.rows) ask(next, pack);
      });
      gpu::commit_copies();
    }
    return gap;
  }
};

template <class T, bool kOne>
__global__ void __launch_bounds__(kThreads, 1) distill_kernel(const gpu::DistillRows<T> p) {
  extern __shared__ uint4 slots[];
  __shared__ float2 shared[2][3][gpu::kWarp];
  __shared__ float gaps[2][kWarps];
  T* kept = reinterpret_cast<T*>(slots);
  const int packs = static_cast<int>(p.v) / Row<T, kOne>::N;
  int64_t row = blockIdx.x;
#pragma unroll
  for (int part = 0; part < gpu::kRowParts; ++part) {
    const Row<T, kOne> first{p, kept, kept + p.v, packs, shared[0]};
    gpu::each_kept<kThreads>(part, packs, [&](int pack) { first.ask(row, pack); });
    gpu::commit_copies();
  }
  // Two sets of sums, in turn: a barrier of the row between guards their second use.
  for (int set = 0; row < p.rows; row += gridDim.x, set ^= 1) {
    Row<T, kOne> r{p, kept, kept + p.v, packs, shared[set]};
    gpu::each_arriving<kThreads>(packs, [&](int pack) { r.sum(pack); });
    const float gap = gpu::warp_sum(r.write(row, row + gridDim.x));
    const unsigned lane = threadIdx.x % gpu::kWarp, warp = threadIdx.x / gpu::kWarp;
    if (lane == 0) gaps[set][warp] = gap;
    __syncthreads();
    if (warp != 0) continue;
    const float all = gpu::warp_sum(lane < kWarps ? gaps[set][lane] : 0.0f);
    if (lane == 0) p.distill[row] = all / (p.cold * p.cold);
  }
}

template <class T, bool kOne>
void launch(const gpu::DistillRows<T>& p, int64_t bytes, int most) {
  gpu::allow_shared_memory(reinterpret_cast<const void*>(distill_kernel<T, kOne>), most);
  distill_kernel<T, kOne>
      <<<gpu::grid(p.rows, 1, gpu::blocks_together(bytes) * gpu::multiprocessors()), kThreads,
         static_cast<size_t>(bytes), gpu::stream()>>>(p);
  PM_LAUNCHED();
}

void check_call(const Tensor& target, const Tensor& teacher, const Tensor& weight,
                const Tensor& logits, const Tensor& loss, const Tensor& distill) {
  PM_CHECK(teacher.shape() == logits.shape() && teacher.dtype() == logits.dtype() &&
               target.numel() == logits.dim(0) && target.dtype() == DType::i32 &&
               loss.dtype() == DType::f32 && distill.dtype() == DType::f32 &&
               weight.dtype() == DType::f64 && weight.numel() == 2,
           "distill_in_place: student logits ", to_string(logits.shape()), " ",
           to_string(logits.dtype()), ", teacher ", to_string(teacher.shape()), " ",
           to_string(teacher.dtype()), ", ", target.numel(), " targets of ",
           to_string(target.dtype()), ", losses ", to_string(loss.dtype()), " and ",
           to_string(distill.dtype()), ", ", weight.numel(), " weights of ",
           to_string(weight.dtype()), "; expected like logits, i32 targets, f32 losses and two ",
           "weights of f64");
}

}  // namespace

void distill_in_place(const Tensor& target, const Tensor& teacher, double temperature,
                      const Tensor& weight, int64_t tokens, Tensor& logits, Tensor& loss,
                      Tensor& distill) {
  check_call(target, teacher, weight, logits, loss, distill);
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  if (rows == 0) return;
  gpu::visit_floating(logits.dtype(), "distill_in_place", [&]<class T>() {
    const gpu::DistillRows<T> p{rows,
                                v,
                                static_cast<double>(tokens),
                                static_cast<float>(temperature),
                                static_cast<float>(1 / temperature),
                                gpu::data<const double>(weight),
                                gpu::data<const int32_t>(target),
                                gpu::data<const T>(teacher),
                                gpu::data<T>(logits),
                                gpu::data<float>(loss),
                                gpu::data<float>(distill)};
    const int64_t bytes = 2 * v * static_cast<int64_t>(sizeof(T));
    const int most = gpu::most_row_bytes();
    if (!gpu::rows_aligned(p.logits, v) || !gpu::rows_aligned(p.teacher, v) || bytes > most) {
      return gpu::distill_from_memory(p);
    }
    temperature == 1 ? launch<T, true>(p, bytes, most) : launch<T, false>(p, bytes, most);
  });
}

}  // namespace pyramoe::kernels::cuda
