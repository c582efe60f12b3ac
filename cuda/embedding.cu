// Table look-up twins.
//
// The gradient of a table is a sum over the places that looked a row up. Atomic adds would give
// other bits in every run, so the places are sorted by row first (cuda/sort.cuh, stable): a run of
// equal ids is then added by one warp, in order of n, and written once.
//
// A kernel cannot throw. An id outside its table gives a row of NaN, so loss and norm are NaN, the
// update is skipped and the run stops with exit code 5; whoever uploads ids can check them on the
// host first, where a message names the place. No memory outside the tables is touched.
#include "core/kernels/embedding.h"

#include "cuda/map.cuh"
#include "cuda/sort.cuh"

namespace pyramoe::kernels::cuda {
namespace {

constexpr int kThreads = 256;  // eight warps

template <class T>
struct LookUp {
  int64_t rows, d, tokens, positions;  // tables are (tokens, d) and (positions, d)
  const int32_t *token, *position;
  const T *token_table, *position_table;
  T* y;
};

// A warp a row, N elements a lane.
template <int N, class T>
__global__ void __launch_bounds__(kThreads) look_up_kernel(LookUp<T> p) {
  const int64_t n = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (n >= p.rows) return;
  const int64_t token = p.token[n], position = p.position[n];
  const bool valid = token >= 0 && token < p.tokens && position >= 0 && position < p.positions;
  const T* a = p.token_table + token * p.d;
  const T* b = p.position_table + position * p.d;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32 * N; i < p.d; i += 32 * N) {
    gpu::Pieces<T, N> x, y;
    float sum[N];
    if (valid) {
      x.load(a + i);
      y.load(b + i);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] = valid ? x[j] + y[j] : NAN;
    x.put(sum);
    x.store(p.y + n * p.d + i);
  }
}

template <class T, class Y>
struct Gather {
  int64_t count, d, limit;
  const int32_t *key, *order;
  const T* dy;
  bool accumulate;
  Y* dtable;
};

// The warp at the first of a run of equal keys adds the run's rows of dy, 32 * N columns of them.
template <int N, class T, class Y>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<T, Y> p) {
  const int64_t i = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (i >= p.count) return;
  const int32_t key = p.key[i];
  if (key >= p.limit || (i > 0 && p.key[i - 1] == key)) return;
  const int lane = threadIdx.x % 32;
  const int64_t column = (int64_t{blockIdx.y} * 32 + lane) * N;
  const bool inside = column < p.d;
  float sum[N] = {};
  // 32 places at a time: a lane looks up one, then all take them in turn, four rows on their way.
  for (int64_t base = i;; base += 32) {
    const bool mine = base + lane < p.count && p.key[base + lane] == key;
    const int32_t place = mine ? p.order[base + lane] : 0;
    const int count = __popc(__ballot_sync(0xffffffffu, mine));  // the run is contiguous
    for (int k = 0; k < count; k += 4) {
      gpu::Pieces<T, N> row[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int64_t n = __shfl_sync(0xffffffffu, place, k + u);
        if (inside && k + u < count) row[u].load(p.dy + n * p.d + column);
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        if (inside && k + u < count) {
#pragma unroll
          for (int j = 0; j < N; ++j) sum[j] += row[u][j];
        }
      }
    }
    if (count < 32) break;
  }
  if (!inside) return;
  Y* out = p.dtable + int64_t{key} * p.d + column;
  gpu::Pieces<Y, N> y;
  if (p.accumulate) {
    y.load(out);
#pragma unroll
    for (int j = 0; j < N; ++j) sum[j] = y[j] + sum[j];
  }
  y.put(sum);
  y.store(out);
}

}  // namespace

void embedding_forward(const Tensor& token, const Tensor& position, const Tensor& token_table,
                       const Tensor& position_table, Tensor& y) {
  const int64_t d = token_table.dim(1), rows = token.numel();
  PM_CHECK(position.numel() == rows && position_table.dim(1) == d && y.numel() == rows * d,
           "embedding: ", rows, " tokens, ", position.numel(), " positions, tables ",
           to_string(token_table.shape()), " and ", to_string(position_table.shape()), ", y ",
           to_string(y.shape()));
  PM_CHECK(token_table.dtype() == y.dtype() && position_table.dtype() == y.dtype() &&
               token.dtype() == DType::i32 && position.dtype() == DType::i32,
           "embedding: ids must be i32 and both tables of y's dtype, ", to_string(y.dtype()));
  if (rows * d == 0) return;
  gpu::visit_floating(y.dtype(), "embedding_forward", [&]<class T>() {
    const LookUp<T> p{rows,
                      d,
                      token_table.dim(0),
                      position_table.dim(0),
                      gpu::data<const int32_t>(token),
                      gpu::data<const int32_t>(position),
                      gpu::data<const T>(token_table),
                      gpu::data<const T>(position_table),
                      gpu::data<T>(y)};
    const unsigned blocks = gpu::grid(rows, kThreads / 32);
    if (gpu::rows_aligned(p.y, d) && gpu::aligned16(p.token_table) &&
        gpu::aligned16(p.position_table)) {
      look_up_kernel<16 / sizeof(T)><<<blocks, kThreads, 0, gpu::stream()>>>(p);
    } else {
      look_up_kernel<1><<<blocks, kThreads, 0, gpu::stream()>>>(p);
    }
    PM_LAUNCHED();
  });
}

void embedding_backward(const Tensor& dy, const Tensor& index, bool accumulate, Tensor& dtable) {
  const int64_t rows = dtable.dim(0), d = dtable.dim(1), count = index.numel();
  PM_CHECK(dy.numel() == count * d, "embedding_backward: dy is ", to_string(dy.shape()), " for ",
           count, " places and rows of ", d);
  PM_CHECK(index.dtype() == DType::i32, "embedding_backward: ids are ", to_string(index.dtype()),
           ", expected i32");
  if (!accumulate) dtable.zero();  // rows that nobody looked up
  if (count * d == 0) return;
  const gpu::SortedIds sorted(gpu::data<const int32_t>(index), count, rows);
  gpu::visit_floating(dy.dtype(), "embedding_backward", [&]<class T>() {
    gpu::visit_floating(dtable.dtype(), "embedding_backward", [&]<class Y>() {
      const Gather<T, Y> p{count,          d,
                           rows,           sorted.key(),
                           sorted.order(), gpu::data<const T>(dy),
                           accumulate,     gpu::data<Y>(dtable)};
      constexpr int kPack = gpu::kPackOf<T, Y>;
      const unsigned blocks = gpu::grid(count, kThreads / 32);
      if (gpu::rows_aligned(p.dy, d) && gpu::rows_aligned(p.dtable, d) && d % kPack == 0) {
        const dim3 shape(blocks, gpu::grid(d, 32 * kPack));
        gather_kernel<kPack><<<shape, kThreads, 0, gpu::stream()>>>(p);
      } else {
        const dim3 shape(blocks, gpu::grid(d, 32));
        gather_kernel<1><<<shape, kThreads, 0, gpu::stream()>>>(p);
      }
      PM_LAUNCHED();
    });
  });
}

}  // namespace pyramoe::kernels::cuda
