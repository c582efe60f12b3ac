// CUDA twins of the fused router: bf16 tokens, f32 weights, products on the tensor cores.
//
// A product with an f32 factor becomes bf16 products whose sum is as good as f32: the factor is cut
// into bf16 planes, w = w0 + w1 + w2 (8 bits each, 24 in all), and x w = x w0 + x w1 + x w2 with
// f32 sums. Gradients take two planes (16 bits). f32 models, odd widths, more than 512 experts
// and cards whose shared memory holds no tile take the plain kernels one after another.
#include "core/kernels/matmul.h"
#include "core/kernels/moe.h"
#include "core/kernels/softmax.h"
#include "cuda/moe_router.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Bf16;
using gpu::kTokenLanes;

constexpr int kThreads = 256;
constexpr int kTokens = kThreads / kTokenLanes;  // tokens of a block

// The first `kPlanes` bf16 planes of v: each is what rounding has left over.
template <int kPlanes>
__device__ __forceinline__ void cut(float v, Bf16 (&plane)[kPlanes]) {
#pragma unroll
  for (int i = 0; i < kPlanes; ++i) {
    plane[i] = __float2bfloat16_rn(v);
    v -= __bfloat162float(plane[i]);
  }
}

// out (3, count): w0, w1, w2; or, for gradients, w0, w1, w0.
__global__ void __launch_bounds__(kThreads)
    cut_weights_kernel(const float* __restrict__ w, int64_t count, bool gradient,
                       Bf16* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= count) return;
  Bf16 plane[3];
  cut(w[i], plane);
  out[i] = plane[0];
  out[count + i] = plane[1];
  out[2 * count + i] = gradient ? plane[0] : plane[2];
}

// A few tokens (decoding): a warp a logit spreads the weights over the whole GPU.
template <class T>
__global__ void __launch_bounds__(kThreads)
    few_logits_kernel(const T* __restrict__ x, const float* __restrict__ w, int64_t rows, int64_t d,
                      int64_t experts, float* __restrict__ logits) {
  const int64_t i =
      blockIdx.x * static_cast<int64_t>(kThreads / gpu::kWarp) + threadIdx.x / gpu::kWarp;
  if (i >= rows * experts) return;
  const T* a = x + i / experts * d;
  const float* b = w + i % experts * d;
  float sum = 0;
#pragma unroll 8
  for (int64_t c = threadIdx.x % gpu::kWarp; c < d; c += gpu::kWarp) {
    sum = fmaf(gpu::to_float(a[c]), b[c], sum);
  }
  sum = gpu::warp_sum(sum);
  if (threadIdx.x % gpu::kWarp == 0) logits[i] = sum;
}

// Probabilities and choices from the logits that lie in out.p.
template <int kPer>
__global__ void __launch_bounds__(kThreads) choose_kernel(int64_t rows, gpu::ChoiceRows out) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kTokens) + threadIdx.x / kTokenLanes;
  const bool real = n < rows;
  float logit[kPer];
#pragma unroll
  for (int u = 0; u < kPer; ++u) {
    const int e = u * kTokenLanes + static_cast<int>(threadIdx.x % kTokenLanes);
    logit[u] = real && e < out.experts ? out.p[n * out.experts + e] : -INFINITY;
  }
  gpu::choose(logit, out, n, real);
}

constexpr int64_t kFewTokens = 64;

template <class T>
void route_few(const Tensor& x, const Tensor& w, const gpu::ChoiceRows& out) {
  const int64_t rows = x.dim(0), experts = w.dim(0);
  few_logits_kernel<T>
      <<<gpu::grid(rows * experts, kThreads / gpu::kWarp), kThreads, 0, gpu::stream()>>>(
          gpu::data<T>(x), gpu::data<float>(w), rows, x.dim(1), experts, out.p);
  PM_LAUNCHED();
  const auto launch = [&](auto* kernel) {
    kernel<<<gpu::grid(rows, kTokens), kThreads, 0, gpu::stream()>>>(rows, out);
    PM_LAUNCHED();
  };
  if (experts <= 32) {
    launch(&choose_kernel<4>);
  } else if (experts <= 128) {
    launch(&choose_kernel<16>);
  } else {
    launch(&choose_kernel<64>);
  }
}

struct LossGrads {
  const float *dweight, *dbalance, *dz;  // null: zero
  const float *p, *lse, *share;
  const int32_t* expert;
  int64_t rows, experts, k, group_rows;
};

// Two neighbouring experts at once where E is even: 8 bytes of p, 4 of a plane.
template <int kSide>
using Scores = gpu::Vec<float, kSide>;

