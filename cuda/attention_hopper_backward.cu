// Backward attention on Hopper: wgmma and TMA, bf16, head dim 64 and 128, deterministic.
//
//   P = exp(scale Q Kᵀ - lse)    dV = Pᵀ dY    dP = dY Vᵀ
//   dS = P (dP - delta)          dQ = scale dS K    dK = scale dSᵀ Q
// With dropout, Z = 0 or 1 / (1 - p) stands at P in dV and at dP in dS. The kernels only leave out
// what was dropped: delta comes times 1 - p, and dV, dQ, dK leave times 1 / (1 - p).
// Two kernels, each the owner of what it sums: one keeps a tile of keys and streams queries (dK,
// dV), one keeps a tile of queries and streams keys (dQ). Scores and dP are computed twice, 7
// products for 5, but no fp32 dQ goes through memory, nobody waits for anybody, and P and dS go
// from one product to the next in registers: the first kernel computes them transposed, (keys,
// queries), so that they are left operands there too.
#include "cuda/attention_hopper_backward.cuh"
#include "cuda/vec.cuh"

namespace pyramoe::gpu::attention {
namespace {

constexpr int kPad = kTileRows;  // lse and delta are padded to whole tiles

// delta and lse2, by kDim / 8 lanes a row.

template <int kDim>
__global__ void prepare_kernel(const __grid_constant__ Backward<Bf16> f, int padded, float share,
                               float* lse2, float* delta) {
  constexpr int kLanes = kDim / 8;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t h = i % f.heads, t = i / f.heads % padded, b = i / f.heads / padded;
  const bool inside = b < f.batch && t < f.tokens;
  float sum = 0;
  if (inside) {
    const auto y = load_vec(f.y.head(b, h, kDim) + t * f.y.row + lane * 8);
    const auto dy = load_vec(f.dy.head(b, h, kDim) + t * f.dy.row + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum = fmaf(to_float(y.v[e]), to_float(dy.v[e]), sum);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane != 0 || b >= f.batch) return;
  const int64_t head = b * f.heads + h;
  delta[head * padded + t] = sum * share;
  lse2[head * padded + t] = inside ? f.lse[head * f.tokens + t] * kLog2e : INFINITY;
}

template <int kDim, bool kDrop>
void launch(const Backward<Bf16>& f, const Keep& keep) {
  BackwardArgs args{};
  args.keep = keep;
  args.tokens = f.tokens, args.padded = static_cast<int>(ceil_div(f.tokens, kPad)) * kPad;
  args.scale = f.scale;
  const int64_t rows = static_cast<int64_t>(f.batch) * f.heads * args.padded;
  const Scratch scratch(2 * rows * static_cast<int64_t>(sizeof(float)));
  float *lse2 = scratch.data<float>(), *delta = lse2 + rows;
  args.lse2 = lse2, args.delta = delta;
  prepare_kernel<kDim><<<grid(rows * (kDim / 8), 256), 256, 0, stream()>>>(
      f, args.padded, 1 / keep.factor, lse2, delta);
  PM_LAUNCHED();
  const int64_t streamed = int64_t{2} * f.tokens * kDim * static_cast<int64_t>(sizeof(Bf16));
  args.order = order_of(f.batch, f.heads, f.tokens, streamed, false);
  hopper_dkv<kDim, kDrop>(f, args);
  args.order.last_first = true;
  hopper_dq<kDim, kDrop>(f, args);
}

}  // namespace

void hopper_backward(const Backward<Bf16>& f) {
  const KeepBits bits(f.drop, f.batch, f.heads, f.tokens, true);
  const Keep& keep = bits.keep();
  if (f.drop.threshold == 0) {
    return f.dim == 64 ? launch<64, false>(f, keep) : launch<128, false>(f, keep);
  }
  f.dim == 64 ? launch<64, true>(f, keep) : launch<128, true>(f, keep);
}

}  // namespace pyramoe::gpu::attention
