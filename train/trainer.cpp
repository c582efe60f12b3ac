#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "core/json.h"
#include "core/kernels/step.h"
#include "moe/build_model.h"
#include "moe/distill_loss.h"
#include "moe/student.h"
#include "moe/upcycle.h"
#include "nn/gather.h"
#include "train/layout.h"
#include "train/signals.h"
#include "train/step_dump.h"

namespace pyramoe::train {
namespace {

constexpr int64_t kGradPiece = 64 << 20;  // bytes: a launch each for norm and update

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Copies into memory that stays where it is; allocates it at first or when the size changes.
template <class T>
void refill(Tensor& place, std::span<const T> values, Shape shape, Device device) {
  if (!place.defined() || place.shape() != shape) {
    place = Tensor(std::move(shape), DTypeOf<T>::value, device);
  }
  device_copy(place.raw(), device, values.data(), kCpu, place.bytes());
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Device device, const dist::Mesh* mesh)
    : config_(config),
      device_(device),
      mesh_(mesh && mesh->many() ? mesh : nullptr),
      schedule_(config),
      data_(open_data(config)),
      scalars_(device),
      report_(device),
      auto_stop_(config.distill),
      moves_(config) {
  const nn::Build build{dtype_of(config), device, true, mesh_};
  model_ = moe::build_model(config.model, build, config.train.recompute);
  model_->initialise(static_cast<uint64_t>(config.train.seed));
  start_weights();
  buffers_ = std::make_unique<FlatBuffers>(*model_, config.train.states == "bf16", mesh_,
                                           brief_grads() ? kGradPiece : 0);
  optimizer_ = make_optimizer(*buffers_, config.train, config.parallel.zero);
  std::vector<dist::GradBuffer> grads;
  for (const FlatGroup& group : buffers_->groups()) {
    grads.push_back({group.grad, group.sync, group.scattered});
  }
  reducer_ = std::make_unique<dist::GradReducer>(std::move(grads));
  if (config.parallel.same_on_any_layout()) {
    if (device.type == DeviceType::cuda) {
      fail(Exit::config,
           "parallel.deterministic = layout is a matter of CPU ranks, this run is on ",
           "a GPU; set parallel.deterministic = run");
    }
    layout_sum_ = std::make_unique<LayoutSum>(*buffers_);
    buffers_->square_by_parameter();
  }
  squares_ = Tensor::zeros({buffers_->sums_of_squares()}, DType::f64, device);
  prepare_graphs();
  if (!config.train.dump.empty()) dump_ = std::make_unique<StepDump>();
}

// Gradients need no memory while the loss is found where one rank's one micro-batch makes them, and
// nobody else looks at them: a check of the teacher, a dump. (On a CPU fresh memory costs more time
// than it saves room.)
bool Trainer::brief_grads() const {
  return device_.type == DeviceType::cuda && !mesh_ && !teacher_ && config_.train.dump.empty() &&
         config_.micro_batch() == config_.train.batch && config_.model.budget == 0;
}

void Trainer::start_weights() {
  const auto load = [&](const std::string& path) {
    return infer::load_run(path, dtype_of(config_), device_);
  };
  if (!config_.init.from.empty()) {
    nn::Checkpoint::find(config_.init.from).load_model(*model_);
  }
  // Models that start from another one are put together whole; each rank then takes its parts.
  std::unique_ptr<nn::Gpt> together;
  const auto whole = [&]() -> nn::Gpt& {
    if (!mesh_) return *model_;
    together = moe::build_model(config_.model, {dtype_of(config_), device_}, false);
    together->initialise(static_cast<uint64_t>(config_.train.seed));
    return *together;
  };
  const auto take_parts = [&] {
    if (!together) return;
    const std::vector<nn::Parameter*> from = together->parameters(true);
    const std::vector<nn::Parameter*> to = model_->parameters(true);
    for (size_t i = 0; i < to.size(); ++i) {
      const Tensor& value = to[i]->var.value();
      value.copy_from(nn::take_part(from[i]->var.value(), to[i]->place.box, value.shape()));
    }
  };
  if (!config_.init.from_dense.empty()) {
    infer::LoadedRun dense = load(config_.init.from_dense);
    moe::upcycle(*dense.model, whole());
    take_parts();
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
    notes_ = moe::copy_teacher_layers(whole(), moe::layer_plan(config_.model), *teacher.model,
                                      moe::layer_plan(teacher.config));
    take_parts();
  }
  teacher_ = std::move(teacher.model);
}

StepResult Trainer::step() {
  const auto begin = std::chrono::steady_clock::now();
  const StepPlan plan = schedule_.plan(step_);
  std::vector<ExpertMove> moves;
  if (moves_.due(step_, schedule_.progress(plan))) {
    moves = moves_.move(step_, *model_, *optimizer_);
  }
  const bool checks = auto_stop_.due(step_);
  if (checks && !check_teacher()) return {};
  const double check_seconds = seconds_since(begin);
  StepResult result = step_on(data_.batches->samples(plan.first_sequence, plan.batch));
  result.moves = std::move(moves);
  if (checks) result.distill_cosine = auto_stop_.last_cosine();
  result.seconds += check_seconds;
  return result;
}

StepResult Trainer::step_on(const data::Batch& batch) {
  plan_memory(batch);
  const auto begin = std::chrono::steady_clock::now();
  const StepPlan plan = schedule_.plan(step_);
  StepResult result;
  result.step = step_ + 1;
  result.tokens = plan.tokens_after;
  result.step_tokens = batch.rows * batch.context;
  result.learning_rate = schedule_.learning_rate(plan);
  result.distill_stopped = auto_stop_.stopped();
  result.distill_weight = distill_weight(plan);
  result.live = moves_.live(*model_);
  if (mesh_) mesh_->world().fabric()->traffic().clear();
  start_step(batch, result);
  if (!find_gradients(batch, result.distill_weight > 0)) return result;  // the step is not taken
  if (mesh_) report_.sum_over(mesh_->data());
  if (dumping()) dump_->add_gradients(*buffers_, world());
  // What can still run out of memory comes first: a step is taken whole or not at all.
  Tensors loads;
  for (const moe::MoeLayerRef& layer : moe::moe_layers(*model_)) {
    loads.push_back(Tensor({layer.moe->router().experts()}, DType::i64));
  }
  run(update_graph_, [&] { update(); });
  const int64_t rows = config_.micro_batch();
  finish(static_cast<double>(rows) / static_cast<double>(batch.rows), batch.rows / rows, result);
  if (!result.skipped) {
    optimizer_->count_update();
    for (size_t i = 0; i < loads.size(); ++i) {
      std::copy(result.load[i].begin(), result.load[i].end(), loads[i].data<int64_t>());
    }
    moe::update_biases(*model_, loads);
  }
  const int64_t blocks = layout_sum_ && mesh_ ? mesh_->data().size() : 1;
  if (dumping()) dump_->write(result, *model_, config_.train.dump, world(), blocks);
  check_skips(result);
  ++step_;
  if (mesh_) result.traffic = mesh_->world().fabric()->traffic().rows();
  result.seconds = seconds_since(begin);
  return result;
}

double Trainer::distill_weight(const StepPlan& plan) const {
  if (!teacher_ || auto_stop_.stopped() >= 0) return 0;
  return moe::distill_weight(config_.distill.schedule, config_.distill.stop_at,
                             schedule_.progress(plan));
}

void Trainer::load_micro_batch(const data::Batch& batch, int64_t row) {
  const int64_t rows = config_.micro_batch();
  const auto part = [&](const std::vector<int32_t>& all) {
    return std::span(all).subspan(static_cast<size_t>(row * batch.context),
                                  static_cast<size_t>(rows * batch.context));
  };
  refill(tokens_, part(batch.tokens), {rows, batch.context}, device_);
  refill(targets_, part(batch.targets), {rows * batch.context}, device_);
  const int64_t now[3] = {step_, row, row * batch.context};  // an RngNow
  if (rng_now_.defined()) refill<int64_t>(rng_now_, now, {3}, device_);
}

bool Trainer::find_gradients(const data::Batch& batch, bool with_teacher) {
  const int64_t rows = config_.micro_batch();
  // Captured work finds brief gradients where it put them.
  if (!first_graph_[with_teacher].graph.captured()) buffers_->drop_grads();
  // A pass takes neighbouring rows: first those of data rank 0, then of rank 1, … Where sums must
  // not depend on the layout, a rank's passes do.
  const int64_t ranks = mesh_ ? mesh_->data().size() : 1;
  const int64_t own = mesh_ ? mesh_->data().rank() * rows : 0;
  if (layout_sum_) layout_sum_->start();
  for (int64_t pass = 0; pass < batch.rows; pass += rows * ranks) {
    const bool fresh = pass == 0 || layout_sum_;  // gradients start anew
    const int64_t row = layout_sum_ ? own * (batch.rows / ranks / rows) + pass / ranks : pass + own;
    load_micro_batch(batch, row);
    run((fresh ? first_graph_ : next_graph_)[with_teacher],
        [&] { micro_step(row, fresh, pass + rows * ranks >= batch.rows, with_teacher); });
    if (layout_sum_) {
      layout_sum_->add();
      report_.end_pass();
    }
    if (stop_agreed()) return false;
  }
  if (layout_sum_) {
    layout_sum_->finish();
    report_.join_passes();
  }
  if (mesh_) {
    phase("reduce");
    reducer_->reduce();
  }
  return true;
}

void Trainer::start_step(const data::Batch& batch, const StepResult& result) {
  scalars_.set(StepScalars::lr, result.learning_rate);
  scalars_.set(StepScalars::step, static_cast<double>(step_));
  optimizer_->prepare(scalars_);
  scalars_.upload();
  report_.start();
  place_positions(config_.micro_batch(), batch.context);
  // Sums over layers, not means: one weight for each layer of experts.
  const size_t layers = moe::moe_layers(*model_).size();
  std::vector<double> weights(1, 1.0);
  if (result.distill_weight > 0) {
    weights.push_back(config_.distill.beta * result.distill_weight);
  }
  weights.insert(weights.end(), layers, config_.model.balance_coef);
  if (config_.model.z_coef > 0) weights.insert(weights.end(), layers, config_.model.z_coef);
  set_loss_weights(weights, batch);
}

void Trainer::place_positions(int64_t rows, int64_t length) {
  if (positions_.defined()) return;
  std::vector<int32_t> position;
  for (int64_t i = 0; i < rows * length; ++i) position.push_back(static_cast<int32_t>(i % length));
  refill<int32_t>(positions_, position, {rows * length}, device_);
}

void Trainer::set_loss_weights(const std::vector<double>& weights, const data::Batch& batch) {
  const double share = static_cast<double>(config_.micro_batch()) / static_cast<double>(batch.rows);
  std::vector<double> all = weights;
  all.push_back(share);
  if (all == seen_weights_) return;
  refill<double>(loss_weights_, weights, {static_cast<int64_t>(weights.size())}, device_);
  const DType wide = dtype_of(config_) == DType::f64 ? DType::f64 : DType::f32;
  const Tensor seed = Tensor::scalar(share, wide);
  if (!seed_.defined()) seed_ = Tensor({1}, wide, device_);
  seed_.copy_from(seed);
  seen_weights_ = all;
}

void Trainer::micro_step(int64_t row, bool first, bool last, bool with_teacher) {
  phase("forward");
  if (first) buffers_->reset_grads();
  nn::Context context;
  context.training = true;
  context.seed = static_cast<uint64_t>(config_.train.seed);
  if (rng_now_.defined()) {
    context.now = static_cast<const RngNow*>(rng_now_.raw());
  } else {
    context.step = step_;
    context.first_sequence = row;
  }
  context.positions = positions_;
  nn::GptOut out;
  const Var features = model_->features(tokens_, context, out);  // (N, D)
  // On a GPU the head and its losses are one op that passes over the logits once for both passes.
  const bool apart = device_ == kCpu || model_->tensor().size() > 1;
  if (dumping() || apart) out.logits = model_->own_logits(features);
  if (dumping()) dump_->add_logits(out.logits.value(), mesh_);
  const Objective objective = loss(out, features, with_teacher);
  phase("backward");
  run_backward(objective.total, last);
  report_.add(objective.losses, context.stats);
  if (first) buffers_->finish_grads();
}

// Gradients that no loss reached are zeroed after the pass, so their buckets wait for reduce().
void Trainer::run_backward(const Var& total, bool last) {
  if (!mesh_ || !config_.parallel.overlap) return backward(total, seed_);
  if (pieces_.empty()) {
    for (size_t g = 0; g < buffers_->groups().size(); ++g) {
      for (const FlatSlot& slot : buffers_->groups()[g].slots) {
        piece_of_[slot.parameter->var.state().get()] = pieces_.size();
        pieces_.push_back({g, slot.begin, slot.begin + slot.parameter->var.value().numel()});
      }
    }
  }
  if (writes_.empty()) {  // the first pass only counts
    const LeafHook hook([this](const VarState* leaf) { ++writes_[leaf]; });
    return backward(total, seed_);
  }
  if (!last) return backward(total, seed_);
  std::map<const VarState*, int64_t> left = writes_;
  reducer_->expect(pieces_);
  const LeafHook hook([&](const VarState* leaf) {
    const auto piece = piece_of_.find(leaf);
    if (--left[leaf] == 0 && piece != piece_of_.end()) reducer_->ready(piece->second);
  });
  backward(total, seed_);
}

void Trainer::phase(const char* name) const {
  if (mesh_) mesh_->world().fabric()->set_phase(name);
}

void Trainer::update() {
  buffers_->sum_squares(squares_);
  kernels::guard_step(squares_, report_.loss(), config_.train.clip, scalars_.values());
  optimizer_->step(scalars_.values());
}

void Trainer::finish(double share, int64_t micro_batches, StepResult& result) {
  report_.read(share, micro_batches, result);
  scalars_.download();
  result.grad_norm = scalars_.get(StepScalars::norm);
  result.skipped = scalars_.get(StepScalars::skip) != 0;
}

void Trainer::check_skips(const StepResult& result) {
  skips_in_row_ = result.skipped ? skips_in_row_ + 1 : 0;
  if (skips_in_row_ > config_.train.max_skips) {
    fail(Exit::non_finite, "step ", result.step, ": loss ", result.loss, ", gradient norm ",
         result.grad_norm, ": not finite for ", skips_in_row_,
         " steps in a row; the weights are those of the last good step. Lower train.lr, lengthen ",
         "train.warmup_tokens, or look at the data of these steps");
  }
}

EvalResult Trainer::evaluate() {
  phase("eval");
  return train::evaluate(*model_, *data_.validation, data_.corpus->names(), device_,
                         mesh_ ? mesh_->data() : dist::ProcessGroup(),
                         [this] { return stop_agreed(); });
}

RouterProbe Trainer::probe_router() {
  phase("eval");
  return train::probe_router(*model_, *data_.validation, device_);
}

const dist::ProcessGroup& Trainer::world() const {
  static const dist::ProcessGroup alone;
  return mesh_ ? mesh_->world() : alone;
}

bool Trainer::stop_agreed() const {
  if (!mesh_) return stop_requested();
  Tensor asked = Tensor::from(std::vector<int32_t>{stop_requested() ? 1 : 0}, {1});
  mesh_->world().all_reduce(asked, dist::Reduce::max);
  return asked.item() > 0;
}

std::string Trainer::save() {
  phase("save");
  nn::CheckpointContent content;
  content.step = step_;
  content.config = to_toml(config_);
  Json state;
  state["step"] = step_;
  state["updates"] = optimizer_->updates();
  state["skips_in_row"] = skips_in_row_;
  state["tokens"] = tokens_seen();
  state["sequences"] = schedule_.plan(step_).first_sequence;
  state["data"] = data_.order;
  if (config_.distill.schedule == "auto") state["auto_stop"] = auto_stop_.state();
  if (config_.model.budget > 0) state["expert_moves"] = moves_.state();
  content.state = state.dump(1);
  content.model = nn::gather_whole(nn::parts_of(*model_), world());
  content.optimizer = nn::gather_whole(optimizer_->state(), world());
  std::string folder;
  on_rank_0(world(), [&] {
    folder = nn::save_checkpoint(config_.dir, content);
    nn::prune_checkpoints(config_.dir, config_.train.keep_last, step_);
  });
  return folder;
}

void Trainer::resume(const nn::Checkpoint& checkpoint) {
  const RunConfig before = parse_run_config(checkpoint.config(), checkpoint.folder());
  if (to_toml(before.model) != to_toml(config_.model)) {
    fail(Exit::config, "run.dir = ", config_.dir, " holds a checkpoint of another model (",
         checkpoint.folder(), "/config.toml); choose another run.dir, or delete that folder");
  }
  if (before.train.optimizer != config_.train.optimizer ||
      before.train.dtype != config_.train.dtype || before.train.states != config_.train.states) {
    fail(Exit::config, "run.dir = ", config_.dir, " was trained with ", before.train.optimizer,
         " in ", before.train.dtype, " (states in ", before.train.states, "), this config says ",
         config_.train.optimizer, " in ", config_.train.dtype, " (states in ", config_.train.states,
         "); use the same, or a new run.dir with init.from = \"", config_.dir, "\"");
  }
  checkpoint.load_model(*model_);
  const std::vector<nn::NamedTensor> moments = optimizer_->state();
  for (const nn::NamedTensor& tensor : moments) {
    if (checkpoint.load_optimizer(tensor.name, tensor.value, tensor.box)) continue;
    fail(Exit::checkpoint, checkpoint.folder(), " has no ", tensor.name,
         ": it is a bare model; start a new run with init.from = \"", config_.dir, "\"");
  }
  optimizer_->put_state(moments);
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
  if (config_.model.budget > 0 && state.contains("expert_moves")) {
    moves_.put_state(state["expert_moves"], checkpoint.folder() + "/state.json");
  }
  if (state.contains("auto_stop")) {
    auto_stop_.put_state(state["auto_stop"], checkpoint.folder() + "/state.json");
  }
  check_same_data(state);
}

// A checkpoint without the words is of a version that did not write them.
void Trainer::check_same_data(const Json& state) const {
  const char* otherwise = " or a new run.dir with init.from";
  if (schedule_.plan(step_).first_sequence != state.value("sequences", int64_t{-1})) {
    fail(Exit::config, "run.dir = ", config_.dir, " has seen ",
         state.value("sequences", int64_t{0}), " sequences in ", step_,
         " steps, but train.batch or its ramp now says ", schedule_.plan(step_).first_sequence,
         "; samples would be lost or repeated. Use the ", "run's own train.batch and ramp,",
         otherwise);
  }
  const std::string before = state.value("data", data_.order);
  if (before != data_.order) {
    fail(Exit::config, "run.dir = ", config_.dir, " was trained on other data or in another order;",
         "\n  before: ", before, "\n  now:    ", data_.order,
         "\nsamples would be lost or repeated, or validation would be of text it was trained on. ",
         "Use the run's own train.seed and data.*,", otherwise);
  }
}

}  // namespace pyramoe::train
