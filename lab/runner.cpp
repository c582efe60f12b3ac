#include "lab/runner.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <memory>

#include "core/file.h"
#include "lab/bench_arms.h"
#include "lab/child.h"
#include "lab/collect.h"
#include "lab/places.h"
#include "lab/queue.h"
#include "lab/screen.h"
#include "nn/checkpoint.h"
#include "train/run_folder.h"
#include "train/signals.h"

namespace pyramoe::lab {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Runner {
 public:
  Runner(const std::vector<PlannedRun>& runs, const RunnerOptions& options)
      : options_(options),
        queue_(runs, options.keep_weights),
        places_(options.device, options.jobs),
        screen_(queue_, places_.count()),
        commit_(program_commit()),
        device_(device_name(options.device)) {
    jobs_.resize(static_cast<size_t>(places_.count()));
  }

  int run() {
    begin();
    queue_.drop_weights();
    for (;;) {
      if (train::stop_requested() || seconds_left() <= 0) stop();
      for (Job& job : jobs_) {
        if (!job.child || job.child->running()) continue;
        finish(job);
        queue_.drop_weights();
      }
      if (!fill() && idle()) break;
      screen_.status();
      ::usleep(20000);
    }
    if (queue_.next()) stop();  // there was no time for it
    bench();
    queue_.drop_weights();
    screen_.summary(seconds_since(begin_));
    return status_;
  }

 private:
  struct Job {
    std::unique_ptr<Child> child;
    size_t unit = 0;
    Stage stage = Stage::train;
    Clock::time_point begin;
  };

  void begin() {
    const int64_t done = queue_.count_done(), all = static_cast<int64_t>(queue_.units().size());
    screen_.say(cat(all, " runs, ", done, " of them done before; ", places_.words()));
    for (const Unit& unit : queue_.units()) {
      if (unit.again) {
        screen_.say(cat(name_of(unit.run),
                        ": trains again, others need its weights, which were "
                        "not kept"));
      }
    }
  }

  bool idle() const {
    return std::none_of(jobs_.begin(), jobs_.end(), [](const Job& job) { return !!job.child; });
  }

  double seconds_left() const {
    return options_.minutes > 0 ? options_.minutes * 60 - seconds_since(begin_) : HUGE_VAL;
  }

  // What one place can do until the end; a training that needs more would only be cut off.
  double flops_left() const {
    const double rate = screen_.flops_per_second();
    return std::isfinite(rate) ? seconds_left() * rate : HUGE_VAL;
  }

  // Gives work to places that have none; says whether any was given.
  bool fill() {
    bool given = false;
    for (size_t place = 0; place < jobs_.size(); ++place) {
      if (jobs_[place].child) continue;
      const std::optional<size_t> index = queue_.next(flops_left());
      if (!index) break;
      start(place, *index);
      given = true;
    }
    return given;
  }

  void start(size_t place, size_t index) {
    Unit& unit = queue_.units()[index];
    Job& job = jobs_[place];
    job.unit = index;
    job.stage = Queue::stage_of(unit);
    job.begin = Clock::now();
    unit.running = true;
    try {
      make_folders(unit.run.folder);
      if (job.stage == Stage::train && already_trained(index)) {
        finish(job);
        return;
      }
      const std::string output = job.stage == Stage::train ? "" : output_of_stage(job);
      job.child = std::make_unique<Child>(
          command(index, job.stage), ChildOptions{output, unit.run.folder + "/log.txt",
                                                  places_.environment(static_cast<int>(place))});
    } catch (const Error& error) {
      fail_unit(job, static_cast<int>(error.code()), error.what());
    }
  }

  // A run that came to its end when nobody was left to write its result.
  bool already_trained(size_t index) const {
    const PlannedRun& run = queue_.units()[index].run;
    return training_finished(run) && (!queue_.weights_needed(index) || has_weights(run));
  }

  std::string output_of_stage(const Job& job) const {
    const char* name = job.stage == Stage::tasks ? "/tasks.json" : "/evaluation.json";
    return queue_.units()[job.unit].run.folder + name;
  }

