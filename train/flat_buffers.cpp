#include "train/flat_buffers.h"

#include "core/kernels/reduce.h"

namespace pyramoe::train {
namespace {

constexpr int64_t kAlign = 32;  // elements: 64 bytes of bf16, more of wider types

int64_t round_up(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

}  // namespace

Tensor FlatGroup::view(const Tensor& flat, const FlatSlot& slot) const {
  const Shape& shape = slot.parameter->var.shape();
  return flat.rows(slot.begin, slot.begin + pyramoe::numel(shape)).reshape(shape);
}

FlatBuffers::FlatBuffers(nn::Module& module, bool narrow) {
  for (const bool decay : {true, false}) {
    FlatGroup group;
    group.weight_decay = decay;
    int64_t size = 0;
    DType dtype = DType::f32;
    Device device;
    // Parameters kept in another dtype than the rest (a router in f32 beside bf16 weights) form
    // groups of their own: each pass takes those of one dtype.
    for (const DType want : {DType::f64, DType::f32, DType::bf16}) {
      group.slots.clear();
      size = 0;
      for (const nn::Parameter* p : module.parameters()) {
        if (p->weight_decay != decay || p->var.dtype() != want) continue;
        group.slots.push_back({p, size});
        size += round_up(p->var.value().numel());
        dtype = want;
        device = p->var.value().device();
      }
      if (group.slots.empty()) continue;
      group.param = Tensor::zeros({size}, dtype, device);
      const bool keep = dtype == DType::f64 || (dtype == DType::bf16 && narrow);
      group.grad = Tensor::zeros({size}, keep ? dtype : DType::f32, device);
      for (const FlatSlot& slot : group.slots) {
        const Var& var = slot.parameter->var;
        const Tensor home = group.view(group.param, slot);
        home.copy_from(var.value());
        var.set_value(home);
        var.place_grad(group.view(group.grad, slot));
      }
      groups_.push_back(group);
    }
  }
}

void FlatBuffers::reset_grads() {
  for (const FlatGroup& group : groups_) {
    for (const FlatSlot& slot : group.slots) slot.parameter->var.reset_grad();
  }
}

void FlatBuffers::finish_grads() {
  for (const FlatGroup& group : groups_) {
    for (const FlatSlot& slot : group.slots) {
      if (!slot.parameter->var.grad_written()) slot.parameter->var.grad().zero();
    }
  }
}

void FlatBuffers::sum_squares(const Tensor& squares) const {
  for (size_t i = 0; i < groups_.size(); ++i) {
    const auto place = static_cast<int64_t>(i);
    Tensor sum = squares.rows(place, place + 1);
    kernels::sum_squares(groups_[i].grad, sum);
  }
}

}  // namespace pyramoe::train
