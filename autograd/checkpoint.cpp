#include "autograd/checkpoint.h"

namespace pyramoe {
namespace {

thread_local bool second_pass = false;

struct SecondPass {
  bool before = second_pass;
  SecondPass() { second_pass = true; }
  ~SecondPass() { second_pass = before; }
};

}  // namespace

bool recomputing() { return second_pass; }

Vars checkpoint(const VarFn& f, const Vars& x) {
  if (!grad_enabled()) return f(x);
  Tensors outputs;
  {
    const NoGrad no_grad;
    for (const Var& y : f(x)) outputs.push_back(y.value());
  }
  Tensors saved;
  std::vector<bool> needs;
  for (const Var& v : x) {
    saved.push_back(v.value());
    needs.push_back(v.requires_grad());
  }
  // The leaves that f captures need gradients even when no x does; a Var that always requires one
  // makes sure that the node is recorded.
  Vars inputs = x;
  inputs.emplace_back(Tensor::zeros({1}, DType::f32), true);
  return record("checkpoint", outputs, inputs,
                [f, saved, needs](const Grads& dy, const GradInto&) -> Grads {
                  const EnableGrad grad;
                  const SecondPass again;
                  Vars copies;
                  for (size_t i = 0; i < saved.size(); ++i) copies.emplace_back(saved[i], needs[i]);
                  const Vars y = f(copies);
                  Vars roots;
                  Tensors seeds;
                  for (size_t i = 0; i < y.size(); ++i) {
                    if (!dy[i].defined() || !y[i].requires_grad()) continue;
                    roots.push_back(y[i]);
                    seeds.push_back(dy[i]);
                  }
                  backward(roots, seeds);
                  Grads dx;
                  for (const Var& v : copies) dx.push_back(v.grad());
                  dx.emplace_back();
                  return dx;
                });
}

}  // namespace pyramoe
