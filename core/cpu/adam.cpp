// Optimizer twins. What is the same for all elements is computed once, in double; the loop is bound
// by memory (28 bytes an element in f32). The order of operations is that of torch.optim.
#include "core/kernels/adam.h"

#include <cmath>

#include "core/cpu/pack.h"
#include "core/parallel.h"

namespace pyramoe::kernels::cpu {
namespace {

// What the scalars tensor holds, read once a step.
struct Now {
  double lr, bias1, bias2, clip;
  bool skip;
};

Now read_scalars(const Tensor& scalars) {
  PM_CHECK(scalars.numel() >= 5, "optimizer: expected lr, bias1, bias2, clip and skip, got ",
           scalars.numel(), " scalars");
  const double* s = scalars.data<double>();
  return {s[0], s[1], s[2], s[3], s[4] != 0};
}

void check_sizes(const char* name, const Tensor& grad, const Tensor& master, const Tensor& param) {
  PM_CHECK(grad.numel() == master.numel() && param.numel() == master.numel(), name, ": ",
           grad.numel(), " gradients, ", master.numel(), " master weights, ", param.numel(),
           " parameters");
}

// Calls f with the types of gradient, master and parameter: all f64, or an f32 master with f32 or
// bf16 on either side.
template <class F>
void visit_update(const Tensor& grad, const Tensor& master, const Tensor& param, F&& f) {
  visit_floating(grad.dtype(), [&]<class G>() {
    visit_floating(master.dtype(), [&]<class M>() {
      visit_floating(param.dtype(), [&]<class P>() {
        if constexpr (!std::is_same_v<M, BFloat16> && std::is_same_v<Acc<G>, M> &&
                      std::is_same_v<Acc<P>, M>) {
          f.template operator()<G, M, P>();
        } else {
          fail(Exit::bug, "optimizer: gradient ", to_string(grad.dtype()), ", master ",
               to_string(master.dtype()), ", parameter ", to_string(param.dtype()),
               ": expected all f64, or an f32 master");
        }
      });
    });
  });
}

}  // namespace

void adamw_step(const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                Tensor& master, Tensor& m, Tensor& v, Tensor& param) {
  const Now now = read_scalars(scalars);
  if (now.skip) return;
  check_sizes("adamw_step", grad, master, param);
  check_sizes("adamw_step", m, master, v);
  visit_update(grad, master, param, [&]<class G, class A, class P>() {
    const auto clip = static_cast<A>(now.clip), b2 = static_cast<A>(options.beta2);
    const auto to_m = static_cast<A>(1 - options.beta1), to_v = static_cast<A>(1 - options.beta2);
    const auto eps = static_cast<A>(options.eps);
    const auto decay = static_cast<A>(1 - now.lr * options.weight_decay);
    const auto step = static_cast<A>(now.lr / now.bias1);
    const auto root = static_cast<A>(std::sqrt(now.bias2));
    const G* pg = grad.data<G>();
    A *pw = master.data<A>(), *pm = m.data<A>(), *pv = v.data<A>();
    P* pp = param.data<P>();
    parallel_for(grad.numel(), kGrain, [=](int64_t begin, int64_t end) {
      each_pack<A>(begin, end, [=](auto at) {
        const Pack<A> g = load(pg, at) * clip;
        Pack<A> first = load(pm, at), second = load(pv, at), w = load(pw, at);
        first = first + (g - first) * to_m;
        second = second * b2 + g * g * to_v;
        w = w * decay - step * (first / (sqrt_pack<A>(second) / root + eps));
        store(pm, at, first);
        store(pv, at, second);
        store(pw, at, w);
        if (static_cast<const void*>(pp) != static_cast<const void*>(pw)) store(pp, at, w);
      });
    });
  });
}

void adamw_step_rounded(const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                        const RngKey& key, int64_t first_id, Tensor& param, Tensor& m, Tensor& v) {
  const Now now = read_scalars(scalars);
  PM_CHECK(scalars.numel() >= 7, "adamw_step_rounded: scalars[6], the step, is missing");
  if (now.skip) return;
  check_sizes("adamw_step_rounded", grad, param, m);
  check_sizes("adamw_step_rounded", v, param, m);
  RngKey step_key = key;
  step_key.step = static_cast<uint32_t>(scalars.data<double>()[6]);
  const auto clip = static_cast<float>(now.clip), b2 = static_cast<float>(options.beta2);
  const auto to_m = static_cast<float>(1 - options.beta1);
  const auto to_v = static_cast<float>(1 - options.beta2);
  const auto eps = static_cast<float>(options.eps);
  const auto decay = static_cast<float>(1 - now.lr * options.weight_decay);
  const auto step = static_cast<float>(now.lr / now.bias1);
  const auto root = static_cast<float>(std::sqrt(now.bias2));
  BFloat16 *pw = param.data<BFloat16>(), *pm = m.data<BFloat16>(), *pv = v.data<BFloat16>();
  const auto round = [](float x, uint32_t random) {
    BFloat16 y;
    y.bits = round_at_random(std::bit_cast<uint32_t>(x), random);
    return y;
  };
  visit_floating(grad.dtype(), [&]<class G>() {
    const G* pg = grad.data<G>();
    parallel_for(grad.numel(), kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto id = static_cast<uint64_t>(first_id + i);
        const RoundingBits bits = rounding_bits(philox(step_key, id >> 1), id);
        const float g = static_cast<float>(pg[i]) * clip;
        auto first = static_cast<float>(pm[i]), second = static_cast<float>(pv[i]);
        first = first + (g - first) * to_m;
        second = second * b2 + g * g * to_v;
        const float w =
            static_cast<float>(pw[i]) * decay - step * (first / (std::sqrt(second) / root + eps));
        pm[i] = round(first, bits.m);
        pv[i] = round(second, bits.v);
        pw[i] = round(w, bits.param);
      }
    });
  });
}

void sgd_step(const Tensor& grad, double momentum, double weight_decay, const Tensor& scalars,
              Tensor& master, Tensor& m, Tensor& param) {
  const Now now = read_scalars(scalars);
  if (now.skip) return;
  check_sizes("sgd_step", grad, master, param);
  visit_update(grad, master, param, [&]<class G, class A, class P>() {
    const auto clip = static_cast<A>(now.clip), lr = static_cast<A>(now.lr);
    const auto mu = static_cast<A>(momentum), decay = static_cast<A>(weight_decay);
    const G* pg = grad.data<G>();
    A *pw = master.data<A>(), *pm = m.defined() ? m.data<A>() : nullptr;
    P* pp = param.data<P>();
    parallel_for(grad.numel(), kGrain, [=](int64_t begin, int64_t end) {
      each_pack<A>(begin, end, [=](auto at) {
        Pack<A> w = load(pw, at);
        Pack<A> direction = load(pg, at) * clip + w * decay;
        if (pm) {
          direction = load(pm, at) * mu + direction;
          store(pm, at, direction);
        }
        w = w - direction * lr;
        store(pw, at, w);
        if (static_cast<const void*>(pp) != static_cast<const void*>(pw)) store(pp, at, w);
      });
    });
  });
}

}  // namespace pyramoe::kernels::cpu
