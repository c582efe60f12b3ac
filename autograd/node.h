// What the graph is made of: for autograd's own files only.
#pragma once

#include "autograd/var.h"

namespace pyramoe {

struct Node {
  const char* op;
  int64_t number;  // creation order; backward runs from high to low
  Vars inputs;
  int64_t outputs;
  BackwardFn backward;

  Node();
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
};

struct VarState {
  Tensor value;
  bool requires_grad = false;
  Tensor grad;                  // leaves only
  bool grad_written = false;    // since reset_grad
  std::shared_ptr<Node> maker;  // null for a leaf
  int64_t output = 0;           // which output of maker
};

}  // namespace pyramoe
