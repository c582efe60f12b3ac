// Table look-up twins.
//
// The gradient of a table is a sum over the places that looked a row up. Atomic adds would give
// other bits in every run, so the places are sorted by row first (cuda/sort.cuh, stable): runs of
// equal ids are then added in order of n and written once.
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

// The sorted places are cut into tiles of 64. A run of equal keys inside a tile is added by one
// warp and written; a run over several tiles (a frequent word) leaves a part a tile in scratch, and
// the parts are added, in order, by a second kernel. So a hot row costs no more than many cold
// ones.
constexpr int kTile = 64;

template <class T, class Y>
struct Gather {
  int64_t count, d, limit;
  const int32_t *key, *order;
  const T* dy;
  bool accumulate;
  Y* dtable;
  float* parts;  // (2 tiles, d): of the run at a tile's first place, of the one that leaves it

  __device__ bool same(int64_t i, int32_t k) const { return i >= 0 && i < count && key[i] == k; }
};

// row `key` of the table (+)= sum, N columns.
template <int N, class T, class Y>
__device__ __forceinline__ void write_row(const Gather<T, Y>& p, int32_t key, int64_t column,
                                          float (&sum)[N]) {
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

// Adds rows place(0), place(1), ... place(count - 1) of a matrix, in order, four on their way. The
// whole warp calls it with the same count.
template <int N, class T>
__device__ __forceinline__ void add_rows(const T* rows, int64_t d, int64_t column, int count,
                                         int32_t place, float (&sum)[N]) {
  const bool inside = column < d;
  for (int k = 0; k < count; k += 4) {
    gpu::Pieces<T, N> row[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int64_t n = __shfl_sync(0xffffffffu, place, (k + u) % 32);
      if (inside && k + u < count) row[u].load(rows + n * d + column);
    }
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (!inside || k + u >= count) continue;
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += row[u][j];
    }
  }
}

// The warp of a run's first place, or of a tile's first, adds the run up to the end of the tile;
// 32 * N columns of it.
template <int N, class T, class Y>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<T, Y> p) {
  const int64_t i = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (i >= p.count) return;
  const int32_t key = p.key[i];
  const bool starts = !p.same(i - 1, key);
  if (key >= p.limit || (!starts && i % kTile != 0)) return;
  const int lane = threadIdx.x % 32;
  const int64_t column = (int64_t{blockIdx.y} * 32 + lane) * N, tile = i / kTile;
  const int64_t border = (tile + 1) * kTile;
  float sum[N] = {};
  for (int64_t base = i; base < border; base += 32) {
    // A lane looks up one place, then all take them in turn. The run is contiguous.
    const bool mine = base + lane < border && p.same(base + lane, key);
    const int32_t place = mine ? p.order[base + lane] : 0;
    const int count = __popc(__ballot_sync(0xffffffffu, mine));
    add_rows<N>(p.dy, p.d, column, count, place, sum);
    if (count < 32) break;
  }
  if (column >= p.d) return;
  if (starts && !(p.same(border - 1, key) && p.same(border, key))) {
    write_row<N>(p, key, column, sum);
  } else {
    gpu::Pieces<float, N> part;
    part.put(sum);
    part.store(p.parts + (2 * tile + (i % kTile != 0 ? 1 : 0)) * p.d + column);
  }
}

// The warp of a tile in which a run starts that leaves it adds the run's parts.
template <int N, class T, class Y>
__global__ void __launch_bounds__(kThreads) join_kernel(Gather<T, Y> p) {
  const int64_t tile = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int64_t begin = tile * kTile, border = begin + kTile;
  if (border >= p.count) return;
  const int32_t key = p.key[border];
  if (key >= p.limit || !p.same(border - 1, key)) return;  // nothing leaves this tile
  const bool from_first = p.key[begin] == key;
  if (from_first && p.same(begin - 1, key)) return;  // it came from further up
  const int lane = threadIdx.x % 32;
  const int64_t column = (int64_t{blockIdx.y} * 32 + lane) * N;
  float sum[N] = {};
  add_rows<N>(p.parts, p.d, column, 1, static_cast<int32_t>(2 * tile + (from_first ? 0 : 1)), sum);
  for (int64_t next = tile + 1;; next += 32) {
    const bool mine = p.same((next + lane) * kTile, key);
    const int count = __popc(__ballot_sync(0xffffffffu, mine));
    add_rows<N>(p.parts, p.d, column, count, static_cast<int32_t>(2 * (next + lane)), sum);
    if (count < 32) break;
  }
  if (column < p.d) write_row<N>(p, key, column, sum);
}

template <int N, class T, class Y>
void launch_gather(const Gather<T, Y>& p) {
  const unsigned slices = gpu::grid(p.d, 32 * N);
  const dim3 places(gpu::grid(p.count, kThreads / 32), slices);
  gather_kernel<N><<<places, kThreads, 0, gpu::stream()>>>(p);
  PM_LAUNCHED();
  const dim3 tiles(gpu::grid(gpu::ceil_div(p.count, kTile), kThreads / 32), slices);
  join_kernel<N><<<tiles, kThreads, 0, gpu::stream()>>>(p);
  PM_LAUNCHED();
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
  const gpu::Scratch parts(static_cast<int64_t>(sizeof(float)) * 2 * gpu::ceil_div(count, kTile) *
                           d);
  gpu::visit_floating(dy.dtype(), "embedding_backward", [&]<class T>() {
    gpu::visit_floating(dtable.dtype(), "embedding_backward", [&]<class Y>() {
      const Gather<T, Y> p{count,
                           d,
                           rows,
                           sorted.key(),
                           sorted.order(),
                           gpu::data<const T>(dy),
                           accumulate,
                           gpu::data<Y>(dtable),
                           parts.data<float>()};
      constexpr int kPack = gpu::kPackOf<T, Y>;
      if (gpu::rows_aligned(p.dy, d) && gpu::rows_aligned(p.dtable, d) && d % kPack == 0) {
        launch_gather<kPack>(p);
      } else {
        launch_gather<1>(p);
      }
    });
  });
}

}  // namespace pyramoe::kernels::cuda
