// CUDA twins of the routing noise. One Philox counter serves four neighbours by global id, so a
// thread owns one counter: the same words as on the CPU, wherever the batch was cut.
#include "core/kernels/moe.h"
#include "cuda/vec.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::from_float;
using gpu::to_float;
using gpu::visit_floating;

constexpr int kThreads = 256;

struct Jitter {
  float low, range;
  __device__ float operator()(float x, uint32_t word) const {
    return x * (low + range * uniform_from(word));
  }
};
struct Gumbel {
  __device__ float operator()(float x, uint32_t word) const {
    // The middle of one of 2^32 equal steps: never 0 or 1, so both logarithms are finite.
    const double u = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
    return x + static_cast<float>(-log(-log(u)));
  }
};

// y[i] = f(x[i], word of element first + i).
template <class T, class F>
__global__ void __launch_bounds__(kThreads)
    noise_kernel(const T* __restrict__ x, RngKey any, int64_t first, int64_t width, int64_t count,
                 F f, T* __restrict__ y) {
  const RngKey key = any.at_this_step();
  first += any.rows_before() * width;
  const int64_t counter = (first >> 2) + blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  const int64_t begin = counter * 4 - first;
  if (begin >= count) return;
  const Philox4 words = philox(key, static_cast<uint64_t>(counter));
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int64_t i = begin + w;
    if (i >= 0 && i < count) y[i] = from_float<T>(f(to_float(x[i]), words.v[w]));
  }
}

template <class F>
void add_noise(const char* name, const Tensor& x, const RngKey& key, int64_t first_row, const F& f,
               Tensor& y) {
  PM_CHECK(x.shape() == y.shape() && x.dtype() == y.dtype(), name, ": x is ", to_string(x.shape()),
           ", y ", to_string(y.shape()));
  if (x.numel() == 0) return;
  const int64_t first = first_row * x.dim(-1), count = x.numel();
  // Where the first id is not known here, it may be the last of its counter.
  const int64_t counters = key.now ? (count + 6) >> 2 : ((first + count + 3) >> 2) - (first >> 2);
  visit_floating(x.dtype(), name, [&]<class T>() {
    noise_kernel<T, F><<<gpu::grid(counters, kThreads), kThreads, 0, gpu::stream()>>>(
        gpu::data<T>(x), key, first, x.dim(-1), count, f, gpu::data<T>(y));
    PM_LAUNCHED();
  });
}

}  // namespace

void jitter(const Tensor& x, double width, const RngKey& key, int64_t first_row, Tensor& y) {
  add_noise("jitter", x, key, first_row,
            Jitter{static_cast<float>(1 - width), static_cast<float>(2 * width)}, y);
}

void add_gumbel(const Tensor& x, const RngKey& key, int64_t first_row, Tensor& y) {
  add_noise("add_gumbel", x, key, first_row, Gumbel{}, y);
}

}  // namespace pyramoe::kernels::cuda
