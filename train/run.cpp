#include "train/run.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "core/file.h"
#include "core/parallel.h"
#include "infer/generate.h"
#include "moe/model_cost.h"
#include "train/layout.h"
#include "train/progress.h"
#include "train/routing_record.h"
#include "train/run_folder.h"
#include "train/signals.h"

namespace pyramoe::train {
namespace {

class Run {
 public:
  Run(const RunConfig& config, Device device, const dist::Mesh* mesh)
      : main_(!mesh || mesh->world().rank() == 0),
        lock_(lock(config, mesh)),
        config_(config),
        device_(device),
        trainer_(config, device, mesh),
        routing_(config) {
    last_words(mesh);
    resume_or_start();
    const std::string memory = trainer_.plan_memory();
    if (!main_) return;
    if (!memory.empty()) std::printf("%s\n", memory.c_str());
    routing_.open(trainer_.steps_done());
    const bool ended = trainer_.steps_done() >= config.train.steps;
    metrics_ = std::make_unique<Metrics>(config.dir, trainer_.steps_done(), ended);
    last_step_ = metrics_->step_before();
    progress_ = std::make_unique<Progress>(trainer_.steps_done(), config.train.steps,
                                           config.train.log_every);
  }

  EvalResult go() {
    const TrainConfig& t = config_.train;
    if (main_ && trainer_.steps_done() >= t.steps) {
      progress_->say(fmt::format("nothing left to train: {} steps are done, train.steps = {}",
                                 trainer_.steps_done(), t.steps));
    }
    bool validated = false;
    if (missed_validation()) validate_now();
    while (trainer_.steps_done() < t.steps) {
      const int64_t before = trainer_.steps_done();
      const StepResult result = trainer_.step();
      if (trainer_.steps_done() == before) stop();  // asked to stop: the step was not taken
      last_step_ = result;
      const bool log = result.step % t.log_every == 0 || result.step == t.steps;
      if (main_) {
        metrics_->write(result, log);
        progress_->step(result);
      }
      const auto due = [&](int64_t every) { return every > 0 && result.step % every == 0; };
      routing_.step(result, trainer_);
      if (trainer_.stop_agreed()) stop();  // after the step's row is written
      validated = false;
      if (due(t.eval_every)) validated = validate(result);
      if (due(t.sample_every)) sample();
      if (due(t.save_every)) save();
    }
    if (!validated) validate_now();
    save();
    return last_;
  }

 private:
  static std::unique_ptr<RunLock> lock(const RunConfig& config, const dist::Mesh* mesh) {
    std::unique_ptr<RunLock> taken;
    on_rank_0(mesh ? mesh->world() : dist::ProcessGroup(),
              [&] { taken = std::make_unique<RunLock>(config.dir); });
    return taken;
  }

  // What the flight records of a run that ended badly say; then this run's own begin.
  void last_words(const dist::Mesh* mesh) {
    if (main_) {
      const std::string words = dist::describe_flight(dist::read_flight(config_.dir));
      if (!words.empty()) std::printf("%s", words.c_str());
      remove_tree(config_.dir + "/flight");
    }
    trainer_.world().barrier();
    if (!mesh || !mesh->world().fabric()) return;
    dist::FlightRecord& flight = mesh->world().fabric()->flight();
    flight.open(config_.dir);
    mark_signals(flight.told());
  }

  void resume_or_start() {
    on_rank_0(trainer_.world(), [&] {
      for (const char* folder : {"", "/checkpoints", "/tokenizer"}) {  // what a kill left there
        if (is_folder(config_.dir + folder)) remove_temp_files(config_.dir + folder);
      }
    });
    if (nn::Checkpoint::exists(config_.dir)) {
      const nn::Checkpoint checkpoint = nn::Checkpoint::newest(config_.dir);
      trainer_.resume(checkpoint);
      saved_step_ = trainer_.steps_done();
      if (main_) {
        const std::string changes = changed_settings(checkpoint.config(), to_toml(config_));
        std::printf("resumed from %s%s%s\n", checkpoint.folder().c_str(),
                    changes.empty() ? "" : ", now with ", changes.c_str());
      }
    } else if (main_) {
      for (const std::string& note : trainer_.notes()) std::printf("%s\n", note.c_str());
    }
    trainer_.world().barrier();  // all have read what rank 0 is about to write
    on_rank_0(trainer_.world(), [&] { write_settings(); });
  }

