// CUDA twins that move tokens to segments and back, the dense one-hot form, and the residual mix.
//
// All of it is memory traffic, and the one idea is a warp a token: its lanes walk a row in 16-byte
// pieces with several loads in flight before the first use. A segment row belongs to one token, so
// nobody writes where another writes, and a token's choices are added in registers, in order.
#include "core/kernels/moe.h"
#include "cuda/map.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::from_float;
using gpu::kWarp;
using gpu::load_vec;
using gpu::Pieces;
using gpu::store_vec;
using gpu::to_float;
using gpu::Vec;
using gpu::visit_floating;

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // independent 16-byte loads a lane
// Gathering blocks of a multiprocessor: as many as it is sure to hold at once; those that add a
// residual come as they fit, for a cap on their registers would make them spill.
template <bool kAdds>
constexpr int kGatherBlocks = kAdds ? 4 : 3;

// The token of this warp, and where its lane's first piece of N elements starts.
__device__ __forceinline__ int64_t warp_token() {
  return blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp;
}
template <int N>
__device__ __forceinline__ int64_t lane_start() {
  return static_cast<int64_t>(threadIdx.x % kWarp) * N;
}
// Distance between two pieces of one lane.
template <int N>
inline constexpr int64_t kStride = kWarp* N;

unsigned token_grid(int64_t tokens) { return gpu::grid(tokens, kThreads / kWarp); }

// Calls f.template operator()<N>() with N elements a load: 16 bytes where every row starts on a
// 16-byte border, else one.
template <class T, class F>
void with_pieces(int64_t d, std::initializer_list<const T*> tensors, F&& f) {
  bool wide = true;
  for (const T* p : tensors) wide = wide && gpu::rows_aligned(p, d);
  if (wide) {
    f.template operator()<16 / static_cast<int>(sizeof(T))>();
  } else {
    f.template operator()<1>();
  }
}

void check_rows(const char* name, const Tensor& tokens, const Tensor& segments, const Tensor& row) {
  PM_CHECK(tokens.dim(0) == row.dim(0) && tokens.dim(1) == segments.dim(1), name, ": tokens ",
           to_string(tokens.shape()), ", segments ", to_string(segments.shape()), ", rows ",
           to_string(row.shape()));
}

// ---- scatter: each token's row to the segments of its choices

// Rows of `width` pieces P (16 bytes, or one element). Raw words: a struct of eight bf16 that is
// only copied would be taken apart and stored element by element.
template <class P>
__global__ void __launch_bounds__(kThreads)
    to_segments_kernel(const P* __restrict__ x, const int32_t* __restrict__ row, int64_t tokens,
                       int64_t k, int64_t width, P* __restrict__ y) {
  const int64_t n = warp_token();
  if (n >= tokens) return;
  const P* from = x + n * width;
  for (int64_t base = threadIdx.x % kWarp; base < width; base += kInFlight * kWarp) {
    P piece[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      piece[u] = from[min(base + u * kWarp, width - 1)];
    }
    for (int64_t j = 0; j < k; ++j) {
      const int64_t r = row[n * k + j];
      if (r < 0) continue;
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        const int64_t i = base + u * kWarp;
        if (i < width) y[r * width + i] = piece[u];
      }
    }
  }
}

// ---- gather: residual[n] + the weighted sum of a token's segment rows

struct GatherShape {
  int64_t tokens, k, d;
};

