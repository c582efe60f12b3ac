#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "autograd/ops.h"
#include "moe/distill_loss.h"
#include "moe/student.h"
#include "moe/upcycle.h"
#include "train/signals.h"
#include "train/step_dump.h"

namespace pyramoe::train {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Device device)
    : config_(config), device_(device), schedule_(config), data_(open_data(config)) {
  const nn::Build build{dtype_of(config), device};
  model_ = moe::build_model(config.model, build, config.train.recompute);
  model_->initialise(static_cast<uint64_t>(config.train.seed));
  start_weights();
  buffers_ = std::make_unique<FlatBuffers>(*model_);
  optimizer_ = make_optimizer(*buffers_, config.train);
}

void Trainer::start_weights() {
  const auto load = [&](const std::string& path) {
    return infer::load_run(path, dtype_of(config_), device_);
  };
  if (!config_.init.from.empty()) {
    nn::Checkpoint::find(config_.init.from).load_model(*model_);
  }
  if (!config_.init.from_dense.empty()) {
    infer::LoadedRun dense = load(config_.init.from_dense);
    moe::upcycle(*dense.model, *model_);
  }
  if (config_.distill.teacher.empty()) return;
  infer::LoadedRun teacher = load(config_.distill.teacher);
  if (teacher.config.vocab != config_.model.vocab) {
    fail(Exit::config, "distill.teacher = ", config_.distill.teacher,
         " has model.vocab = ", teacher.config.vocab, ", the student has ", config_.model.vocab,
         "; both must share one vocabulary");
  }
  if (teacher.config.context < config_.model.context) {
    fail(Exit::config, "distill.teacher = ", config_.distill.teacher,
         " has model.context = ", teacher.config.context, ", shorter than the student's ",
         config_.model.context);
  }
  if (config_.distill.init == "teacher") {
    notes_ = moe::copy_teacher_layers(*model_, moe::layer_plan(config_.model), *teacher.model,
                                      moe::layer_plan(teacher.config));
  }
  teacher_ = std::move(teacher.model);
}

StepResult Trainer::step() {
  const auto begin = std::chrono::steady_clock::now();
  const StepPlan plan = schedule_.plan(step_);
  StepResult result;
  result.step = step_ + 1;
  result.tokens = plan.tokens_after;
  result.step_tokens = plan.tokens_after - plan.tokens_before;
  result.learning_rate = schedule_.learning_rate(plan);
  if (teacher_) {
    result.distill_weight = moe::distill_weight(config_.distill.schedule, config_.distill.stop_at,
                                                schedule_.progress(plan));
  }
  buffers_->reset_grads();
  std::vector<nn::LayerStat> stats;
  const int64_t passes = plan.batch / config_.micro_batch();
  for (int64_t pass = 0; pass < passes; ++pass) {
    micro_step(plan, pass, passes, result, stats);
    if (stop_requested()) return result;  // nothing has changed yet: the step is simply not taken
  }
  buffers_->finish_grads();
  add_layer_stats(stats, result);
  update(result);
  ++step_;
  result.seconds = seconds_since(begin);
  return result;
}

void Trainer::micro_step(const StepPlan& plan, int64_t pass, int64_t passes, StepResult& result,
                         std::vector<nn::LayerStat>& stats) {
  const int64_t rows = config_.micro_batch();
  const data::Batch batch = data_.batches->get(plan.first_sequence + pass * rows, rows);
  const Tensor tokens = Tensor::from(batch.tokens, {rows, config_.model.context}).to(device_);
  const Tensor targets = Tensor::from(batch.targets, {rows * config_.model.context}).to(device_);
  nn::Context context;
  context.training = true;
  context.seed = static_cast<uint64_t>(config_.train.seed);
  context.step = step_;
  context.first_sequence = pass * rows;
  const nn::GptOut out = model_->forward(tokens, context);
  if (dumping()) dump_->add_logits(out.logits.value());
  const Objective objective = loss(out, tokens, targets, result.distill_weight);
  const double share = 1.0 / static_cast<double>(passes);
  backward(objective.total,
           Tensor::scalar(share, objective.total.dtype(), objective.total.value().device()));
  result.loss += share * objective.cross_entropy.item();
  for (const Tensor& x : objective.balance) result.balance_loss += share * x.item();
  for (const Tensor& x : objective.z) result.z_loss += share * x.item();
  if (objective.distill.defined()) result.distill_loss += share * objective.distill.item();
  stats.insert(stats.end(), context.stats.begin(), context.stats.end());
}