  void write_settings() {
    write_file(config_.dir + "/config.toml", to_toml(config_));
    if (trainer_.tokenizer()) trainer_.tokenizer()->save(config_.dir + "/tokenizer");
    const moe::ModelCost cost = moe::model_cost(config_.model, dtype_of(config_));
    std::printf("%s parameters, %s active per token, %s in experts; %d threads\n",
                with_commas(cost.params_total).c_str(), with_commas(cost.params_active).c_str(),
                with_commas(cost.params_expert).c_str(), num_threads());
    std::fflush(stdout);
  }

  [[noreturn]] void stop() {
    save();
    const bool saves = config_.train.save_every >= 0;
    fail(Exit::preempted, "stopped by a signal after step ", trainer_.steps_done(),
         saves ? "; saved. The same command goes on from there"
               : "; train.save_every = -1, so nothing is saved");
  }

  bool validate(const StepResult& result) {
    last_ = trainer_.evaluate();
    if (trainer_.stop_agreed()) stop();
    if (last_.tokens == 0 || !main_) return true;
    // Before the row of metrics.jsonl: who reads there that the run is done finds its last numbers.
    write_file(config_.dir + "/eval.json",
               eval_json(last_, result.step, result.tokens, result.dropped, result.imbalance,
                         more_numbers()));
    metrics_->write(last_, result.step, result.tokens);
    progress_->eval(last_, result.step);
    return true;
  }

  std::map<std::string, double> more_numbers() const {
    std::map<std::string, double> more;
    if (!config_.distill.teacher.empty()) more["distill_share"] = trainer_.distill_share();
    return more;
  }

  // A signal may have come between a step and its validation. Collective.
  bool missed_validation() const {
    const int64_t done = trainer_.steps_done(), every = config_.train.eval_every;
    if (done == 0 || done >= config_.train.steps || every == 0 || done % every != 0) return false;
    Tensor missed = Tensor::from(std::vector<int32_t>{main_ && !metrics_->validated_before()}, {1});
    trainer_.world().all_reduce(missed, dist::Reduce::max);
    return missed.item() > 0;
  }

  void validate_now() {
    last_step_.step = trainer_.steps_done();
    last_step_.tokens = trainer_.tokens_seen();
    validate(last_step_);
  }

  void save() {
    routing_.flush();
    if (config_.train.save_every < 0) return;
    if (saved_step_ == trainer_.steps_done()) return;  // this very state is on the disk
    const auto begin = std::chrono::steady_clock::now();
    const std::string folder = trainer_.save();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    if (main_) progress_->say(fmt::format("saved {} in {:.1f} s", folder, time.count()));
    saved_step_ = trainer_.steps_done();
  }

  void sample() {
    if (!trainer_.tokenizer()) return;
    infer::GenerateOptions options;
    options.tokens = config_.train.sample_tokens;
    options.sample.seed = static_cast<uint64_t>(trainer_.steps_done());
    const std::string& start = config_.train.sample_prompt;
    const infer::Tokens prompt = trainer_.tokenizer()->encode(start);
    const std::string text = start + infer::generate(trainer_.model(), *trainer_.tokenizer(),
                                                     {prompt}, options, device_)[0]
                                         .text;
    if (!main_) return;
    AppendFile(config_.dir + "/samples.txt")
        .append(cat("--- step ", trainer_.steps_done(), "\n", text, "\n"));
    progress_->say("sample: " + text);
  }

  bool main_;  // rank 0: prints and writes
  std::unique_ptr<RunLock> lock_;
  RunConfig config_;
  Device device_;
  Trainer trainer_;
  RoutingRecorder routing_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Progress> progress_;
  EvalResult last_;
  StepResult last_step_;
  int64_t saved_step_ = -1;
};

}  // namespace

EvalResult run_training(const RunConfig& config, Device device, const dist::Mesh* mesh) {
  check_has_data(config);  // before there is a run folder
  const StopSignals signals;
  return Run(config, device, mesh).go();
}

}  // namespace pyramoe::train
