// Causal attention from naive to fast, in five steps; each is checked, then timed.
//
//   1 naive      the T x T scores go through memory, a thread an element
//   2 tiled      a thread a query, tiles of keys in shared memory, a running softmax: no T x T
//   3 plain      many threads a query, fp32 units (the product's kernel for f32)
//   4 mma        tensor cores by mma.sync, registers from product to product (any GPU since sm_80)
//   5 hopper     wgmma and bulk copies, loads and exponentials hidden behind products
//
// Check: every step against the CPU twin on the same bf16 inputs. Limit: what the dense product
// kernel of this library reaches on this GPU in the same run. Causal FLOPs: 2 T^2 Dh a head.
// Run: workshop_attention [T = 1024] [heads = 64]
#include "core/kernels/attention.h"
#include "core/kernels/matmul.h"
#include "cuda/attention.cuh"
#include "cuda/vec.cuh"
#include "cuda/workshop/bench.cuh"

namespace pyramoe::workshop {
namespace {

using gpu::Bf16;
using gpu::ceil_div;
using gpu::stream;
using gpu::to_float;
namespace attention = gpu::attention;

constexpr int kDim = 64;

// ---- step 1: naive. Bytes: the scores are written once and read three times, 4 T^2 each.

__global__ void scores_kernel(const Bf16* qkv, float* s, int tokens, int heads, float scale) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int q = static_cast<int>(blockIdx.y), h = static_cast<int>(blockIdx.z);
  if (k >= tokens) return;
  const Bf16* query = qkv + (static_cast<int64_t>(q) * 3 * heads + h) * kDim;
  const Bf16* key = qkv + ((static_cast<int64_t>(k) * 3 + 1) * heads + h) * kDim;
  float sum = 0;
  for (int d = 0; d < kDim; ++d) sum = fmaf(to_float(query[d]), to_float(key[d]), sum);
  s[(static_cast<int64_t>(h) * tokens + q) * tokens + k] = k <= q ? sum * scale : -INFINITY;
}
// A thread a row: neighbours read far apart. (Try a warp a row.)
__global__ void softmax_kernel(float* s, int tokens, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  float *x = s + row * tokens, largest = -INFINITY, sum = 0;
  for (int k = 0; k < tokens; ++k) largest = fmaxf(largest, x[k]);
  for (int k = 0; k < tokens; ++k) sum += x[k] = expf(x[k] - largest);
  for (int k = 0; k < tokens; ++k) x[k] /= sum;
}
__global__ void values_kernel(const Bf16* qkv, const float* p, Bf16* y, int tokens, int heads) {
  const int q = static_cast<int>(blockIdx.x), h = static_cast<int>(blockIdx.y);
  const int d = static_cast<int>(threadIdx.x);
  const float* row = p + (static_cast<int64_t>(h) * tokens + q) * tokens;
  float sum = 0;
  for (int k = 0; k <= q; ++k) {
    sum = fmaf(row[k], to_float(qkv[((static_cast<int64_t>(k) * 3 + 2) * heads + h) * kDim + d]),
               sum);
  }
  y[(static_cast<int64_t>(q) * heads + h) * kDim + d] = __float2bfloat16_rn(sum);
}

// ---- step 2: tiled. A softmax can be built up tile by tile: when a larger score comes, what was
// summed so far shrinks by exp(old - new). So nothing of size T x T exists.

constexpr int kThreads = 64, kKeys = 32;
__global__ void tiled_kernel(const Bf16* qkv, Bf16* y, int tokens, int heads, float scale) {
  __shared__ float keys[kKeys][kDim], values[kKeys][kDim];
  const int h = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * kThreads;
  const int q = first + static_cast<int>(threadIdx.x), row = 3 * heads * kDim;
  float query[kDim], o[kDim] = {}, largest = -INFINITY, sum = 0;
#pragma unroll
  for (int d = 0; d < kDim; ++d) {
    query[d] = q < tokens ? to_float(qkv[static_cast<int64_t>(q) * row + h * kDim + d]) : 0.0f;
  }
  for (int k0 = 0; k0 < min(tokens, first + kThreads); k0 += kKeys) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * kDim; i += kThreads) {
      const int k = i / kDim, d = i % kDim;
      const Bf16* from = qkv + static_cast<int64_t>(k0 + k) * row + (heads + h) * kDim + d;
      keys[k][d] = k0 + k < tokens ? to_float(from[0]) : 0.0f;
      values[k][d] = k0 + k < tokens ? to_float(from[heads * kDim]) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < kKeys && k0 + k <= q; ++k) {
      float s = 0;
#pragma unroll
      for (int d = 0; d < kDim; ++d) s = fmaf(query[d], keys[k][d], s);
      const float top = fmaxf(largest, s * scale), shrink = expf(largest - top);
      const float p = expf(s * scale - top);
      sum = fmaf(sum, shrink, p), largest = top;
#pragma unroll
      for (int d = 0; d < kDim; ++d) o[d] = fmaf(o[d], shrink, p * values[k][d]);
    }
  }
  if (q >= tokens) return;
