// AdamW whose weights and moments are bf16 alone, rounded at random: 14 bytes an element. The
// random bits come from a counter (core/rng.h) of the element and the step, so they are those of
// the CPU twin; two neighbours share one draw of four words.
#include "cuda/adam.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::Bf16;

constexpr int kThreads = gpu::kAdamThreads;
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

__device__ __forceinline__ uint32_t two(uint16_t low, uint16_t high) {
  return static_cast<uint32_t>(high) << 16 | low;
}

// Four elements whose ids start at an even number. (Eight, 16 bytes a load, leave too few warps to
// hide the draws behind memory.)
constexpr int kPack = 4;

template <class G>
__device__ __forceinline__ void update_pack(const Update& f, const gpu::StepNow& now,
                                            const RngKey& key, uint64_t first_id, const State<G>& s,
                                            int64_t begin) {
  constexpr int N = kPack;
  gpu::Pieces<G, N> grad;
  gpu::Pieces<Bf16, N> param, m, v;
  grad.load(s.grad + begin);
  param.load(s.param + begin);
  m.load(s.m + begin);
  v.load(s.v + begin);
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const uint64_t id = first_id + static_cast<uint64_t>(begin + i);
    const Philox4 words = philox(key, id >> 1);
    uint16_t rounded[3][2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const RoundingBits bits = rounding_bits(words, static_cast<uint64_t>(j));
      float w = param[i + j], first = m[i + j], second = v[i + j];
      f(now, grad[i + j], first, second, w);
      rounded[0][j] = round_at_random(__float_as_uint(w), bits.param);
      rounded[1][j] = round_at_random(__float_as_uint(first), bits.m);
      rounded[2][j] = round_at_random(__float_as_uint(second), bits.v);
    }
    param.word[i / 2] = two(rounded[0][0], rounded[0][1]);
    m.word[i / 2] = two(rounded[1][0], rounded[1][1]);
    v.word[i / 2] = two(rounded[2][0], rounded[2][1]);
  }
  param.store(s.param + begin);
  m.store(s.m + begin);
  v.store(s.v + begin);
}

template <bool kPacks, class G>
__global__ void __launch_bounds__(kThreads)
    rounded_kernel(int64_t n, Update f, const double* scalars, double weight_decay, RngKey key,
                   uint64_t first_id, State<G> state) {
  const gpu::StepNow now = gpu::read_scalars(scalars, weight_decay);
  if (now.skip) return;
  key.step = static_cast<uint32_t>(scalars[6]);
  constexpr int N = kPacks ? kPack : 1;
  const int64_t packs = kPacks ? n / N : 0;
  const int64_t me = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if constexpr (kPacks) {
    if (me < packs) update_pack(f, now, key, first_id, state, me * N);
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
    const unsigned blocks = gpu::grid(n, aligned ? kThreads * kPack : kThreads);
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
