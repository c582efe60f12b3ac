// Layer norm backward, alone and fused with the gradient that arrives on the residual path.
//
// With h = (x - mean) rstd and g = dy * weight:  dx = rstd (g - mean(g) - h mean(g h)), and dweight
// and dbias are the column sums of dy h and dy. One pass over dy and x gives all three: a block
// owns all columns of its rows, a thread eight of them (four in f32), whose two column sums stay in
// its registers while the block walks down its rows. kRows rows are taken together, so that one
// barrier serves them all, and the next kRows are asked for before the barrier: the bus never waits
// for it. The blocks' column sums are added by a fixed tree (cuda/column_sums.cuh). How many blocks
// there are is a constant, not the chip's size, so that the sums are too.
#include "core/kernels/layernorm.h"

#include "cuda/column_sums.cuh"
#include "cuda/reduce.cuh"

namespace pyramoe::kernels::cuda {
namespace {

// Multiprocessors of an H100 or H200, and the threads of this kernel that are resident on one:
// fewer, with more registers, where a third tensor is held.
constexpr int kMultiprocessors = 132, kResident = 640, kResidentAdd = 512;

// Rows a block takes at a time.
constexpr int rows_together(int threads) { return threads < 1024 ? 2 : 1; }

template <class T, class W>
struct Backward {
  int64_t rows;
  int d;
  const T *dy, *dh, *x;  // dh null: no gradient on the residual path
  const W* weight;
  const float *mean, *rstd;
  T* dx;         // null: not wanted
  float* parts;  // (blocks, 2 d): column sums of dy h, then of dy
};

// What one thread holds of kRows rows.
template <int kRows, bool kAdd, class T, int N>
struct Held {
  gpu::Pieces<T, N> dy[kRows], x[kRows], dh[kAdd ? kRows : 1];
  float mean[kRows], rstd[kRows];

  template <class W>
  __device__ __forceinline__ void load(const Backward<T, W>& p, int64_t first, int column,
                                       bool inside) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t n = first + r;
      mean[r] = rstd[r] = 0;
      if (!inside || n >= p.rows) continue;
      dy[r].load(p.dy + n * p.d + column);
      x[r].load(p.x + n * p.d + column);
      if constexpr (kAdd) dh[r].load(p.dh + n * p.d + column);
      mean[r] = p.mean[n];
      rstd[r] = p.rstd[n];
    }
  }
};

template <int kThreads, int kRows, bool kAdd, class T, class W>
__global__ void __launch_bounds__(kThreads, std::max((kAdd ? kResidentAdd : kResident) / kThreads,
                                                     1)) backward_kernel(Backward<T, W> p) {
  constexpr int N = 16 / sizeof(T), kWarps = kThreads / 32;
  // Sums of g and of g h for each warp and row; two sets in turn, so one barrier a turn is enough.
  __shared__ float2 shared[2][kWarps][kRows];
  const int warp = threadIdx.x / 32, column = static_cast<int>(threadIdx.x) * N;
  const bool inside = column < p.d;
  const float inverse_d = 1.0f / static_cast<float>(p.d);
  const int64_t stride = int64_t{gridDim.x} * kRows;
  float dw[N] = {}, db[N] = {};
  gpu::Pieces<W, N> w;
  if (inside) w.load(p.weight + column);
  Held<kRows, kAdd, T, N> now, next;
  next.load(p, int64_t{blockIdx.x} * kRows, column, inside);
  int set = 0;
  for (int64_t first = int64_t{blockIdx.x} * kRows; first < p.rows; first += stride, set ^= 1) {
    now = next;
    next.load(p, first + stride, column, inside);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float2 sum = {0, 0};
      if (inside && first + r < p.rows) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float dy = now.dy[r][i], g = dy * w[i];
          const float h = (now.x[r][i] - now.mean[r]) * now.rstd[r];
          sum.x += g;
          sum.y += g * h;
          dw[i] += dy * h;
          db[i] += dy;
        }
      }
      sum.x = gpu::warp_sum(sum.x);
      sum.y = gpu::warp_sum(sum.y);
      if (threadIdx.x % 32 == 0) shared[set][warp][r] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!inside || first + r >= p.rows || p.dx == nullptr) continue;
      now.dy[r].keep_packed();
      now.x[r].keep_packed();
      float c1 = 0, c2 = 0;
