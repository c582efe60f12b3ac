// What the graph is made of: for autograd's own files only.
#pragma once

#include "autograd/var.h"

namespace pyramoe {

// Where the gradient of an op's input goes. A node knows that much of its inputs and no more:
// values live on only where a closure or someone outside holds them.
struct Edge {
  std::shared_ptr<Node> maker;     // of a value that an op made
  int64_t output = 0;              // which output of maker
  std::shared_ptr<VarState> leaf;  // of a leaf; without both it needs no gradient
  Shape shape;
};
Edge edge_of(const Var& x);
const Tensor& grad_place(VarState& leaf);

struct Node {
  const char* op;
  int64_t number;  // creation order; backward runs from high to low
  std::vector<Edge> inputs;
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
  std::function<void()> place;  // gives grad its memory, where that is put off
  bool grad_written = false;    // since reset_grad
  std::shared_ptr<Node> maker;  // null for a leaf
  int64_t output = 0;           // which output of maker
};

}  // namespace pyramoe
