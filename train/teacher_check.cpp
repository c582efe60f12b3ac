// The measurement behind distill.schedule = "auto" (train/auto_stop.h): the cosine between the
// gradient of cross-entropy and that of distillation, over all parameters.
//
// Two passes through existing machinery with other loss weights: CE on the batches of the coming
// steps, KD on those after them. Many batches a check are better than many checks: the noise of the
// dot product falls with their number, that of a mean of cosines with its root. Cost: a step with a
// teacher for each batch, without an update, and one copy of the gradients. The dot product follows
// from three sums of squares, 2 ab = |a + b|^2 - |a|^2 - |b|^2, whose sum over ranks and ZeRO
// ranges the clipping has already.
#include <cmath>

#include "core/kernels/elementwise.h"
#include "moe/build_model.h"
#include "train/trainer.h"

namespace pyramoe::train {

bool Trainer::find_one_gradient(bool of_teacher) {
  const StepPlan plan = schedule_.plan(step_);
  const int64_t rows = config_.distill.check_batches * plan.batch;
  const data::Batch batch =
      data_.batches->samples(plan.first_sequence + (of_teacher ? rows : 0), rows);
  place_positions(config_.micro_batch(), batch.context);
  // In the order of loss(): cross-entropy, distillation, balance and z of each layer of experts.
  const size_t kinds = config_.model.z_coef > 0 ? 2 : 1;
  std::vector<double> weights(2 + kinds * moe::moe_layers(*model_).size(), 0.0);
  weights[of_teacher] = 1.0;
  set_loss_weights(weights, batch);
  return find_gradients(batch, true);  // both as a step with a teacher: one set of captured work
}

double Trainer::gradient_squares() {
  buffers_->sum_squares(squares_);
  double sum = 0;
  for (const double group : squares_.to_vector()) sum += group;
  return sum;
}

bool Trainer::check_teacher() {
  phase("teacher check");
  if (!find_one_gradient(false)) return false;
  const double ce = gradient_squares();
  Tensors kept;
  for (const FlatGroup& group : buffers_->groups()) kept.push_back(group.grad.clone());
  if (!find_one_gradient(true)) return false;
  const double kd = gradient_squares();
  for (size_t i = 0; i < kept.size(); ++i) {
    kernels::accumulate(kept[i], buffers_->groups()[i].grad);
  }
  const double both = gradient_squares();
  auto_stop_.add(step_, (both - ce - kd) / (2 * std::sqrt(ce * kd)));
  return true;
}

double Trainer::distill_share() const {
  if (config_.distill.schedule == "full") return 1.0;
  if (config_.distill.schedule != "auto") return config_.distill.stop_at;
  const int64_t stopped = auto_stop_.stopped();
  return stopped < 0 ? 1.0 : schedule_.progress(schedule_.plan(stopped));
}

}  // namespace pyramoe::train
