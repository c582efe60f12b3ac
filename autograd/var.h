// Var: a Tensor that remembers how it was made, for reverse-mode differentiation.
//
// An op computes its outputs with kernels and then calls `record` with a closure that turns
// gradients of the outputs into gradients of the inputs. The closure holds exactly the Tensors it
// needs (never Vars, so no cycle can arise), and the engine drops it after use, so memory falls
// while backward runs. Read next: autograd/engine.cpp, then autograd/ops/softmax.cpp.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/tensor.h"

namespace pyramoe {

struct Node;
struct VarState;

// Where an input's gradient should be written, if it has a place: leaf gradients live in flat
// buffers. An op that can (GEMM, embedding, norms) writes there, adding when `add`, and returns
// the same tensor; any other gradient it returns is added by the engine.
struct GradPlace {
  Tensor buffer;  // undefined: no place, allocate and return
  bool add = false;
};
using GradInto = std::vector<GradPlace>;  // one per input
using Grads = std::vector<Tensor>;        // one per input or output; undefined = no gradient
using BackwardFn = std::function<Grads(const Grads& dy, const GradInto& into)>;

class Var {
 public:
  Var() = default;  // undefined: "no value", as an absent bias
  explicit Var(Tensor value, bool requires_grad = false);

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t dim(int axis) const { return value().dim(axis); }
  DType dtype() const { return value().dtype(); }
  bool requires_grad() const;
  // d(objective)/d(this) of a leaf after backward; undefined before.
  const Tensor& grad() const;
  // Gives a leaf's gradient its memory (f32 for a bf16 leaf where gradients are kept in f32).
  void place_grad(Tensor buffer) const;
  // The same, put off: `place` calls place_grad when backward has a gradient to write and there is
  // no place for it.
  void place_grad_late(std::function<void()> place) const;
  // Where a leaf's gradient goes, placed now if that was put off; undefined where it has no place.
  const Tensor& grad_place() const;
  // Forgets gradient and place.
  void drop_grad() const;
  // The next backward overwrites the gradient instead of adding to it.
  void reset_grad() const;
  // True when backward has written the gradient since reset_grad.
  bool grad_written() const;
  // The same numbers without history.
  Var detach() const;
  // Replaces a leaf's numbers (loading a checkpoint); same shape.
  void set_value(Tensor value) const;

  const std::shared_ptr<VarState>& state() const { return state_; }

 private:
  friend std::vector<Var> record(const char*, Tensors, std::vector<Var>, BackwardFn);
  std::shared_ptr<VarState> state_;
};

using Vars = std::vector<Var>;

// Makes Vars of an op's outputs and, if any input needs a gradient and gradients are on, remembers
// how to differentiate. `backward` gets one gradient per output (undefined = zero) and returns one
// per input (undefined = none).
Vars record(const char* op, Tensors outputs, Vars inputs, BackwardFn backward);

// Adds d(objective)/d(leaf) to every leaf that `root` depends on; seed = d(objective)/d(root) has
// root's shape. Nodes run by falling creation number, so the order is the same on every rank.
// The graph is consumed: a second backward through it throws Error. Re-entrant: a closure may call
// it (checkpointing does).
void backward(const Var& root, const Tensor& seed);
void backward(const Vars& roots, const Tensors& seeds);

// Whether ops record. NoGrad turns it off for a scope, EnableGrad back on.
bool grad_enabled();
class GradMode {
 public:
  explicit GradMode(bool on);
  ~GradMode();
  GradMode(const GradMode&) = delete;
  GradMode& operator=(const GradMode&) = delete;

 private:
  bool before_;
};
class NoGrad : public GradMode {
 public:
  NoGrad() : GradMode(false) {}
};
class EnableGrad : public GradMode {
 public:
  EnableGrad() : GradMode(true) {}
};

// For a scope, calls f with every leaf right after backward has written or added to its gradient:
// so that gradients can leave for other ranks before backward ends.
class LeafHook {
 public:
  explicit LeafHook(std::function<void(const VarState*)> f);
  ~LeafHook();
  LeafHook(const LeafHook&) = delete;
  LeafHook& operator=(const LeafHook&) = delete;

 private:
  std::function<void(const VarState*)> f_;
};

// Nodes alive now; zero when no graph is held (for leak tests).
int64_t live_nodes();

}  // namespace pyramoe
