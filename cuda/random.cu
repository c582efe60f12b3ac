// Dropout's twin. A Philox counter serves four elements, so a thread that takes eight neighbours
// draws two; where the first id or an address does not fit, each element draws its own (the same
// words, four times the arithmetic).
#include "core/kernels/random.h"

#include <cmath>

#include "cuda/map.cuh"

namespace pyramoe::kernels::cuda {
namespace {

struct Drop {
  RngKey key;
  uint64_t first;      // id of element 0
  int64_t width;       // ids of a row
  uint32_t threshold;  // kept where the 24 random bits are at or above it
  float factor;

  __device__ float apply(float x, uint32_t word) const {
    return (word >> 8) >= threshold ? x * factor : 0.0f;
  }
  __device__ Drop at_this_step() const {
    Drop drop = *this;
    drop.key = key.at_this_step();
    drop.first += static_cast<uint64_t>(key.rows_before() * width);
    return drop;
  }
};

// N elements a thread, N a multiple of 4 and ids of whole packs aligned to 4.
template <int N, class T>
__global__ void __launch_bounds__(256) dropout_kernel(int64_t n, Drop any, const T* x, T* y) {
  const Drop drop = any.at_this_step();
  const int64_t begin = (int64_t{blockIdx.x} * 256 + threadIdx.x) * N;
  if (begin + N <= n) {
    gpu::Pieces<T, N> in, out;
    float kept[N];
    in.load(x + begin);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const Philox4 words = philox(drop.key, (drop.first + static_cast<uint64_t>(begin + i)) >> 2);
#pragma unroll
      for (int j = 0; j < 4; ++j) kept[i + j] = drop.apply(in[i + j], words.v[j]);
    }
    out.put(kept);
    out.store(y + begin);
  } else {
    for (int64_t i = begin; i < n; ++i) {
      const uint32_t word = random_u32(drop.key, drop.first + static_cast<uint64_t>(i));
      y[i] = gpu::from_float<T>(drop.apply(gpu::to_float(x[i]), word));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    dropout_scalar_kernel(int64_t n, Drop any, const T* x, T* y) {
  const Drop drop = any.at_this_step();
  const int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= n) return;
  const uint32_t word = random_u32(drop.key, drop.first + static_cast<uint64_t>(i));
  y[i] = gpu::from_float<T>(drop.apply(gpu::to_float(x[i]), word));
}

}  // namespace

void dropout(const Tensor& x, double p, const RngKey& key, int64_t first_row, Tensor& y) {
  PM_CHECK(p >= 0 && p < 1, "dropout: p = ", p, ", expected a number in [0, 1)");
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), "dropout: x is ", to_string(x.shape()),
           ", y ", to_string(y.shape()));
  const int64_t n = x.numel();
  if (n == 0) return;
  // uniform >= p, in whole numbers: the 24 random bits against ceil(p 2^24).
  const Drop drop{key, static_cast<uint64_t>(first_row * x.dim(-1)), x.dim(-1),
                  static_cast<uint32_t>(std::ceil(p * 16777216.0)),
                  static_cast<float>(1 / (1 - p))};
  gpu::visit_floating(x.dtype(), "dropout", [&]<class T>() {
    const T* in = gpu::data<const T>(x);
    T* out = gpu::data<T>(y);
    const bool whole = drop.first % 4 == 0 && (!key.now || drop.width % 4 == 0);
    if (whole && gpu::aligned16(in) && gpu::aligned16(out)) {
      constexpr int kPack = 16 / sizeof(T);
      dropout_kernel<kPack><<<gpu::grid(n, 256 * kPack), 256, 0, gpu::stream()>>>(n, drop, in, out);
    } else {
      dropout_scalar_kernel<<<gpu::grid(n, 256), 256, 0, gpu::stream()>>>(n, drop, in, out);
    }
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