// Blocks stay and walk over tokens: the row of a warp's next token is fetched while this one's data
// travels, and the residual is asked for before the choices, so only one latency is left on its
// way.
template <class T, int N, bool kWeighted, bool kAdds>
__global__ void __launch_bounds__(kThreads, kAdds ? 0 : kGatherBlocks<false>)
    gather_kernel(const T* __restrict__ x, const float* __restrict__ weight,
                  const int32_t* __restrict__ row, const T* residual, GatherShape s, T* y) {
  const int64_t step = gridDim.x * static_cast<int64_t>(kThreads / kWarp);
  int64_t n = warp_token();
  int32_t first_row = n < s.tokens ? row[n * s.k] : -1;
  for (; n < s.tokens; n += step) {
    const int32_t this_row = first_row;
    if (n + step < s.tokens) first_row = row[(n + step) * s.k];
    for (int64_t base = lane_start<N>(); base < s.d; base += kInFlight * kStride<N>) {
      float sum[kInFlight][N] = {};
      Pieces<T, N> before[kInFlight];
      if constexpr (kAdds) {
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int64_t i = base + u * kStride<N>;
          if (i < s.d) before[u].load(residual + n * s.d + i);
        }
      }
      for (int64_t j = 0; j < s.k; ++j) {
        const int64_t r = j == 0 ? this_row : row[n * s.k + j];
        if (r < 0) continue;
        const float w = kWeighted ? weight[n * s.k + j] : 1.0f;
        Pieces<T, N> piece[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int64_t i = base + u * kStride<N>;
          if (i < s.d) piece[u].load(x + r * s.d + i);
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          if (base + u * kStride<N> >= s.d) continue;
#pragma unroll
          for (int c = 0; c < N; ++c) {
            sum[u][c] = kWeighted ? fmaf(w, piece[u][c], sum[u][c]) : sum[u][c] + piece[u][c];
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        const int64_t i = base + u * kStride<N>;
        if (i >= s.d) continue;
        if constexpr (kAdds) {
#pragma unroll
          for (int c = 0; c < N; ++c) sum[u][c] = before[u][c] + sum[u][c];
        }
        Pieces<T, N> out;
        out.put(sum[u]);
        out.store(y + n * s.d + i);
      }
    }
  }
}

template <bool kWeighted, bool kAdds>
void gather(const char* name, const Tensor& x, const Tensor& weight, const Tensor& row,
            const Tensor& residual, Tensor& y) {
  check_rows(name, y, x, row);
  if (y.numel() == 0) return;
  const GatherShape s{y.dim(0), row.dim(1), y.dim(1)};
  visit_floating(x.dtype(), name, [&]<class T>() {
    const T *px = gpu::data<T>(x), *pr = gpu::data<T>(residual);
    T* py = gpu::data<T>(y);
    const float* pw = kWeighted ? gpu::data<float>(weight) : nullptr;
    with_pieces<T>(s.d, {px, pr, py}, [&]<int N>() {
      const unsigned blocks = gpu::grid(s.tokens, kThreads / kWarp,
                                        int64_t{gpu::multiprocessors()} * kGatherBlocks<kAdds>);
      gather_kernel<T, N, kWeighted, kAdds>
          <<<blocks, kThreads, 0, gpu::stream()>>>(px, pw, gpu::data<int32_t>(row), pr, s, py);
    });
    PM_LAUNCHED();
  });
}

// dx[row] = w * dy and dweight = dy . x[row], one pass over the three.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    from_segments_backward_kernel(const T* __restrict__ dy, const T* __restrict__ x,
                                  const float* __restrict__ weight, const int32_t* __restrict__ row,
                                  GatherShape s, T* __restrict__ dx, float* __restrict__ dweight) {
  const int64_t n = warp_token();
  if (n >= s.tokens) return;
  for (int64_t j = n * s.k; j < (n + 1) * s.k; ++j) {
    const int64_t r = row[j];
    float dot = 0;
    if (r >= 0) {
      const float w = weight[j];
      for (int64_t base = lane_start<N>(); base < s.d; base += kInFlight * kStride<N>) {
        Vec<T, N> g[kInFlight], in[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int64_t i = base + u * kStride<N>;
          if (i >= s.d) continue;
          g[u] = load_vec<T, N>(dy + n * s.d + i);
          in[u] = load_vec<T, N>(x + r * s.d + i);
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int64_t i = base + u * kStride<N>;
          if (i >= s.d) continue;
          Vec<T, N> out;
#pragma unroll
          for (int c = 0; c < N; ++c) {
            out.v[c] = from_float<T>(w * to_float(g[u].v[c]));
            dot = fmaf(to_float(g[u].v[c]), to_float(in[u].v[c]), dot);
          }
          store_vec(dx + r * s.d + i, out);
        }
      }
      dot = gpu::warp_sum(dot);
    }
    if (threadIdx.x % kWarp == 0) dweight[j] = dot;
  }
}

// ---- the dense one-hot form: a block a token