#pragma unroll
      for (int k = 0; k < kWarps; ++k) {
        const float2 sum = shared[set][k][r];
        c1 += sum.x;
        c2 += sum.y;
      }
      c1 *= inverse_d;
      c2 *= inverse_d;
      float value[N];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float h = (now.x[r][i] - now.mean[r]) * now.rstd[r];
        value[i] = (now.dy[r][i] * w[i] - c1 - h * c2) * now.rstd[r];
        if constexpr (kAdd) value[i] += now.dh[r][i];
      }
      gpu::Pieces<T, N> out;
      out.put(value);
      out.store(p.dx + (first + r) * p.d + column);
    }
  }
  if (!inside) return;
  float* mine = p.parts + int64_t{blockIdx.x} * 2 * p.d + column;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    *reinterpret_cast<float4*>(mine + i) = {dw[i], dw[i + 1], dw[i + 2], dw[i + 3]};
    *reinterpret_cast<float4*>(mine + p.d + i) = {db[i], db[i + 1], db[i + 2], db[i + 3]};
  }
}

// Any width: dx by a block a row ...
template <class T, class W>
__global__ void __launch_bounds__(256) backward_any_kernel(Backward<T, W> p) {
  __shared__ float shared[2][gpu::kWarp];
  const int64_t n = blockIdx.x, row = n * p.d;
  const float mean = p.mean[n], rstd = p.rstd[n];
  float c1 = 0, c2 = 0;
  for (int i = threadIdx.x; i < p.d; i += 256) {
    const float g = gpu::to_float(p.dy[row + i]) * gpu::to_float(p.weight[i]);
    c1 += g;
    c2 += g * ((gpu::to_float(p.x[row + i]) - mean) * rstd);
  }
  c1 = gpu::block_sum(c1, shared[0]) / static_cast<float>(p.d);
  c2 = gpu::block_sum(c2, shared[1]) / static_cast<float>(p.d);
  for (int i = threadIdx.x; i < p.d; i += 256) {
    const float g = gpu::to_float(p.dy[row + i]) * gpu::to_float(p.weight[i]);
    const float h = (gpu::to_float(p.x[row + i]) - mean) * rstd;
    float dx = (g - c1 - h * c2) * rstd;
    if (p.dh) dx += gpu::to_float(p.dh[row + i]);
    p.dx[row + i] = gpu::from_float<T>(dx);
  }
}

// ... and the column sums by a thread a column, 8 rows at a time.
template <class T, class W>
__global__ void __launch_bounds__(256) columns_any_kernel(Backward<T, W> p, int64_t rows_a_part) {
  __shared__ float2 sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t j = int64_t{blockIdx.x} * 32 + lane;
  const int64_t begin = int64_t{blockIdx.y} * rows_a_part;
  const int64_t end = begin + rows_a_part < p.rows ? begin + rows_a_part : p.rows;
  float2 sum = {0, 0};
  for (int64_t n = begin + warp; n < end && j < p.d; n += 8) {
    const float dy = gpu::to_float(p.dy[n * p.d + j]);
    sum.x += dy * ((gpu::to_float(p.x[n * p.d + j]) - p.mean[n]) * p.rstd[n]);
    sum.y += dy;
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || j >= p.d) return;
  for (int k = 1; k < 8; ++k) {
    sum.x += sums[k][lane].x;
    sum.y += sums[k][lane].y;
  }
  p.parts[int64_t{blockIdx.y} * 2 * p.d + j] = sum.x;
  p.parts[int64_t{blockIdx.y} * 2 * p.d + p.d + j] = sum.y;
}

template <int kThreads, class T, class W>
void launch(const Backward<T, W>& p, int blocks) {
  constexpr int kRows = rows_together(kThreads);
  if (p.dh) {
    backward_kernel<kThreads, kRows, true><<<blocks, kThreads, 0, gpu::stream()>>>(p);
  } else {
    backward_kernel<kThreads, kRows, false><<<blocks, kThreads, 0, gpu::stream()>>>(p);
  }
  PM_LAUNCHED();
}

// Blocks of the fast kernel: as many as are resident at once.
int block_count(int64_t rows, int threads, bool add) {
  const int most = kMultiprocessors * std::max((add ? kResidentAdd : kResident) / threads, 1);
  const int64_t turns = gpu::ceil_div(rows, rows_together(threads));
  return static_cast<int>(std::clamp<int64_t>(turns, 1, most));
}

struct Gradients {
  bool accumulate;
  Tensor &dx, &dweight, &dbias;
};

