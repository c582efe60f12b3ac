// What a gate must decide: which experts, with what score. A gate is one file in moe/gates and one
// line in its registry; noise, capacity, losses and normalisation are the router's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "moe/routing.h"

namespace pyramoe::moe {

// What a gate sees.
struct GateInput {
  Var logits;    // (N, E) f32 or f64
  Tensor noisy;  // (N, E): what the choice is made from, the logits with any noise added
  Tensor bias;   // (E): balancing bias, only for gates that ask for one
  int64_t top_k;
};

class Gate {
 public:
  virtual ~Gate() = default;
  virtual Choice choose(const GateInput& input) const = 0;
  // Whether the router should keep a balancing bias, moved against the load after each step.
  virtual bool has_bias() const { return false; }
};

// The gate of that name. Throws Error(config) that lists the names.
std::unique_ptr<Gate> make_gate(const std::string& name);
std::vector<std::string> gate_names();

// One per file in moe/gates.
std::unique_ptr<Gate> make_softmax_gate();
std::unique_ptr<Gate> make_sigmoid_bias_gate();

}  // namespace pyramoe::moe
