// All experts of a layer: one MLP per expert, run as two grouped products over ragged segments, so
// nobody multiplies padding and an expert without tokens costs nothing.
#pragma once

#include "moe/routing.h"
#include "nn/module.h"

namespace pyramoe::moe {

class Experts : public nn::Module {
 public:
  // Each expert is D -> F, GELU, F -> D. Weights are drawn per expert, all different.
  Experts(int64_t experts, int64_t dim, int64_t hidden, double std, double out_std,
          const nn::Build& build);
  Segments forward(const Segments& x) const;  // (R, D) -> (R, D)

 private:
  Var up_, down_;            // (E, F, D), (E, D, F)
  Var up_bias_, down_bias_;  // (E, F), (E, D); undefined without biases
};

}  // namespace pyramoe::moe
