// A grouped matrix product from naive to fast, in six steps; each is checked, then timed.
//
//   1 naive      a thread an element of y; every operand read from L2 or HBM
//   2 shared     32 x 32 tiles in shared memory: each value is read once a tile
//   3 registers  64 x 64 tiles, 4 x 4 sums a thread: 8 loads for 16 products (f32 units)
//   4 mma        tensor cores by mma.sync, 128 x 128 tiles (the product's portable kernel)
//   5 wgmma      a 128 x 128 tile a block: bulk copies in, wgmma from shared memory, nothing hidden
//   6 product    a producer warp, four stages, 128 x 256 tiles, persistent blocks
//
// y = x w_e^T for E experts of equal rows. Check: every step against the CPU twin on the same bf16
// inputs. Limit: cuBLAS on one dense product of as many FLOPs, in the same run.
// Run: workshop_gemm [experts = 8] [rows of each = 512] [K = 1024] [M = 4096]
#include "core/kernels/matmul.h"
#include "cuda/grouped.h"
#include "cuda/hopper.cuh"
#include "cuda/vec.cuh"
#include "cuda/workshop/bench.cuh"

namespace pyramoe::workshop {
namespace {

using gpu::Bf16;
using gpu::stream;
using gpu::to_float;
namespace grouped = gpu::grouped;

// All experts have `rows` rows; expert blockIdx.z is x + z rows k, w + z m k, y + z rows m.
struct Sizes {
  int rows, m, k;
};

// ---- step 1: naive. Two loads for each multiply-add.

__global__ void naive_kernel(const Bf16* x, const Bf16* w, Bf16* y, Sizes s) {
  const int m = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int64_t r = static_cast<int64_t>(blockIdx.z) * s.rows + blockIdx.y;
  if (m >= s.m) return;
  const Bf16 *a = x + r * s.k, *b = w + (static_cast<int64_t>(blockIdx.z) * s.m + m) * s.k;
  float sum = 0;
  for (int k = 0; k < s.k; ++k) sum = fmaf(to_float(a[k]), to_float(b[k]), sum);
  y[r * s.m + m] = __float2bfloat16_rn(sum);
}

// ---- steps 2 and 3: tiles. A block of 32 x 32 (or 16 x 16) threads owns T x T of y; each value
// brought to shared memory serves T threads. With N x N sums a thread, each value read from shared
// memory serves N products too.

template <int T, int N>
__global__ void tiled_kernel(const Bf16* x, const Bf16* w, Bf16* y, Sizes s) {
  constexpr int kDepth = 16, kSide = T / N;
  __shared__ float a[kDepth][T + 1], b[kDepth][T + 1];
  const int m0 = static_cast<int>(blockIdx.x) * T, r0 = static_cast<int>(blockIdx.y) * T;
  x += static_cast<int64_t>(blockIdx.z) * s.rows * s.k;
  w += static_cast<int64_t>(blockIdx.z) * s.m * s.k;
  y += static_cast<int64_t>(blockIdx.z) * s.rows * s.m;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  float sum[N][N] = {};
  for (int k0 = 0; k0 < s.k; k0 += kDepth) {
    for (int i = ty * kSide + tx; i < T * kDepth; i += kSide * kSide) {
      const int line = i / kDepth, k = i % kDepth;
      const bool in = k0 + k < s.k;
      a[k][line] = in && r0 + line < s.rows
                       ? to_float(x[static_cast<int64_t>(r0 + line) * s.k + k0 + k])
                       : 0.0f;
      b[k][line] = in && m0 + line < s.m
                       ? to_float(w[static_cast<int64_t>(m0 + line) * s.k + k0 + k])
                       : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum[i][j] = fmaf(a[k][ty * N + i], b[k][tx * N + j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int r = r0 + ty * N + i, m = m0 + tx * N + j;
      if (r < s.rows && m < s.m) {
        y[static_cast<int64_t>(r) * s.m + m] = __float2bfloat16_rn(sum[i][j]);
      }
    }
  }
}

// ---- step 5: one tile a block. Two boxes arrive by bulk copy, two warpgroups multiply them, and
// only then the next two are asked for: the tensor cores wait for memory, and memory for them.

constexpr int kTile = 128, kBox = kTile * 128;  // a box: 128 lines of 64 bf16

__global__ __launch_bounds__(256) void wgmma_kernel(const __grid_constant__ CUtensorMap x,
                                                    const __grid_constant__ CUtensorMap w, Bf16* y,
                                                    Sizes s) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace gpu::hopper;
  extern __shared__ __align__(1024) uint8_t boxes[];  // x's, w's
  __shared__ uint64_t full;
  const int m0 = static_cast<int>(blockIdx.x) * kTile, r0 = static_cast<int>(blockIdx.y) * kTile;
  const int e = static_cast<int>(blockIdx.z), group = static_cast<int>(threadIdx.x) / 128;
  if (threadIdx.x == 0) barrier_init(&full, 1), fence_barrier_init();
  __syncthreads();
  float sum[64];
  for (int k = 0, step = 0; k < s.k; k += 64, ++step) {
    if (threadIdx.x == 0) {
      barrier_expect(&full, 2 * kBox);
      tma_load(boxes, &x, &full, k, r0, e);
      tma_load(boxes + kBox, &w, &full, k, m0, e);
    }
    barrier_wait(&full, step & 1);
    const uint32_t a = shared_address(boxes) + static_cast<uint32_t>(group) * (kBox / 2);
    const uint32_t b = shared_address(boxes + kBox);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // 16 k each
      wgmma(sum, tile_descriptor<Major::k>(a + 32 * i), tile_descriptor<Major::k>(b + 32 * i),
            step > 0 || i > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads();  // both warpgroups have read the boxes
  }
  wgmma_touch(sum);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int i = 0; i < 64; ++i) {  // where a sum belongs: wgmma.cuh
    const int r = r0 + 16 * warp + lane / 4 + i / 2 % 2 * 8;
    const int m = m0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (r < s.rows && m < s.m) {
      y[(static_cast<int64_t>(e) * s.rows + r) * s.m + m] = __float2bfloat16_rn(sum[i]);
    }
  }
#endif
}

// ---- the bench

struct Bench {
  int experts;
  Sizes s;
  Tensor x = {}, w = {}, offsets = {}, y = {};

  dim3 grid(int columns, int rows) const {
    return dim3(static_cast<unsigned>((s.m + columns - 1) / columns),
                static_cast<unsigned>((s.rows + rows - 1) / rows), static_cast<unsigned>(experts));
  }
  void naive() const {
    naive_kernel<<<grid(128, 1), 128, 0, stream()>>>(gpu::data<Bf16>(x), gpu::data<Bf16>(w),
                                                     gpu::data<Bf16>(y), s);
    PM_LAUNCHED();
  }
  template <int T, int N>
  void tiled() const {
    tiled_kernel<T, N><<<grid(T, T), dim3(T / N, T / N), 0, stream()>>>(
        gpu::data<Bf16>(x), gpu::data<Bf16>(w), gpu::data<Bf16>(y), s);
    PM_LAUNCHED();
  }
  void mma() const {
    grouped::portable({.form = grouped::Form::forward,
                       .a = x.raw(),
                       .b = w.raw(),
                       .c = y.raw(),
                       .offsets = gpu::data<int32_t>(offsets),
                       .experts = experts,
                       .rows = x.dim(0),
                       .m = s.m,
                       .k = s.k,
                       .bf16 = true},
                      stream());
  }
  void wgmma() const {
    const auto map = [&](const Tensor& t, int64_t lines) {
      const int64_t bytes = int64_t{s.k} * 2;
      return gpu::hopper::tensor_map(t.raw(), std::array<int64_t, 3>{s.k, lines, experts},
                                     std::array<int64_t, 2>{bytes, bytes * lines},
                                     std::array<int, 3>{64, kTile, 1});
    };
    gpu::allow_shared_memory(reinterpret_cast<const void*>(&wgmma_kernel), 2 * kBox);
    wgmma_kernel<<<grid(kTile, kTile), 256, 2 * kBox, stream()>>>(map(x, s.rows), map(w, s.m),
                                                                  gpu::data<Bf16>(y), s);
    PM_LAUNCHED();
  }
  void product() { kernels::grouped_linear_forward(x, offsets, w, Tensor(), y); }
};

int run(int experts, Sizes s) {
  if (!cuda_available()) return std::puts("no CUDA device here: nothing to measure"), 0;
  if (s.k % 8 != 0 || s.m % 8 != 0) return std::puts("K and M must be multiples of 8"), 1;
  const int64_t rows = int64_t{experts} * s.rows;
  std::vector<int32_t> first;
  for (int e = 0; e <= experts; ++e) first.push_back(e * s.rows);
  const Tensor x = normal({rows, s.k}, 1), w = normal({experts, s.m, s.k}, 2);
  const Tensor offsets = Tensor::from(first, {experts + 1});
  Tensor want({rows, s.m}, DType::bf16);
  kernels::grouped_linear_forward(x, offsets, w, Tensor(), want);
  Bench b{.experts = experts, .s = s};
  b.x = x.to(kGpu), b.w = w.to(kGpu), b.offsets = offsets.to(kGpu);
  b.y = Tensor(want.shape(), DType::bf16, kGpu);
  std::vector<Step> steps = {{"naive", [&] { b.naive(); }},
                             {"shared", [&] { b.tiled<32, 1>(); }},
                             {"registers", [&] { b.tiled<64, 4>(); }},
                             {"mma", [&] { b.mma(); }}};
  if (gpu::has_hopper_kernels()) steps.push_back({"wgmma", [&] { b.wgmma(); }});
  steps.push_back({"product", [&] { b.product(); }});
  const double flops = 2.0 * static_cast<double>(rows) * s.m * s.k;
  const Tensor one = b.w.rows(0, 1).reshape({s.m, s.k});
  const double limit =
      flops * 1e-9 / median_ms([&] { kernels::matmul(b.x, false, one, true, false, b.y); });
  std::printf("%d experts, %d rows each, K = %d, M = %d; limit: %.0f TFLOP/s (cuBLAS, dense)\n",
              experts, s.rows, s.k, s.m, limit);
  // bf16: one rounding, and f32 sums of k terms near 1.
  const auto error = [&](const Tensor& got) {
    return error_in_bounds(want, got, 0x1p-7, 0x1p-20 * s.k);
  };
  return climb(steps, b.y, error, flops, limit);
}

}  // namespace
}  // namespace pyramoe::workshop

int main(int argc, char** argv) {
  using namespace pyramoe::workshop;
  const auto number = [&](int i, long otherwise) {
    return static_cast<int>(argument(argc, argv, i, otherwise));
  };
  const Sizes sizes{number(2, 512), number(4, 4096), number(3, 1024)};
  return run(number(1, 8), sizes) == 0 ? 0 : 1;
}
