#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "autograd/ops.h"
#include "core/json.h"
#include "moe/build_model.h"
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
  if (!config.train.dump.empty()) dump_ = std::make_unique<StepDump>();
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
  const StepPlan plan = schedule_.plan(step_);
  return step_on(data_.batches->samples(plan.first_sequence, plan.batch));
}

StepResult Trainer::step_on(const data::Batch& batch) {
  const auto begin = std::chrono::steady_clock::now();
  const StepPlan plan = schedule_.plan(step_);
  StepResult result;
  result.step = step_ + 1;
  result.tokens = plan.tokens_after;
  result.step_tokens = batch.rows * batch.context;
  result.learning_rate = schedule_.learning_rate(plan);
  if (teacher_) {
    result.distill_weight = moe::distill_weight(config_.distill.schedule, config_.distill.stop_at,
                                                schedule_.progress(plan));
  }
  buffers_->reset_grads();
  std::vector<nn::LayerStat> stats;
  for (int64_t row = 0; row < batch.rows; row += config_.micro_batch()) {
    micro_step(batch, row, result, stats);
    if (stop_requested()) return result;  // nothing has changed yet: the step is simply not taken
  }
  buffers_->finish_grads();
  add_layer_stats(stats, result);
  update(result, stats);
  ++step_;
  result.seconds = seconds_since(begin);
  return result;
}

void Trainer::micro_step(const data::Batch& batch, int64_t row, StepResult& result,
                         std::vector<nn::LayerStat>& stats) {
  const int64_t rows = config_.micro_batch(), length = batch.context;
  const auto part = [&](const std::vector<int32_t>& all) {
    return std::span(all).subspan(static_cast<size_t>(row * length),
                                  static_cast<size_t>(rows * length));
  };
  const Tensor tokens = Tensor::from(part(batch.tokens), {rows, length}, device_);
  const Tensor targets = Tensor::from(part(batch.targets), {rows * length}, device_);
  nn::Context context;
  context.training = true;
  context.seed = static_cast<uint64_t>(config_.train.seed);
  context.step = step_;
  context.first_sequence = row;
  const nn::GptOut out = model_->forward(tokens, context);
  if (dumping()) dump_->add_logits(out.logits.value());
  const Objective objective = loss(out, tokens, targets, result.distill_weight);
  const double share = static_cast<double>(rows) / static_cast<double>(batch.rows);
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

void Trainer::update(StepResult& result, const std::vector<nn::LayerStat>& stats) {
  result.grad_norm = buffers_->grad_norm();
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  const double most = config_.train.clip;
  scalars_.set(StepScalars::lr, result.learning_rate);
  scalars_.set(StepScalars::clip, most > 0 ? std::min(1.0, most / (result.grad_norm + 1e-6)) : 1.0);
  scalars_.set(StepScalars::skip, result.skipped ? 1.0 : 0.0);
  if (dumping()) dump_->add_gradients(*buffers_);
  // What can still run out of memory comes first: a step is taken whole or not at all.
  std::vector<Tensor> loads;
  if (!result.skipped) loads = moe::sum_loads(*model_, stats);
  optimizer_->step(scalars_);
  if (!result.skipped) moe::update_biases(*model_, loads);
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
  return train::evaluate(*model_, *data_.validation, data_.corpus->names(), device_);
}

std::string Trainer::save() {
  nn::CheckpointContent content;
  content.step = step_;
  content.config = to_toml(config_);
  Json state;
  state["step"] = step_;
  state["updates"] = optimizer_->updates();
  state["skips_in_row"] = skips_in_row_;
  state["tokens"] = tokens_seen();
  state["sequences"] = schedule_.plan(step_).first_sequence;
  content.state = state.dump(1);
  for (const nn::Parameter* p : model_->parameters(true)) {
    content.model.push_back({p->name, p->var.value()});
  }
  content.optimizer = optimizer_->state();
  const std::string folder = nn::save_checkpoint(config_.dir, content);
  nn::prune_checkpoints(config_.dir, config_.train.keep_last, step_);
  return folder;
}

void Trainer::resume(const nn::Checkpoint& checkpoint) {
  const RunConfig before = parse_run_config(checkpoint.config(), checkpoint.folder());
  if (to_toml(before.model) != to_toml(config_.model)) {
    fail(Exit::config, "run.dir = ", config_.dir, " holds a checkpoint of another model (",
         checkpoint.folder(), "/config.toml); choose another run.dir, or delete that folder");
  }
  if (before.train.optimizer != config_.train.optimizer ||
      before.train.dtype != config_.train.dtype) {
    fail(Exit::config, "run.dir = ", config_.dir, " was trained with ", before.train.optimizer,
         " in ", before.train.dtype, ", this config says ", config_.train.optimizer, " in ",
         config_.train.dtype, "; use the same, or a new run.dir with init.from = \"", config_.dir,
         "\"");
  }
  checkpoint.load_model(*model_);
  for (const nn::NamedTensor& tensor : optimizer_->state()) {
    if (checkpoint.load_optimizer(tensor.name, tensor.value)) continue;
    fail(Exit::checkpoint, checkpoint.folder(), " has no ", tensor.name,
         ": it is a bare model; start a new run with init.from = \"", config_.dir, "\"");
  }
  const Json state =
      parse_json(checkpoint.state(), checkpoint.folder() + "/state.json", Exit::checkpoint);
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
