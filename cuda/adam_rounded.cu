// AdamW whose weights and moments are bf16 alone, rounded at random: 14 bytes an element. The
// random bits come from a counter (core/rng.h) of the element and the step, so they are those of
// the CPU twin; two neighbours share one draw of four words.
//
// Instructions count here as much as bytes: two of five draw. So blocks stay and walk over the
// buffer, and what is done once an element is done in as few instructions as there can be.
#include "cuda/adam.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Bf16;

constexpr int kThreads = gpu::kAdamThreads;
constexpr int kBlocks = 5;  // that a multiprocessor holds at once
using Update = gpu::AdamW<true>;

template <class G>
struct State {
  const G* grad;
  Bf16 *param, *m, *v;
};

// Element i, alone.
template <class G>
__device__ void update_one(const Update& f, const gpu::StepNow& now, const RngKey& key,
                           uint64_t first_id, const State<G>& s, int64_t i) {
  const uint64_t id = first_id + static_cast<uint64_t>(i);
  const RoundingBits bits = rounding_bits(philox(key, id >> 1), id);
  float w = gpu::to_float(s.param[i]), m = gpu::to_float(s.m[i]), v = gpu::to_float(s.v[i]);
  f(now, gpu::to_float(s.grad[i]), m, v, w);
  s.param[i] = __ushort_as_bfloat16(round_at_random(__float_as_uint(w), bits.param));
  s.m[i] = __ushort_as_bfloat16(round_at_random(__float_as_uint(m), bits.m));
  s.v[i] = __ushort_as_bfloat16(round_at_random(__float_as_uint(v), bits.v));
}

// Two results of arithmetic, each rounded by its 16 random bits, side by side: round_at_random in
// fewer instructions. Infinity ends in zeros, so no carry leaves it; a NaN gets no random bits.
__device__ __forceinline__ uint32_t round_two(float x, float y, uint32_t random_x,
                                              uint32_t random_y) {
  return __byte_perm(__float_as_uint(x) + (x == x ? random_x & 0xffffu : 0),
                     __float_as_uint(y) + (y == y ? random_y & 0xffffu : 0), 0x7632);
}

// Elements a thread updates at once, from one whose id is even.
constexpr int kPack = 4;

template <class G>
struct Pack {
  gpu::Pieces<G, kPack> grad;
  gpu::Pieces<Bf16, kPack> param, m, v;

  __device__ __forceinline__ void load(const State<G>& s, int64_t begin) {
    grad.load(s.grad + begin);
    param.load(s.param + begin);
    m.load(s.m + begin);
    v.load(s.v + begin);
  }
  __device__ __forceinline__ void update(const Update& f, const gpu::StepNow& now,
                                         const RngKey& key, uint64_t id) {
#pragma unroll
    for (int i = 0; i < kPack; i += 2) {
      const Philox4 words = philox(key, (id + static_cast<uint64_t>(i)) >> 1);
      const RoundingBits a = rounding_bits(words, 0), b = rounding_bits(words, 1);
      float w[2], first[2], second[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        w[j] = param[i + j], first[j] = m[i + j], second[j] = v[i + j];
        f(now, grad[i + j], first[j], second[j], w[j]);
      }
      param.word[i / 2] = round_two(w[0], w[1], a.param, b.param);
      m.word[i / 2] = round_two(first[0], first[1], a.m, b.m);
      v.word[i / 2] = round_two(second[0], second[1], a.v, b.v);
    }
  }
  __device__ __forceinline__ void store(const State<G>& s, int64_t begin) const {
    param.store(s.param + begin);
    m.store(s.m + begin);
    v.store(s.v + begin);
  }
};

template <bool kPacks, class G>
__global__ void __launch_bounds__(kThreads)
    rounded_kernel(int64_t n, Update f, const double* scalars, double weight_decay, RngKey key,
                   uint64_t first_id, State<G> state) {
  constexpr int N = kPacks ? kPack : 1;
  const int64_t packs = kPacks ? n / N : 0, stride = int64_t{gridDim.x} * kThreads;
  const int64_t me = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  key.step = static_cast<uint32_t>(scalars[6]);
  const gpu::StepNow now = gpu::read_scalars(scalars, weight_decay);
  if (now.skip) return;
  for (int64_t i = me; i < packs; i += stride) {
    Pack<G> pack;
    pack.load(state, i * N);
    pack.update(f, now, key, first_id + static_cast<uint64_t>(i * N));
    pack.store(state, i * N);
  }
  const int64_t rest = packs * N + me;
  if (rest < n) update_one(f, now, key, first_id, state, rest);
}

}  // namespace

void adamw_step_rounded(const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                        const RngKey& key, int64_t first_id, Tensor& param, Tensor& m, Tensor& v) {
  const int64_t n = param.numel();
  PM_CHECK(scalars.numel() >= 7 && scalars.dtype() == DType::f64,
           "adamw_step_rounded: expected seven f64 scalars, got ", scalars.numel(), " of ",
           to_string(scalars.dtype()));
  for (const Tensor* x : {&param, &m, &v}) {
    PM_CHECK(x->numel() == n && x->dtype() == DType::bf16 && grad.numel() == n,
             "adamw_step_rounded: ", grad.numel(), " gradients, a state of ", x->numel(), " ",
             to_string(x->dtype()), ", expected ", n, " of bf16");
  }
  if (n == 0) return;
  gpu::visit_floating(grad.dtype(), "adamw_step_rounded", [&]<class G>() {
    const State<G> s{gpu::data<const G>(grad), gpu::data<Bf16>(param), gpu::data<Bf16>(m),
                     gpu::data<Bf16>(v)};
    const bool aligned = gpu::aligned16(s.grad) && gpu::aligned16(s.param) && gpu::aligned16(s.m) &&
                         gpu::aligned16(s.v) && first_id % 2 == 0;
    const auto id = static_cast<uint64_t>(first_id);
    const auto* values = gpu::data<const double>(scalars);
    const Update f = gpu::adamw_of<true>(options);
    const unsigned blocks = aligned
                                ? gpu::grid(n, kThreads * kPack, gpu::multiprocessors() * kBlocks)
                                : gpu::grid(n, kThreads);
    if (aligned) {
      rounded_kernel<true>
          <<<blocks, kThreads, 0, gpu::stream()>>>(n, f, values, options.weight_decay, key, id, s);
    } else {
      rounded_kernel<false>
          <<<blocks, kThreads, 0, gpu::stream()>>>(n, f, values, options.weight_decay, key, id, s);
    }
    PM_LAUNCHED();
  });
}

}  // namespace pyramoe::kernels::cuda
