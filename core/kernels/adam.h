// Optimizer updates. Scalars that change from step to step are read on the device, so a captured
// step can be replayed.
#pragma once

#include "core/kernel.h"
#include "core/rng.h"

namespace pyramoe::kernels {

// What an update needs besides the tensors.   See nn/step_scalars.h for `scalars`.
struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
};

// Decoupled weight decay Adam (Loshchilov and Hutter, 2019), one range of one flat buffer:
//   g = clip * grad;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
//   master -= lr * (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay * master)
// and `param` = master in its own dtype (they may be the same memory). Nothing is written when the
// skip flag is set.
//   scalars f64: [lr, bias1, bias2, clip, skip, …];  all tensors (n)
PM_KERNEL(adamw_step, (const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
                       Tensor& master, Tensor& m, Tensor& v, Tensor& param))
// The same without f32 copies: param, m and v are bf16 (14 bytes an element with a bf16 gradient
// instead of 28). A step is often smaller than half the distance to the next bf16 number and would
// be lost every time, so all three are rounded at random, up or down with the chances that keep the
// mean (round_at_random). The random bits of element i have id first_id + i; key.step is taken from
// scalars[6], the number of the step.   scalars f64: [lr, bias1, bias2, clip, skip, norm, step]
PM_KERNEL(adamw_step_rounded,
          (const Tensor& grad, const AdamWOptions& options, const Tensor& scalars,
           const RngKey& key, int64_t first_id, Tensor& param, Tensor& m, Tensor& v))
// g = clip * grad + weight_decay * master;  m = momentum m + g;  master -= lr * m.
// m undefined = plain SGD, master -= lr * g.
PM_KERNEL(sgd_step, (const Tensor& grad, double momentum, double weight_decay,
                     const Tensor& scalars, Tensor& master, Tensor& m, Tensor& param))

// The upper or the lower bf16 neighbour of a float, the nearer the likelier: 16 random bits are
// added to the 16 that are then cut off. Takes the float's bits, gives the bf16's.
PM_HOST_DEVICE inline uint16_t round_at_random(uint32_t bits, uint32_t random) {
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  if (finite) return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
  return static_cast<uint16_t>(bits >> 16 | ((bits & 0x7fffffu) != 0 ? 0x40u : 0u));
}

// The random bits of one element's weight and moments. A counter serves two neighbours.
struct RoundingBits {
  uint32_t param, m, v;  // the low 16 bits of each count
};
PM_HOST_DEVICE inline RoundingBits rounding_bits(const Philox4& words, uint64_t id) {
  const int half = static_cast<int>(id & 1) * 2;
  return {words.v[half], words.v[half] >> 16, words.v[half + 1]};
}

}  // namespace pyramoe::kernels
