// Top-k of a softmax: the k largest logits are chosen, a choice weighs its probability.
// Top-1 is the Switch gate, top-2 GShard's.   Source: DeepSpeed-MoE, section 3; Switch Transformer.
#include "autograd/ops.h"
#include "core/kernels/moe.h"
#include "moe/gate.h"

namespace pyramoe::moe {
namespace {

class SoftmaxGate : public Gate {
 public:
  Choice choose(const GateInput& in) const override {
    const Var p = ops::softmax(in.logits);
    Tensor expert({p.dim(0), in.top_k}, DType::i32, p.value().device());
    kernels::top_k(in.noisy, Tensor(), expert);
    return {expert, p, p};
  }
};

}  // namespace

std::unique_ptr<Gate> make_softmax_gate() { return std::make_unique<SoftmaxGate>(); }

}  // namespace pyramoe::moe