// L = CE + balance_coef * sum of balance losses + z_coef * sum of z-losses + beta * w * KD
// (DeepSpeed-MoE, sections 3 and 4.2; sums over layers, not means).
Trainer::Objective Trainer::loss(const nn::GptOut& out, const Tensor& tokens, const Tensor& targets,
                                 double distill) const {
  Objective objective;
  Vars terms;
  std::vector<double> weights;
  const auto add = [&](const Var& term, double weight) {
    terms.push_back(term);
    weights.push_back(weight);
    return term.value();
  };
  const bool with_teacher = distill > 0;
  // With a teacher, two losses read the logits in the backward pass.
  objective.cross_entropy = add(ops::cross_entropy(out.logits, targets, !with_teacher), 1.0);
  for (const Var& x : out.balance_loss) {
    objective.balance.push_back(add(x, config_.model.balance_coef));
  }
  for (const Var& x : out.z_loss) objective.z.push_back(add(x, config_.model.z_coef));
  if (with_teacher) {
    Tensor teacher_logits;
    {
      const NoGrad no_grad;
      nn::Context context;  // in evaluation mode: no noise, no drops
      teacher_logits = teacher_->forward(tokens, context).logits.value();
    }
    const Var kd = ops::distill_loss(out.logits, teacher_logits, config_.distill.temperature);
    objective.distill = add(kd, config_.distill.beta * distill);
  }
  objective.total = ops::weighted_sum(
      terms, Tensor::from(weights, {static_cast<int64_t>(weights.size())}).to(device_));
  return objective;
}

void Trainer::update(StepResult& result) {
  result.grad_norm = buffers_->grad_norm();
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  const double most = config_.train.clip;
  scalars_.set(StepScalars::lr, result.learning_rate);
  scalars_.set(StepScalars::clip, most > 0 ? std::min(1.0, most / (result.grad_norm + 1e-6)) : 1.0);
  scalars_.set(StepScalars::skip, result.skipped ? 1.0 : 0.0);
  if (dumping()) dump_->add_gradients(*buffers_);
  optimizer_->step(scalars_);
  if (!result.skipped) moe::update_balance_bias(*model_, result.load);
  if (dumping()) dump_->write(result, *model_, config_.train.dump);
  skips_in_row_ = result.skipped ? skips_in_row_ + 1 : 0;
  if (skips_in_row_ > config_.train.max_skips) {
    fail(Exit::non_finite, "step ", result.step, ": loss ", result.loss, ", gradient norm ",
         result.grad_norm, ": not finite for ", skips_in_row_,
         " steps in a row; the weights are those of the last good step. Lower train.lr, lengthen ",
         "train.warmup_tokens, or look at the data of these steps");
  }
}

EvalResult Trainer::evaluate() {
  return train::evaluate(*model_, *data_.validation, config_.train.eval_sequences);
}

std::string Trainer::save() {
  nn::CheckpointContent content;
  content.step = step_;
  content.config = to_toml(config_);
  content.state["step"] = step_;
  content.state["updates"] = optimizer_->updates();
  content.state["skips_in_row"] = skips_in_row_;
  content.state["tokens"] = tokens_seen();
  content.state["sequences"] = schedule_.plan(step_).first_sequence;
  for (const nn::Parameter* p : model_->parameters(true)) {
    content.model.push_back({p->name, p->var.value()});
  }
  content.optimizer = optimizer_->state();
  const std::string folder = nn::save_checkpoint(config_.dir, content);
  nn::prune_checkpoints(config_.dir, config_.train.keep_last);
  return folder;
}

void Trainer::resume(const nn::Checkpoint& checkpoint) {
  const RunConfig before = parse_run_config(checkpoint.config(), checkpoint.folder());
  if (to_toml(before.model) != to_toml(config_.model)) {
    fail(Exit::config, "run.dir = ", config_.dir, " holds a checkpoint of another model (",
         checkpoint.folder(), "/config.toml); choose another run.dir, or delete that folder");
  }
  checkpoint.load_model(*model_);
  for (const nn::NamedTensor& tensor : optimizer_->state()) {
    if (checkpoint.load_optimizer(tensor.name, tensor.value)) continue;
    fail(Exit::checkpoint, checkpoint.folder(), " has no ", tensor.name,
         ": it was saved by another train.optimizer or train.dtype; use the same, or start a new ",
         "run with init.from = \"", config_.dir, "\"");
  }
  const Json& state = checkpoint.state();
  try {
    step_ = state.at("step").get<int64_t>();
    optimizer_->set_updates(state.at("updates").get<int64_t>());
    skips_in_row_ = state.at("skips_in_row").get<int64_t>();
  } catch (const Json::exception&) {
    fail(Exit::checkpoint, checkpoint.folder(), "/state.json: step, updates or skips_in_row is ",
         "missing; it is not a checkpoint of a training run");
  }
  if (schedule_.plan(step_).first_sequence != state.value("sequences", int64_t{-1})) {
    fail(Exit::config, "run.dir = ", config_.dir, " has seen ", state.value("sequences", 0),
         " sequences in ", step_, " steps, but train.batch or its ramp now says ",
         schedule_.plan(step_).first_sequence, "; samples would be lost or repeated. Use the ",
         "run's own train.batch and ramp, or a new run.dir with init.from");
  }
}

}  // namespace pyramoe::train
