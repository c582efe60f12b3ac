// Runs the graph backwards.
//
// Policy. Nodes run in falling order of creation: an op's inputs were made before it, so every
// gradient is complete when its node runs, and ranks meet in the same collectives. A gradient used
// twice is added here, in that same order. A leaf's gradient is written the first time after
// reset_grad and added to after that. A node's closure and inputs are dropped as soon as it ran.
#include <functional>
#include <map>

#include "autograd/node.h"
#include "autograd/var.h"
#include "core/kernels/elementwise.h"

namespace pyramoe {
namespace {

// Gradients waiting for their node, by falling creation number. `owned` says that the engine made
// the tensor itself and may add in place; an op may return the same tensor for two inputs.
struct Waiting {
  std::shared_ptr<Node> node;
  Grads grads;
  std::vector<bool> owned;
};
using Queue = std::map<int64_t, Waiting, std::greater<>>;

thread_local const std::function<void(const VarState*)>* leaf_hook = nullptr;

void give_to_leaf(VarState& leaf, const Tensor& grad) {
  if (!grad_place(leaf).defined()) {
    leaf.grad = grad.clone();
  } else if (grad.same_memory(leaf.grad)) {
    // The op has written or added in place.
  } else if (leaf.grad_written) {
    kernels::accumulate(grad, leaf.grad);
  } else {
    leaf.grad.copy_from(grad.to(leaf.grad.dtype()));
  }
  leaf.grad_written = true;
}

void give_to_node(Queue& queue, const Edge& to, const Tensor& grad) {
  Waiting& waiting = queue[to.maker->number];
  if (!waiting.node) {
    waiting.node = to.maker;
    waiting.grads.resize(static_cast<size_t>(to.maker->outputs));
    waiting.owned.resize(static_cast<size_t>(to.maker->outputs));
  }
  const auto i = static_cast<size_t>(to.output);
  Tensor& sum = waiting.grads[i];
  if (!sum.defined()) {
    sum = grad;
  } else if (waiting.owned[i]) {
    kernels::accumulate(grad, sum);
  } else {
    Tensor fresh = empty_like(sum);
    kernels::add(sum, grad, fresh);
    sum = fresh;
    waiting.owned[i] = true;
  }
}

void give(Queue& queue, const Edge& to, const Tensor& grad, const char* op) {
  if (!grad.defined() || (!to.maker && !to.leaf)) return;
  PM_CHECK(grad.shape() == to.shape, op, ": backward returned a gradient ", to_string(grad.shape()),
           " for an input ", to_string(to.shape));
  if (to.maker) {
    give_to_node(queue, to, grad);
  } else {
    give_to_leaf(*to.leaf, grad);
    if (leaf_hook) (*leaf_hook)(to.leaf.get());
  }
}

GradInto places(const std::vector<Edge>& inputs) {
  GradInto into(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].leaf) continue;
    bool again = false;  // the same leaf twice in one op: only the first writes in place
    for (size_t j = 0; j < i; ++j) again |= inputs[j].leaf == inputs[i].leaf;
    if (!again) into[i] = {grad_place(*inputs[i].leaf), inputs[i].leaf->grad_written};
  }
  return into;
}

}  // namespace

LeafHook::LeafHook(std::function<void(const VarState*)> f) : f_(std::move(f)) { leaf_hook = &f_; }
LeafHook::~LeafHook() { leaf_hook = nullptr; }

void backward(const Vars& roots, const Tensors& seeds) {
  PM_CHECK(roots.size() == seeds.size(), "backward: ", roots.size(), " roots, ", seeds.size(),
           " seeds");
  const NoGrad no_grad;
  Queue queue;
  for (size_t i = 0; i < roots.size(); ++i) {
    PM_CHECK(roots[i].requires_grad(), "backward: the root has no history to differentiate");
    PM_CHECK(seeds[i].defined(), "backward: the seed of root ", i, " is undefined; expected ",
             "d(objective)/d(root), ", to_string(roots[i].shape()), ", 1 for a loss");
    give(queue, edge_of(roots[i]), seeds[i], "backward");
  }
  while (!queue.empty()) {
    Waiting next = std::move(queue.begin()->second);
    queue.erase(queue.begin());
    Node& node = *next.node;
    PM_CHECK(node.backward != nullptr, node.op,
             ": backward through a graph that backward has already consumed");
    const std::vector<Edge> inputs = std::move(node.inputs);
    const BackwardFn run = std::move(node.backward);
    node.inputs.clear();
    node.backward = nullptr;
    const Grads grads = run(next.grads, places(inputs));
    PM_CHECK(grads.size() == inputs.size(), node.op, ": backward returned ", grads.size(),
             " gradients for ", inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); ++i) give(queue, inputs[i], grads[i], node.op);
  }
}

void backward(const Var& root, const Tensor& seed) { backward(Vars{root}, Tensors{seed}); }

}  // namespace pyramoe
