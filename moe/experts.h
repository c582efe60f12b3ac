// The experts of a layer that lie on this rank: one MLP per expert, run as two grouped products
// over ragged segments, so nobody multiplies padding and an expert without tokens costs nothing.
//
// Where ranks share the experts' hidden axis each makes its part, and the parts are summed. Tensor
// ranks all have the rows; ranks with rows of their own gather them first and get their rows of the
// sum back; with slices and tensor ranks, both.
#pragma once

#include "dist/mesh.h"
#include "moe/experts_by_source.h"
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
  Segments gathered(const Segments& x) const;
  Var with_bias(const Var& y, const Tensor& offsets) const;

  // Of this rank: E / degree experts, F / shards of the hidden axis.
  Var up_, down_;                      // (e, f, D), (e, D, f)
  Var up_bias_, down_bias_;            // (e, f), (e, D); undefined without biases
  dist::ProcessGroup gather_, equal_;  // dist::ExpertGroups
  SourceGrads by_source_;              // undefined: gradients go straight to the parameters
};

}  // namespace pyramoe::moe