template <class T>
__global__ void __launch_bounds__(kThreads)
    one_hot_kernel(const float* __restrict__ weight, const int32_t* __restrict__ slot, int64_t k,
                   int64_t width, T* __restrict__ y) {
  const int64_t n = blockIdx.x;
  T* out = y + n * width;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) out[i] = from_float<T>(0.0f);
  __syncthreads();
  for (int64_t j = n * k + threadIdx.x; j < (n + 1) * k; j += kThreads) {
    if (slot[j] >= 0) out[slot[j]] = from_float<T>(weight ? weight[j] : 1.0f);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    one_hot_backward_kernel(const T* __restrict__ dy, const int32_t* __restrict__ slot, int64_t k,
                            int64_t width, int64_t choices, float* __restrict__ dweight) {
  const int64_t j = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (j >= choices) return;
  dweight[j] = slot[j] < 0 ? 0.0f : to_float(dy[j / k * width + slot[j]]);
}

// ---- the residual mix

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    mix_kernel(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ share,
               int64_t tokens, int64_t d, T* __restrict__ y) {
  const int64_t n = warp_token();
  if (n >= tokens) return;
  const float c0 = to_float(share[2 * n]), c1 = to_float(share[2 * n + 1]);
  for (int64_t base = lane_start<N>(); base < d; base += kInFlight * kStride<N>) {
    Vec<T, N> va[kInFlight], vb[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t i = base + u * kStride<N>;
      if (i >= d) continue;
      va[u] = load_vec<T, N>(a + n * d + i);
      vb[u] = load_vec<T, N>(b + n * d + i);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t i = base + u * kStride<N>;
      if (i >= d) continue;
#pragma unroll
      for (int c = 0; c < N; ++c) {
        va[u].v[c] = from_float<T>(c0 * to_float(va[u].v[c]) + c1 * to_float(vb[u].v[c]));
      }
      store_vec(y + n * d + i, va[u]);
    }
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    mix_backward_kernel(const T* __restrict__ dy, const T* __restrict__ a, const T* __restrict__ b,
                        const T* __restrict__ share, int64_t tokens, int64_t d, T* __restrict__ da,
                        T* __restrict__ db, T* __restrict__ dshare) {
  const int64_t n = warp_token();
  if (n >= tokens) return;
  const float c0 = to_float(share[2 * n]), c1 = to_float(share[2 * n + 1]);
  float dot0 = 0, dot1 = 0;
  for (int64_t i = n * d + lane_start<N>(); i < (n + 1) * d; i += kStride<N>) {
    const Vec<T, N> g = load_vec<T, N>(dy + i), va = load_vec<T, N>(a + i),
                    vb = load_vec<T, N>(b + i);
    Vec<T, N> out0, out1;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const float x = to_float(g.v[c]);
      out0.v[c] = from_float<T>(c0 * x);
      out1.v[c] = from_float<T>(c1 * x);
      dot0 = fmaf(x, to_float(va.v[c]), dot0);
      dot1 = fmaf(x, to_float(vb.v[c]), dot1);
    }
    store_vec(da + i, out0);
    store_vec(db + i, out1);
  }
  dot0 = gpu::warp_sum(dot0);
  dot1 = gpu::warp_sum(dot1);
  if (threadIdx.x % kWarp == 0) {
    dshare[2 * n] = from_float<T>(dot0);
    dshare[2 * n + 1] = from_float<T>(dot1);
  }
}

}  // namespace

void to_segments_forward(const Tensor& x, const Tensor& row, Tensor& y) {
  check_rows("to_segments", x, y, row);
  if (x.numel() == 0) return;
  const int64_t tokens = x.dim(0), d = x.dim(1);
  visit_floating(x.dtype(), "to_segments_forward", [&]<class T>() {
    const T* px = gpu::data<T>(x);
    T* py = gpu::data<T>(y);
    const auto launch = [&]<class P>(int64_t width) {
      to_segments_kernel<P><<<token_grid(tokens), kThreads, 0, gpu::stream()>>>(
          reinterpret_cast<const P*>(px), gpu::data<int32_t>(row), tokens, row.dim(1), width,
          reinterpret_cast<P*>(py));
    };
    if (gpu::rows_aligned(px, d) && gpu::rows_aligned(py, d)) {
      launch.template operator()<uint4>(d * static_cast<int64_t>(sizeof(T)) / 16);
    } else {
      launch.template operator()<T>(d);
    }
    PM_LAUNCHED();
  });
}

void to_segments_backward(const Tensor& dy, const Tensor& row, Tensor& dx) {
  gather<false, false>("to_segments_backward", dy, Tensor(), row, Tensor(), dx);
}

void from_segments_forward(const Tensor& x, const Tensor& weight, const Tensor& row, Tensor& y) {
  gather<true, false>("from_segments_forward", x, weight, row, Tensor(), y);
}

void from_segments_add_forward(const Tensor& x, const Tensor& weight, const Tensor& row,
                               const Tensor& residual, Tensor& y) {
  PM_CHECK(residual.shape() == y.shape(), "from_segments_add: residual ",
           to_string(residual.shape()), ", y ", to_string(y.shape()));
  gather<true, true>("from_segments_add_forward", x, weight, row, residual, y);
}

void from_segments_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                            const Tensor& row, Tensor& dx, Tensor& dweight) {
  check_rows("from_segments", dy, x, row);
  if (row.numel() == 0) return;
  const GatherShape s{dy.dim(0), row.dim(1), dy.dim(1)};
  visit_floating(x.dtype(), "from_segments_backward", [&]<class T>() {
    const T *pdy = gpu::data<T>(dy), *px = gpu::data<T>(x);
    T* pdx = gpu::data<T>(dx);
    with_pieces<T>(s.d, {pdy, px, pdx}, [&]<int N>() {
      from_segments_backward_kernel<T, N><<<token_grid(s.tokens), kThreads, 0, gpu::stream()>>>(
          pdy, px, gpu::data<float>(weight), gpu::data<int32_t>(row), s, pdx,
          gpu::data<float>(dweight));
    });
    PM_LAUNCHED();
  });
}

