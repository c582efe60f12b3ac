// A parameter: a named leaf of the graph, how it starts, and who else holds it.
#pragma once

#include <string>

#include "autograd/var.h"
#include "nn/placement.h"

namespace pyramoe::nn {

// How a parameter starts. Normal draws are keyed by (seed, full name, element's place in the
// logical tensor), so a value never depends on who computes it or on the other parameters.
struct Init {
  enum class Kind { zeros, ones, normal } kind = Kind::zeros;
  double std = 0;
  static Init zeros() { return {}; }
  static Init ones() { return {Kind::ones, 0}; }
  static Init normal(double std) { return {Kind::normal, std}; }
};

struct Parameter {
  std::string name;  // full dotted path, e.g. blocks.0.attention.qkv.weight
  Var var;
  Init init;
  bool weight_decay = true;  // matrices decay, vectors do not
  bool trainable = true;     // false for buffers: saved and exported, never optimised
  bool expert = false;       // holds one slice per expert along axis 0
  Placement place;           // var holds this part of the logical tensor
};

}  // namespace pyramoe::nn
