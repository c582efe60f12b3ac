#include "autograd/var.h"

#include <algorithm>
#include <atomic>
#include <iterator>

#include "autograd/node.h"

namespace pyramoe {
namespace {

std::atomic<int64_t> next_number{0};
std::atomic<int64_t> alive{0};
thread_local bool grad_on = true;

}  // namespace

Node::Node() : op(""), number(next_number++), outputs(0) { ++alive; }
// A graph that backward never ran through is as deep as it is long: its nodes are taken apart here
// one after another, for destructors that call each other would overflow the stack.
Node::~Node() {
  --alive;
  std::vector<Edge> left = std::move(inputs);
  while (!left.empty()) {
    const std::shared_ptr<Node> maker = std::move(left.back().maker);
    left.pop_back();
    if (maker.use_count() != 1) continue;  // none, or somebody else holds it
    std::move(maker->inputs.begin(), maker->inputs.end(), std::back_inserter(left));
    maker->inputs.clear();
  }
}

int64_t live_nodes() { return alive; }
bool grad_enabled() { return grad_on; }

GradMode::GradMode(bool on) : before_(grad_on) { grad_on = on; }
GradMode::~GradMode() { grad_on = before_; }

Var::Var(Tensor value, bool requires_grad) : state_(std::make_shared<VarState>()) {
  PM_CHECK(value.defined(), "Var: made from an undefined tensor");
  PM_CHECK(!requires_grad || is_floating(value.dtype()), "Var: a tensor of ",
           to_string(value.dtype()), " cannot have a gradient");
  state_->value = std::move(value);
  state_->requires_grad = requires_grad;
}

const Tensor& Var::value() const {
  static const Tensor none;
  return state_ ? state_->value : none;
}

bool Var::requires_grad() const { return state_ && state_->requires_grad; }

const Tensor& Var::grad() const {
  static const Tensor none;
  return state_ ? state_->grad : none;
}

void Var::place_grad(Tensor buffer) const {
  PM_CHECK(state_ && !state_->maker, "place_grad: only a leaf has a place for its gradient");
  PM_CHECK(buffer.shape() == state_->value.shape(), "place_grad: buffer ",
           to_string(buffer.shape()), " for a value ", to_string(state_->value.shape()));
  state_->grad = std::move(buffer);
  state_->grad_written = false;
}

void Var::place_grad_late(std::function<void()> place) const {
  PM_CHECK(state_ && !state_->maker, "place_grad_late: only a leaf has a place for its gradient");
  state_->place = std::move(place);
}

const Tensor& grad_place(VarState& leaf) {
  if (!leaf.grad.defined() && leaf.place) leaf.place();
  return leaf.grad;
}
const Tensor& Var::grad_place() const { return state_ ? pyramoe::grad_place(*state_) : grad(); }

void Var::drop_grad() const {
  if (!state_) return;
  state_->grad = Tensor();
  state_->grad_written = false;
}

void Var::reset_grad() const { state_->grad_written = false; }
bool Var::grad_written() const { return state_ && state_->grad_written; }

Var Var::detach() const { return defined() ? Var(value()) : Var(); }

void Var::set_value(Tensor value) const {
  PM_CHECK(state_ && !state_->maker, "set_value: only a leaf's numbers can be replaced");
  PM_CHECK(value.shape() == state_->value.shape(), "set_value: ", to_string(value.shape()),
           " for a value ", to_string(state_->value.shape()));
  state_->value = std::move(value);
}

Edge edge_of(const Var& x) {
  if (!x.requires_grad()) return {};
  const VarState& state = *x.state();
  return {state.maker, state.output, state.maker ? nullptr : x.state(), state.value.shape()};
}

Vars record(const char* op, Tensors outputs, Vars inputs, BackwardFn backward) {
  const bool needed = grad_on && std::any_of(inputs.begin(), inputs.end(),
                                             [](const Var& x) { return x.requires_grad(); });
  Vars result;
  result.reserve(outputs.size());
  for (Tensor& y : outputs) result.emplace_back(std::move(y));
  if (!needed) return result;
  auto node = std::make_shared<Node>();
  node->op = op;
  for (const Var& x : inputs) node->inputs.push_back(edge_of(x));
  node->outputs = static_cast<int64_t>(result.size());
  node->backward = std::move(backward);
  for (size_t i = 0; i < result.size(); ++i) {
    VarState& state = *result[i].state_;
    state.requires_grad = is_floating(state.value.dtype());
    if (!state.requires_grad) continue;
    state.maker = node;
    state.output = static_cast<int64_t>(i);
  }
  return result;
}

}  // namespace pyramoe