#pragma unroll
  for (int d = 0; d < kDim; ++d) {
    y[(static_cast<int64_t>(q) * heads + h) * kDim + d] = __float2bfloat16_rn(o[d] / sum);
  }
}

// ---- the bench

double dense_tflops() {
  const int64_t n = 8192;
  const Tensor a = normal({n, n}, 1).to(kGpu), b = normal({n, n}, 2).to(kGpu);
  Tensor c({n, n}, DType::bf16, kGpu);
  const double ms = median_ms([&] { kernels::matmul(a, false, b, true, false, c); });
  return 2e-9 * static_cast<double>(n * n) * static_cast<double>(n) / ms;
}

int run(int tokens, int heads) {
  if (!cuda_available()) return std::puts("no CUDA device here: nothing to measure"), 0;
  const Tensor host = normal({1, tokens, 3, heads, kDim}, 3), qkv = host.to(kGpu);
  Tensor want({1, tokens, heads * kDim}, DType::bf16), host_lse({1, heads, tokens}, DType::f32);
  kernels::attention_forward(host, {}, want, host_lse);
  Tensor y(want.shape(), DType::bf16, kGpu), lse(host_lse.shape(), DType::f32, kGpu);
  const Tensor scores({heads, tokens, tokens}, DType::f32, kGpu);
  const float scale = 1 / std::sqrt(static_cast<float>(kDim));
  const Bf16* x = gpu::data<Bf16>(qkv);
  Bf16* out = gpu::data<Bf16>(y);
  float* s = gpu::data<float>(scores);
  attention::Forward<Bf16> f{};
  const int64_t width = int64_t{heads} * kDim;
  f.q = {x, 3 * tokens * width, 3 * width}, f.k = {x + width, f.q.batch, f.q.row};
  f.v = {x + 2 * width, f.q.batch, f.q.row}, f.y = {out, tokens * width, width};
  f.lse = gpu::data<float>(lse), f.batch = 1, f.heads = heads, f.dim = kDim, f.scale = scale;
  f.queries = f.capacity = tokens;
  const auto t = static_cast<unsigned>(tokens), h = static_cast<unsigned>(heads);
  const auto naive = [&] {
    scores_kernel<<<dim3((t + 127) / 128, t, h), 128, 0, stream()>>>(x, s, tokens, heads, scale);
    softmax_kernel<<<gpu::grid(int64_t{heads} * tokens, 128), 128, 0, stream()>>>(
        s, tokens, int64_t{heads} * tokens);
    values_kernel<<<dim3(t, h), kDim, 0, stream()>>>(x, s, out, tokens, heads);
    PM_LAUNCHED();
  };
  const auto tiled = [&] {
    tiled_kernel<<<dim3((t + kThreads - 1) / kThreads, h), kThreads, 0, stream()>>>(x, out, tokens,
                                                                                    heads, scale);
    PM_LAUNCHED();
  };
  const std::vector<Step> steps = {
      {"naive", naive},
      {"tiled", tiled},
      {"plain", [&] { attention::plain_forward(f); }},
      {"mma", [&] { attention::mma_forward(f); }},
      {"product", [&] { kernels::attention_forward(qkv, {}, y, lse); }}};
  const double limit = dense_tflops();
  const double flops = 2.0 * tokens * static_cast<double>(tokens) * kDim * heads;
  std::printf("T = %d, %d heads of %d, causal; limit: %.0f TFLOP/s (our dense product)\n", tokens,
              heads, kDim, limit);
  // bf16: two roundings of values of size |want| + 1.
  const auto error = [&](const Tensor& got) { return error_in_bounds(want, got, 0x1p-7, 0x1p-7); };
  return climb(steps, y, error, flops, limit);
}

}  // namespace
}  // namespace pyramoe::workshop

int main(int argc, char** argv) {
  using namespace pyramoe::workshop;
  const auto tokens = static_cast<int>(argument(argc, argv, 1, 1024));
  const auto heads = static_cast<int>(argument(argc, argv, 2, 64));
  return run(tokens, heads) == 0 ? 0 : 1;
}
