// The objective of a step: the losses of the data and of a teacher, and those that keep experts
// balanced.
//
// On a GPU the losses behind the head are one op with its product, and no logits outlive their
// turn. On the CPU, in a dump and where tensor ranks hold columns of the vocabulary they start from
// logits: a log-sum-exp over ranks lies between a row's first look and its second.
#include "autograd/ops.h"
#include "dist/collective_ops.h"
#include "nn/vocab_parallel.h"
#include "train/trainer.h"

namespace pyramoe::train {
namespace {

// Rows whose logits exist at a time: equal parts of whole tiles, as few as keep a part's logits
// under a gibibyte. It follows from sizes alone, so that runs under other memory limits agree.
int64_t rows_at_once(const Var& features, const Tensor& head) {
  constexpr int64_t most = int64_t{1} << 30, tile = 256;
  const int64_t rows = features.dim(0);
  const int64_t parts = (rows * head.dim(0) * size_of(head.dtype()) + most - 1) / most;
  return (rows + parts * tile - 1) / (parts * tile) * tile;
}

}  // namespace

// Of a model in evaluation mode: no noise, no drops.
Tensor Trainer::teacher_features() const {
  const NoGrad no_grad;
  nn::Context context;
  context.positions = positions_;
  nn::GptOut out;
  return teacher_->features(tokens_, context, out).value();
}

// Cross-entropy and, with a teacher, distillation. Columns of the logits that lie on other tensor
// ranks are gathered for distillation alone.
Vars Trainer::logit_losses(const Var& logits, bool with_teacher) const {
  const dist::ProcessGroup& tensor = model_->tensor();
  // With a teacher, two losses read the logits in the backward pass.
  Vars terms{tensor.size() > 1 ? nn::vocab_cross_entropy(logits, targets_, tensor)
                               : ops::cross_entropy(logits, targets_, !with_teacher)};
  if (with_teacher) {
    Tensor taught;
    {
      const NoGrad no_grad;
      taught = teacher_->head(Var(teacher_features())).value();
    }
    terms.push_back(ops::distill_loss(dist::gather_from(logits, tensor, 1), taught,
                                      config_.distill.temperature));
  }
  return terms;
}

// L = CE + beta * w * KD + balance_coef * sum of balance losses + z_coef * sum of z-losses
// (DeepSpeed-MoE, sections 3 and 4.2; sums over layers, not means).
Trainer::Objective Trainer::loss(const nn::GptOut& out, const Var& features,
                                 bool with_teacher) const {
  Objective objective;
  MicroLosses& losses = objective.losses;
  Vars terms;  // each has a weight
  Var ready;   // the sum of the first two, weighted
  if (out.logits.defined()) {
    terms = logit_losses(out.logits, with_teacher);
  } else if (with_teacher) {
    const Var& head = model_->head_weight();
    const Vars both =
        ops::head_distill_loss(features, head, targets_,
                               {teacher_features(), teacher_->head_weight().value(),
                                config_.distill.temperature, loss_weights_.rows(0, 2)},
                               rows_at_once(features, head.value()));
    ready = both[0];
    terms = {both[1], both[2]};
  } else {
    const Var& head = model_->head_weight();
    terms = {ops::head_loss(features, head, targets_, rows_at_once(features, head.value()))};
  }
  losses.cross_entropy = terms[0].value();
  if (with_teacher) losses.distill = terms[1].value();
  const auto add = [&](const Var& term, Tensors& to) {
    terms.push_back(term);
    to.push_back(term.value());
  };
  for (const Var& x : out.balance_loss) add(x, losses.balance);
  for (const Var& x : out.z_loss) add(x, losses.z);
  const auto count = static_cast<int64_t>(terms.size());
  PM_CHECK(count == loss_weights_.numel(), "Trainer: ", count, " losses for ",
           loss_weights_.numel(), " weights");
  if (!ready.defined()) {
    objective.total = ops::weighted_sum(terms, loss_weights_);
  } else if (count == 2) {
    objective.total = ready;
  } else {
    const Vars sides(terms.begin() + 2, terms.end());
    objective.total = ops::add(ready, ops::weighted_sum(sides, loss_weights_.rows(2, count)));
  }
  return objective;
}

}  // namespace pyramoe::train
