// What routing decides, as plain values. Letters: N tokens, E experts, k choices a token.
//
// Segments are the one form in which tokens meet experts: sorted by expert, then by global token; a
// choice without a place has no row. Read next: moe/router.h, moe/moe_layer.cpp.
#pragma once

#include <memory>

#include "autograd/var.h"

namespace pyramoe::moe {

// What a gate decides. The router turns it into rows and weights.
struct Choice {
  Tensor expert;    // (N, k) i32, best first, distinct in a row
  Var score;        // (N, E): a choice's weight before drops
  Var probability;  // (N, E): rows sum to 1, for the balance loss
};

struct Routing {
  Var x;           // (N, D): the tokens to send (the fused router adds their gradients to its own)
  Tensor expert;   // (N, k) i32
  Tensor row;      // (N, k) i32: segment row, -1 = dropped
  Var weight;      // (N, k) f32 or f64: what multiplies the expert's output, 0 where dropped
  Tensor offsets;  // (E + 1) i32: expert e owns rows [offsets[e], offsets[e + 1])
  Tensor load;     // (E) i32: choices per expert, before drops
  Tensor probability;      // (N, E), rows sum to 1; only when Context::keep_probabilities
  Var balance_loss;        // (1), undefined in evaluation
  Var z_loss;              // (1), undefined in evaluation and when moe.z_coef = 0
  int64_t block_rows = 0;  // most rows an expert can get from these tokens; 0 = no limit

  // Choices that found no room; waits for the device.
  int64_t dropped() const;
};

struct Route;  // how rows came from other ranks (moe/rank_dispatcher.cpp)

// Rows of x from offsets[E] on are never read or written.
struct Segments {
  Var x;           // (R, D)
  Tensor offsets;  // (E + 1) i32; of this rank's experts
  std::shared_ptr<const Route> route = nullptr;
  Tensor by_source = {};  // (E x ranks + 1) i32: where the rows of each rank begin in each expert's
};

}  // namespace pyramoe::moe