void one_hot_forward(const Tensor& weight, const Tensor& slot, Tensor& y) {
  if (y.numel() == 0) return;
  visit_floating(y.dtype(), "one_hot_forward", [&]<class T>() {
    one_hot_kernel<T><<<gpu::grid(y.dim(0), 1), kThreads, 0, gpu::stream()>>>(
        gpu::data<float>(weight), gpu::data<int32_t>(slot), slot.dim(1), y.dim(1), gpu::data<T>(y));
    PM_LAUNCHED();
  });
}

void one_hot_backward(const Tensor& dy, const Tensor& slot, Tensor& dweight) {
  if (slot.numel() == 0) return;
  visit_floating(dy.dtype(), "one_hot_backward", [&]<class T>() {
    one_hot_backward_kernel<T><<<gpu::grid(slot.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(dy), gpu::data<int32_t>(slot), slot.dim(1), dy.dim(1), slot.numel(),
        gpu::data<float>(dweight));
    PM_LAUNCHED();
  });
}

void mix_forward(const Tensor& a, const Tensor& b, const Tensor& share, Tensor& y) {
  PM_CHECK(a.shape() == b.shape() && share.shape() == (Shape{a.dim(0), 2}), "mix: a ",
           to_string(a.shape()), ", b ", to_string(b.shape()), ", share ",
           to_string(share.shape()));
  if (a.numel() == 0) return;
  const int64_t tokens = a.dim(0), d = a.dim(1);
  visit_floating(a.dtype(), "mix_forward", [&]<class T>() {
    const T *pa = gpu::data<T>(a), *pb = gpu::data<T>(b);
    T* py = gpu::data<T>(y);
    with_pieces<T>(d, {pa, pb, py}, [&]<int N>() {
      mix_kernel<T, N><<<token_grid(tokens), kThreads, 0, gpu::stream()>>>(
          pa, pb, gpu::data<T>(share), tokens, d, py);
    });
    PM_LAUNCHED();
  });
}

void mix_backward(const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& share,
                  Tensor& da, Tensor& db, Tensor& dshare) {
  if (share.numel() == 0) return;
  const int64_t tokens = a.dim(0), d = a.dim(1);
  visit_floating(a.dtype(), "mix_backward", [&]<class T>() {
    const T *pdy = gpu::data<T>(dy), *pa = gpu::data<T>(a), *pb = gpu::data<T>(b);
    T *pda = gpu::data<T>(da), *pdb = gpu::data<T>(db);
    with_pieces<T>(d, {pdy, pa, pb, pda, pdb}, [&]<int N>() {
      mix_backward_kernel<T, N><<<token_grid(tokens), kThreads, 0, gpu::stream()>>>(
          pdy, pa, pb, gpu::data<T>(share), tokens, d, pda, pdb, gpu::data<T>(dshare));
    });
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
