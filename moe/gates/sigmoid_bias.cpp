// Aux-loss-free balancing: sigmoid(logit) + bias chooses, sigmoid(logit) alone weighs. The bias has
// no gradient; it is moved against the load after each optimizer step (Router::update_bias).
// Source: Wang et al., 2024, "Auxiliary-loss-free load balancing"; DeepSeek-V3.
#include "autograd/ops.h"
#include "core/kernels/moe.h"
#include "moe/gate.h"

namespace pyramoe::moe {
namespace {

class SigmoidBiasGate : public Gate {
 public:
  Choice choose(const GateInput& in) const override {
    const Var score = ops::sigmoid_rows(in.logits);
    Tensor steered = score.value();
    if (!in.noisy.same_memory(in.logits.value())) {
      steered = empty_like(in.noisy);
      kernels::sigmoid_rows_forward(in.noisy, steered);
    }
    Tensor expert({score.dim(0), in.top_k}, DType::i32, steered.device());
    kernels::top_k(steered, in.bias, expert);
    return {expert, score, ops::normalize_rows(score)};
  }
  bool has_bias() const override { return true; }
};

}  // namespace

std::unique_ptr<Gate> make_sigmoid_bias_gate() { return std::make_unique<SigmoidBiasGate>(); }

}  // namespace pyramoe::moe