template <class T, class W>
void run(const char* name, Backward<T, W> p, const Gradients& out) {
  constexpr int N = 16 / sizeof(T);
  const bool aligned = gpu::rows_aligned(p.x, p.d) && gpu::aligned16(p.dy) &&
                       gpu::aligned16(p.dh) && gpu::aligned16(p.dx) && gpu::aligned16(p.weight);
  const int64_t packs = gpu::ceil_div(p.d, N);
  const bool fast = aligned && packs <= 1024;
  const int threads = packs <= 96    ? 96
                      : packs <= 128 ? 128
                      : packs <= 256 ? 256
                      : packs <= 512 ? 512
                                     : 1024;
  const int64_t rows_a_part = std::max<int64_t>(64, gpu::ceil_div(p.rows, 128));
  const int parts = fast ? block_count(p.rows, threads, p.dh != nullptr)
                         : static_cast<int>(gpu::ceil_div(p.rows, rows_a_part));
  const gpu::Scratch scratch(static_cast<int64_t>(sizeof(float)) * 2 * parts * p.d);
  p.parts = scratch.data<float>();
  if (fast && threads == 96) {
    launch<96>(p, parts);
  } else if (fast && threads == 128) {
    launch<128>(p, parts);
  } else if (fast && threads == 256) {
    launch<256>(p, parts);
  } else if (fast && threads == 512) {
    launch<512>(p, parts);
  } else if (fast) {
    launch<1024>(p, parts);
  } else {
    if (p.dx) {
      backward_any_kernel<<<gpu::grid(p.rows, 1), 256, 0, gpu::stream()>>>(p);
      PM_LAUNCHED();
    }
    const dim3 blocks(gpu::grid(p.d, 32), static_cast<unsigned>(parts));
    columns_any_kernel<<<blocks, 256, 0, gpu::stream()>>>(p, rows_a_part);
    PM_LAUNCHED();
  }
  gpu::combine_columns(p.parts, parts, p.d, out.accumulate, name, out.dweight, out.dbias);
}

void backward(const char* name, const Tensor& dy, const Tensor& dh, const Tensor& x,
              const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Gradients& out) {
  const int64_t d = x.dim(-1);
  PM_CHECK(weight.numel() == d && dy.numel() == x.numel() && dy.dtype() == x.dtype(), name,
           ": dy is ", to_string(dy.shape()), " ", to_string(dy.dtype()), ", x ",
           to_string(x.shape()), " ", to_string(x.dtype()), ", weight has ", weight.numel());
  PM_CHECK(mean.dtype() == DType::f32 && rstd.dtype() == DType::f32, name,
           ": mean and rstd are f32 on a GPU");
  if (x.numel() == 0) {  // no rows: the sums are zero
    if (!out.accumulate && out.dweight.defined()) out.dweight.zero();
    if (!out.accumulate && out.dbias.defined()) out.dbias.zero();
    return;
  }
  gpu::visit_floating(x.dtype(), name, [&]<class T>() {
    gpu::visit_floating(weight.dtype(), name, [&]<class W>() {
      run(name,
          Backward<T, W>{x.numel() / d, static_cast<int>(d), gpu::data<const T>(dy),
                         gpu::data<const T>(dh), gpu::data<const T>(x), gpu::data<const W>(weight),
                         gpu::data<const float>(mean), gpu::data<const float>(rstd),
                         gpu::data<T>(out.dx), nullptr},
          out);
    });
  });
}

}  // namespace

void layernorm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
                        const Tensor& rstd, bool accumulate, Tensor& dx, Tensor& dweight,
                        Tensor& dbias) {
  backward("layernorm_backward", dy, Tensor(), x, weight, mean, rstd,
           {accumulate, dx, dweight, dbias});
}

void add_layernorm_backward(const Tensor& dy, const Tensor& dh, const Tensor& h,
                            const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                            bool accumulate, Tensor& dx, Tensor& dweight, Tensor& dbias) {
  PM_CHECK(dh.shape() == h.shape() && dh.dtype() == h.dtype(), "add_layernorm_backward: dh is ",
           to_string(dh.shape()), " ", to_string(dh.dtype()), ", h ", to_string(h.shape()), " ",
           to_string(h.dtype()));
  backward("add_layernorm_backward", dy, dh, h, weight, mean, rstd,
           {accumulate, dx, dweight, dbias});
}

}  // namespace pyramoe::kernels::cuda