  std::vector<std::string> command(size_t index, Stage stage) {
    const Unit& unit = queue_.units()[index];
    const std::string& program = options_.program;
    if (stage == Stage::train) {
      if (!nn::Checkpoint::exists(unit.run.folder)) {  // from the first step: nothing of old runs
        for (const char* name : {"/result.json", "/eval.json", "/metrics.jsonl", "/metrics.csv"}) {
          remove_tree(unit.run.folder + name);
        }
      }
      const std::string request = write_request(unit.run, queue_.weights_needed(index));
      return {program, "train", request, "--device", options_.device};
    }
    std::vector<std::string> words = {program, "eval"};
    if (stage == Stage::tasks) {
      const std::vector<std::string> more = {unit.run.folder,
                                             "--tasks",
                                             unit.tasks,
                                             "--data",
                                             unit.run.eval_data,
                                             "--limit",
                                             std::to_string(unit.task_limit)};
      words.insert(words.end(), more.begin(), more.end());
    } else {
      words.push_back(unit.run.reuse);
      words.insert(words.end(), unit.run.eval.begin(), unit.run.eval.end());
    }
    words.insert(words.end(), {"--json", "--device", options_.device});
    return words;
  }

  void finish(Job& job) {
    Unit& unit = queue_.units()[job.unit];
    const int status = job.child ? job.child->status() : 0;
    job.child.reset();
    unit.running = false;
    if (status != 0) {
      if (!stopping_ && !train::stop_requested()) fail_unit(job, status, "");
      return;
    }
    try {
      const RunResult result = collect(job);
      write_run_result(unit.run, result);
      (job.stage == Stage::tasks ? unit.tasks_done : unit.trained) = true;
      screen_.finished(unit, job.stage, result, seconds_since(job.begin));
    } catch (const Error& error) {
      fail_unit(job, static_cast<int>(error.code()), error.what());
    }
  }

  RunResult collect(const Job& job) const {
    const Unit& unit = queue_.units()[job.unit];
    if (job.stage == Stage::train) return collect_run(unit.run, commit_, device_);
    RunResult result;
    if (job.stage == Stage::tasks) {
      read_run_result(unit.run, result);
      for (const auto& [key, value] : task_metrics(output_of_stage(job))) {
        result.metrics[key] = value;
      }
      result.metrics["task_limit"] = static_cast<double>(unit.task_limit);
      return result;
    }
    read_run_result(queue_.units()[unit.needs.at(0)].run, result);
    return collect_evaluation(unit.run, result, commit_, output_of_stage(job));
  }

  void fail_unit(Job& job, int status, const std::string& why) {
    Unit& unit = queue_.units()[job.unit];
    unit.running = false;
    unit.failed = status;
    if (status_ == 0) status_ = status;
    screen_.failed(unit, status, why);
    queue_.block_users(job.unit);
  }

  [[noreturn]] void stop() {
    stopping_ = true;
    int64_t running = 0;
    for (const Job& job : jobs_) {
      if (!job.child) continue;
      job.child->send(SIGTERM);
      ++running;
    }
    if (running > 0) screen_.say(cat("stopping: ", running, " runs are told to save and end"));
    for (Job& job : jobs_) {
      if (!job.child) continue;
      job.child->wait();
      finish(job);  // one may have come to its end just then
    }
    fail(Exit::preempted, train::stop_requested() ? "stopped by a signal" : "time is over", ", ",
         queue_.count_done(), " of ", queue_.units().size(),
         " runs done; the same command goes on from here");
  }

  void bench() {
    const BenchOptions how{options_.program, options_.device, places_.all_cores()};
    const int status = bench_arms(queue_, screen_, how);
    if (status_ == 0) status_ = status;
    if (train::stop_requested()) stop();
  }

  const RunnerOptions& options_;
  Queue queue_;
  Places places_;
  Screen screen_;
  std::string commit_, device_;
  std::vector<Job> jobs_;
  Clock::time_point begin_ = Clock::now();
  int status_ = 0;
  bool stopping_ = false;  // what ends now was told to
};

}  // namespace

int run_planned(const std::vector<PlannedRun>& runs, const RunnerOptions& options) {
  if (runs.empty()) return 0;
  const std::string folder = parent_folder(runs[0].folder);
  std::unique_ptr<train::RunLock> lock;
  try {
    lock = std::make_unique<train::RunLock>(folder);
  } catch (const Error& error) {
    fail(error.code(), "experiment: ", folder, " is in use, or cannot be written: ", error.what());
  }
  const train::StopSignals signals;
  return Runner(runs, options).run();
}

}  // namespace pyramoe::lab