// d objective / d p of experts e, e + 1, …: from the choices and from the balance loss.
template <int kSide>
__device__ __forceinline__ Scores<kSide> dp_of(const LossGrads& g, int64_t n, int64_t e,
                                               const float* share, float balance) {
  Scores<kSide> dp;
#pragma unroll
  for (int i = 0; i < kSide; ++i) dp.v[i] = share ? balance * share[e + i] : 0.0f;
  for (int64_t j = n * g.k; g.dweight && j < (n + 1) * g.k; ++j) {
    const int64_t side = g.expert[j] - e;
#pragma unroll
    for (int i = 0; i < kSide; ++i) dp.v[i] += side == i ? g.dweight[j] : 0.0f;
  }
  return dp;
}

// dlogits[n, e] = p (dp - sum_e p dp + dz 2 / N lse). Into f32, or into planes: for dx (N, 3 E) hi,
// hi, lo; for dw (N, 2 E) hi, lo.
template <int kSide>
__global__ void __launch_bounds__(kThreads)
    dlogits_kernel(LossGrads g, float* __restrict__ wide, Bf16* __restrict__ for_dx,
                   Bf16* __restrict__ for_dw) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kTokens) + threadIdx.x / kTokenLanes;
  const bool real = n < g.rows;
  const int64_t first = threadIdx.x % kTokenLanes * kSide, last = real ? g.experts : 0;
  const float balance =
      g.dbalance ? g.dbalance[0] * static_cast<float>(g.experts) / static_cast<float>(g.rows) : 0;
  const float* share = g.dbalance && real ? g.share + n / g.group_rows * g.experts : nullptr;
  float pull = 0;
  for (int64_t e = first; e < last; e += kTokenLanes * kSide) {
    const Scores<kSide> p = gpu::load_vec<float, kSide>(g.p + n * g.experts + e);
    const Scores<kSide> dp = dp_of<kSide>(g, n, e, share, balance);
#pragma unroll
    for (int i = 0; i < kSide; ++i) pull = fmaf(p.v[i], dp.v[i], pull);
  }
  pull = gpu::token_sum(pull);
  if (g.dz && real) pull -= 2 * g.dz[0] / static_cast<float>(g.rows) * g.lse[n];
  for (int64_t e = first; e < last; e += kTokenLanes * kSide) {
    Scores<kSide> d = gpu::load_vec<float, kSide>(g.p + n * g.experts + e);
    const Scores<kSide> dp = dp_of<kSide>(g, n, e, share, balance);
    gpu::Vec<Bf16, kSide> high, low;
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      d.v[i] *= dp.v[i] - pull;
      Bf16 plane[2];
      cut(d.v[i], plane);
      high.v[i] = plane[0], low.v[i] = plane[1];
    }
    if (wide) gpu::store_vec(wide + n * g.experts + e, d);
    if (for_dx) {
      Bf16* row = for_dx + n * 3 * g.experts + e;
      gpu::store_vec(row, high);
      gpu::store_vec(row + g.experts, high);
      gpu::store_vec(row + 2 * g.experts, low);
    }
    if (for_dw) {
      gpu::store_vec(for_dw + n * 2 * g.experts + e, high);
      gpu::store_vec(for_dw + (n * 2 + 1) * g.experts + e, low);
    }
  }
}

// dw (+)= hi + lo.   parts (2, count)
__global__ void __launch_bounds__(kThreads)
    add_planes_kernel(const float* __restrict__ parts, int64_t count, bool add, float* dw) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < count) dw[i] = (add ? dw[i] : 0.0f) + (parts[i] + parts[count + i]);
}

void check_router(const Tensor& x, const Tensor& w, const Tensor& p) {
  PM_CHECK(x.dim(1) == w.dim(1) && p.shape() == (Shape{x.dim(0), w.dim(0)}), "router: x ",
           to_string(x.shape()), ", w ", to_string(w.shape()), ", p ", to_string(p.shape()));
  PM_CHECK(w.dtype() == DType::f32 && p.dtype() == DType::f32, "router: x is ",
           to_string(x.dtype()), ", expected w and p in f32, came ", to_string(w.dtype()), " and ",
           to_string(p.dtype()));
}

// The planes of w (E, D), one below the other: (3 E, D).
Tensor cut_weights(const Tensor& w, bool gradient) {
  Tensor planes({3 * w.dim(0), w.dim(1)}, DType::bf16, w.device());
  cut_weights_kernel<<<gpu::grid(w.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
      gpu::data<float>(w), w.numel(), gradient, gpu::data<Bf16>(planes));
  PM_LAUNCHED();
  return planes;
}

