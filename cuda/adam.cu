// Optimizer twins: one launch per flat buffer, bound by memory (28 bytes an element in f32).
//
// Learning rate, bias corrections, clip factor and skip flag are read on the device, so a captured
// step can be replayed (cuda/adam.cuh). All loads of an element's state come before the arithmetic.
#include "core/kernels/adam.h"

#include "cuda/adam.cuh"

namespace pyramoe::kernels::cuda {
namespace {

using gpu::StepNow;

constexpr int kThreads = gpu::kAdamThreads;

struct Sgd {
  float momentum, decay;
  __device__ void operator()(const StepNow& now, float g, float& m, float&, float& w) const {
    m = m * momentum + (g * now.clip + w * decay);
    w = w - m * now.lr;
  }
};

// Where the state lives; m and v may be null (plain SGD), param may be master itself.
template <class G, class P>
struct State {
  const G* grad;
  float *master, *m, *v;
  P* param;
};

// N elements from i: all loads first, then the arithmetic, then all stores.
template <int N, bool kM, bool kV, class F, class G, class P>
__device__ __forceinline__ void update(const F& f, const StepNow& now, const State<G, P>& s,
                                       int64_t i) {
  gpu::Pieces<G, N> g;
  gpu::Pieces<float, N> w, m, v;
  g.load(s.grad + i);
  w.load(s.master + i);
  if constexpr (kM) m.load(s.m + i);
  if constexpr (kV) v.load(s.v + i);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    float none = 0;
    f(now, g[j], kM ? m.value[j] : none, kV ? v.value[j] : none, w.value[j]);
  }
  w.store(s.master + i);
  if constexpr (kM) m.store(s.m + i);
  if constexpr (kV) v.store(s.v + i);
  if (static_cast<const void*>(s.param) != s.master) {
    gpu::Pieces<P, N> p;
    p.put(w.value);
    p.store(s.param + i);
  }
}

template <int N, bool kM, bool kV, class F, class G, class P>
__global__ void __launch_bounds__(kThreads)
    update_kernel(int64_t n, F f, const double* scalars, double weight_decay, State<G, P> state) {
  const StepNow now = gpu::read_scalars(scalars, weight_decay);
  if (now.skip) return;
  const int64_t packs = n / N, me = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (me < packs) update<N, kM, kV>(f, now, state, me * N);
  const int64_t rest = packs * N + me;
  if (rest < n) update<1, kM, kV>(f, now, state, rest);
}

template <bool kM, bool kV, class F, class G, class P>
void launch(int64_t n, const F& f, const Tensor& scalars, double weight_decay,
            const State<G, P>& s) {
  constexpr int kPack = 4;  // 16 bytes of f32, 8 of bf16: more threads, fewer registers each
  const bool aligned = gpu::aligned16(s.grad) && gpu::aligned16(s.master) &&
                       gpu::aligned16(s.param) && (!kM || gpu::aligned16(s.m)) &&
                       (!kV || gpu::aligned16(s.v));
  const auto* values = gpu::data<const double>(scalars);
  if (aligned) {
    update_kernel<kPack, kM, kV>
        <<<gpu::grid(n, int64_t{kThreads} * kPack), kThreads, 0, gpu::stream()>>>(n, f, values,
                                                                                  weight_decay, s);
  } else {
    update_kernel<1, kM, kV>
        <<<gpu::grid(n, kThreads), kThreads, 0, gpu::stream()>>>(n, f, values, weight_decay, s);
  }
  PM_LAUNCHED();
}

void check(const char* name, const Tensor& grad, const Tensor& scalars, const Tensor& master,
           const Tensor& m, const Tensor& v, const Tensor& param) {
  const int64_t n = master.numel();
  PM_CHECK(scalars.numel() >= 5 && scalars.dtype() == DType::f64,
           "optimizer: expected lr, bias1, bias2, clip and skip in f64, got ", scalars.numel(),
           " scalars of ", to_string(scalars.dtype()));
  PM_CHECK(grad.numel() == n && param.numel() == n, name, ": ", grad.numel(), " gradients, ", n,
           " master weights, ", param.numel(), " parameters");
  for (const Tensor* moment : {&m, &v}) {
    PM_CHECK(!moment->defined() || (moment->numel() == n && moment->dtype() == DType::f32), name,
             ": a moment has ", moment->numel(), " elements of ", to_string(moment->dtype()),
             ", expected ", n, " of f32");
  }
  PM_CHECK(master.dtype() == DType::f32, name, ": master weights are ", to_string(master.dtype()),
           ", expected f32 on a GPU");
}

}  // namespace

void adamw_step(const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                Tensor& master, Tensor& m, Tensor& v, Tensor& param) {
  check("adamw_step", grad, scalars, master, m, v, param);
  PM_CHECK(m.defined() && v.defined(), "adamw_step: a moment is missing");
  if (grad.numel() == 0) return;
  const gpu::AdamW<> f = gpu::adamw_of(options);
  gpu::visit_floating(grad.dtype(), "adamw_step", [&]<class G>() {
    gpu::visit_floating(param.dtype(), "adamw_step", [&]<class P>() {
      launch<true, true>(
          grad.numel(), f, scalars, options.weight_decay,
          State<G, P>{gpu::data<const G>(grad), gpu::data<float>(master), gpu::data<float>(m),
                      gpu::data<float>(v), gpu::data<P>(param)});
    });
  });
}

void sgd_step(const Tensor& grad, double momentum, double weight_decay, const Tensor& scalars,
              Tensor& master, Tensor& m, Tensor& param) {
  check("sgd_step", grad, scalars, master, m, Tensor(), param);
  if (grad.numel() == 0) return;
  // Without a moment m starts as 0 for every element: plain SGD.
  const Sgd f{static_cast<float>(momentum), static_cast<float>(weight_decay)};
  gpu::visit_floating(grad.dtype(), "sgd_step", [&]<class G>() {
    gpu::visit_floating(param.dtype(), "sgd_step", [&]<class P>() {
      const State<G, P> state{gpu::data<const G>(grad), gpu::data<float>(master),
                              gpu::data<float>(m), nullptr, gpu::data<P>(param)};
      if (m.defined()) {
        launch<true, false>(grad.numel(), f, scalars, 0, state);
      } else {
        launch<false, false>(grad.numel(), f, scalars, 0, state);
      }
    });
  });
}

}  // namespace pyramoe::kernels::cuda
