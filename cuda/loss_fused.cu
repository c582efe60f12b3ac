// Cross-entropy in one pass over device memory: the loss, and the gradient written over the logits.
//
// Forward and backward apart read the logits twice and write them once: 4.9 GB for 16384 tokens of
// GPT-2's vocabulary in bf16. Here a block keeps its row in shared memory between the two (100 KB;
// two rows fit a multiprocessor), so the first read is the only one: 3.3 GB.
//
// Exponentials are summed as the row arrives; where a pack has become gradient, the next row's is
// asked for at once (cuda/loss_kept.cuh), so the memory bus has always a row on its way in and one
// on its way out.
#include "core/kernels/loss.h"
#include "cuda/loss_kept.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class T>
struct Fused {
  int64_t rows;
  int v;
  float g;  // d(objective)/d(loss of one row)
  const int32_t* target;
  T* logits;
  float* loss;
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2) fused_kernel(Fused<T> p) {
  constexpr int N = 16 / sizeof(T);
  extern __shared__ uint4 slots[];
  __shared__ float2 shared[2][kWarps];
  T* kept = reinterpret_cast<T*>(slots);
  const int packs = p.v / N;
  const auto load = [&](int64_t row, int pack) {
    gpu::copy_async(kept + pack * N, p.logits + row * p.v + pack * N);
  };
  int64_t row = blockIdx.x;
#pragma unroll
  for (int part = 0; part < gpu::kRowParts; ++part) {
    gpu::each_kept<kThreads>(part, packs, [&](int pack) { load(row, pack); });
    gpu::commit_copies();
  }
  for (int set = 0; row < p.rows; row += gridDim.x, set ^= 1) {
    const int t = p.target[row];
    gpu::OnlineSum online;
    const auto sum = [&](int pack) {
      gpu::Pieces<T, N> in;
      in.load(kept + pack * N);
      online.add<T, N>(1.0f, [&](int i) { return in[i]; });
    };
    gpu::each_arriving<kThreads>(packs, sum);
    const float lse = online.log_sum_exp(shared[set]);
    const bool counts = t >= 0;
    const float g = t < p.v ? p.g : NAN;
    if (threadIdx.x == 0 && (!counts || t >= p.v)) p.loss[row] = counts ? NAN : 0.0f;
    const gpu::Exponential<T> e(1.0f, lse);
    const int64_t next = row + gridDim.x;
#pragma unroll
    for (int part = 0; part < gpu::kRowParts; ++part) {
      gpu::each_kept<kThreads>(part, packs, [&](int pack) {
        gpu::Pieces<T, N> in;
        in.load(kept + pack * N);
        float value[N];
#pragma unroll
        for (int i = 0; i < N; ++i) value[i] = counts ? e(in[i]) * g : 0.0f;
        const int hit = t - pack * N;
        if (hit >= 0 && hit < N) {
#pragma unroll
          for (int i = 0; i < N; ++i) {
            if (i != hit) continue;
            p.loss[row] = lse - in[i];
            value[i] = (e(in[i]) - 1.0f) * g;
          }
        }
        in.put(value);
        in.store(p.logits + row * p.v + pack * N);
        if (next < p.rows) load(next, pack);
      });
      gpu::commit_copies();
    }
  }
}

}  // namespace

void cross_entropy_in_place(const Tensor& target, int64_t tokens, Tensor& logits, Tensor& loss) {
  const int64_t rows = logits.dim(0), v = logits.dim(1);
  PM_CHECK(target.numel() == rows && target.dtype() == DType::i32 && loss.dtype() == DType::f32,
           "cross_entropy_in_place: ", rows, " rows of logits, ", target.numel(), " targets of ",
           to_string(target.dtype()), ", loss ", to_string(loss.dtype()),
           "; expected i32 targets and an f32 loss");
  if (rows == 0) return;
  const int64_t bytes = v * size_of(logits.dtype());
  const int most = gpu::most_row_bytes();
  if (!gpu::rows_aligned(static_cast<const char*>(logits.raw()), bytes) || bytes > most) {
    Tensor lse({rows}, DType::f32, logits.device());  // rows that do not fit: in two passes
    cross_entropy_forward(logits, target, loss, lse);
    cross_entropy_backward(Tensor::scalar(1, DType::f32, logits.device()), logits, target, lse,
                           tokens, logits);
    return;
  }
  gpu::visit_floating(logits.dtype(), "cross_entropy_in_place", [&]<class T>() {
    gpu::allow_shared_memory(reinterpret_cast<const void*>(fused_kernel<T>), most);
    const Fused<T> p{rows,
                     static_cast<int>(v),
                     static_cast<float>(1.0 / static_cast<double>(tokens)),
                     gpu::data<const int32_t>(target),
                     gpu::data<T>(logits),
                     gpu::data<float>(loss)};
    fused_kernel<<<gpu::grid(rows, 1, gpu::blocks_together(bytes) * gpu::multiprocessors()),
                   kThreads, static_cast<size_t>(bytes), gpu::stream()>>>(p);
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
