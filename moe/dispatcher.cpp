#include "moe/dispatcher.h"

#include "autograd/ops.h"
#include "moe/dispatch_ops.h"

namespace pyramoe::moe {
namespace {

// One device: nothing travels, rows are sorted and put back.
class LocalDispatcher : public Dispatcher {
 public:
  Pending send(const Var& x, const Routing& r) const override {
    return {ops::to_segments(x, r.row), r.offsets};
  }
  Segments receive(Pending& pending) const override { return {pending.x, pending.offsets}; }
  Pending send_back(const Segments& y, const Routing& r) const override {
    return {ops::from_segments(y.x, r.weight, r.row)};
  }
  Var receive_back(Pending& pending) const override { return pending.x; }
};

class EinsumDispatcher : public Dispatcher {
 public:
  Pending send(const Var& x, const Routing& r) const override {
    const EinsumSlots slots = einsum_slots(r);
    return {ops::einsum_dispatch(x, slots.slot, slots.total), slots.offsets};
  }
  Segments receive(Pending& pending) const override { return {pending.x, pending.offsets}; }
  Pending send_back(const Segments& y, const Routing& r) const override {
    return {ops::einsum_combine(y.x, r.weight, einsum_slots(r).slot)};
  }
  Var receive_back(Pending& pending) const override { return pending.x; }
};

}  // namespace

std::unique_ptr<Dispatcher> make_dispatcher(const std::string& name) {
  if (name == "segments") return std::make_unique<LocalDispatcher>();
  if (name == "einsum") return std::make_unique<EinsumDispatcher>();
  fail(Exit::config, "moe.dispatch = \"", name, "\": expected segments or einsum");
}

}  // namespace pyramoe::moe