// The plain kernels, one after another.
void plain_router(const Tensor& x, const Tensor& w, Tensor& p, Tensor& lse, Tensor& expert,
                  Tensor& weight) {
  Tensor logits = empty_like(p), unused({1}, DType::f32, x.device());
  linear_forward(x.to(DType::f32), w, Tensor(), logits);
  softmax_forward(logits, p);
  z_loss_forward(logits, unused, lse);
  top_k(logits, Tensor(), expert);
  take_forward(p, expert, weight);
}

}  // namespace

void router_forward(const Tensor& x, const Tensor& w, Tensor& p, Tensor& lse, Tensor& expert,
                    Tensor& weight) {
  check_router(x, w, p);
  const int64_t rows = x.dim(0), experts = w.dim(0), d = x.dim(1), k = expert.dim(1);
  PM_CHECK(k >= 1 && k <= experts, "router: ", k, " choices among ", experts, " experts");
  if (rows == 0) return;
  const gpu::ChoiceRows out{gpu::data<float>(p),        gpu::data<float>(lse),
                            gpu::data<int32_t>(expert), gpu::data<float>(weight),
                            static_cast<int>(experts),  static_cast<int>(k)};
  if (rows <= kFewTokens && experts <= gpu::kMostChooseExperts) {
    gpu::visit_floating(x.dtype(), "router_forward", [&]<class T>() { route_few<T>(x, w, out); });
    return;
  }
  const bool aligned = d % 8 == 0 && gpu::rows_aligned(gpu::data<Bf16>(x), d);
  if (x.dtype() != DType::bf16 || !aligned || !gpu::router_tiles_fit(experts)) {
    plain_router(x, w, p, lse, expert, weight);
    return;
  }
  const Tensor planes = cut_weights(w, false);
  gpu::router_tiles(gpu::data<Bf16>(x), gpu::data<Bf16>(planes), rows, d, out);
}

void router_backward(const Tensor& dweight, const Tensor& dbalance, const Tensor& dz,
                     const Tensor& p, const Tensor& lse, const Tensor& expert, const Tensor& share,
                     int64_t group_rows, const Tensor& x, const Tensor& w, bool add_dx, bool add_dw,
                     Tensor& dx, Tensor& dw) {
  check_router(x, w, p);
  const int64_t rows = x.dim(0), experts = w.dim(0), d = x.dim(1);
  const Device device = x.device();
  const LossGrads g{gpu::data<float>(dweight),
                    gpu::data<float>(dbalance),
                    gpu::data<float>(dz),
                    gpu::data<float>(p),
                    gpu::data<float>(lse),
                    gpu::data<float>(share),
                    gpu::data<int32_t>(expert),
                    rows,
                    experts,
                    expert.dim(1),
                    group_rows};
  const bool planes = x.dtype() == DType::bf16;
  Tensor dlogits, dx_planes, dw_planes;
  if (!planes) dlogits = empty_like(p);
  if (planes && dx.defined()) dx_planes = Tensor({rows, 3 * experts}, DType::bf16, device);
  if (planes && dw.defined()) dw_planes = Tensor({rows, 2 * experts}, DType::bf16, device);
  if (rows > 0) {
    const auto kernel = experts % 2 == 0 ? dlogits_kernel<2> : dlogits_kernel<1>;
    kernel<<<gpu::grid(rows, kTokens), kThreads, 0, gpu::stream()>>>(
        g, gpu::data<float>(dlogits), gpu::data<Bf16>(dx_planes), gpu::data<Bf16>(dw_planes));
    PM_LAUNCHED();
  }
  if (!planes) {
    if (dx.defined()) matmul(dlogits, false, w, false, add_dx, dx);
    if (dw.defined()) matmul(dlogits, true, x, false, add_dw, dw);
    return;
  }
  if (dx.defined()) matmul(dx_planes, false, cut_weights(w, true), false, add_dx, dx);
  if (!dw.defined()) return;
  Tensor parts({2 * experts, d}, DType::f32, device);
  matmul(dw_planes, true, x, false, false, parts);
  add_planes_kernel<<<gpu::grid(w.numel(), kThreads), kThreads, 0, gpu::stream()>>>(
      gpu::data<float>(parts), w.numel(), add_dw, gpu::data<float>(dw));
  PM_LAUNCHED();
}

}  // namespace pyramoe::kernels::cuda
