// One optimizer step from tokens to updated weights, and the state that survives a stop.
// train/run.h repeats it and validates, samples, saves and reports on the way.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "infer/run.h"
#include "train/auto_stop.h"
#include "train/evaluate.h"
#include "train/expert_moves.h"
#include "train/flat_buffers.h"
#include "train/layout_sum.h"
#include "train/metrics.h"
#include "train/open_data.h"
#include "train/optimizer.h"
#include "train/router_probe.h"
#include "train/schedule.h"
#include "train/step_dump.h"
#include "train/step_report.h"

namespace pyramoe::train {

class Trainer {
 public:
  // Builds data, model and optimizer. Nothing is read from or written to the run folder.
  //   mesh  the ranks that train together (train/layout.h), borrowed; null: this one alone
  Trainer(const RunConfig& config, Device device, const dist::Mesh* mesh = nullptr);

  // One optimizer step. When a stop was requested (train/signals.h) it returns early and has
  // changed nothing. Throws Error(non_finite) when train.max_skips is exceeded.
  StepResult step();
  // The same on a batch of the caller's: train.batch rows or any multiple of train.micro_batch.
  StepResult step_on(const data::Batch& batch);
  EvalResult evaluate();
  // What the routers give to some tokens of the validation set. Collective.
  RouterProbe probe_router();

  // Whether any rank was asked to stop. Collective.
  bool stop_agreed() const;

  // Writes a checkpoint of the current state and returns its folder. Collective; rank 0 writes, and
  // all ranks throw when it cannot.
  std::string save();
  // Takes over weights, moments and counters. Throws Error when the checkpoint is of another model,
  // optimizer, batch or order of data.
  void resume(const nn::Checkpoint& checkpoint);

  int64_t steps_done() const { return step_; }
  // Chooses the blocks to recompute so that a step stays under train.memory_limit, and returns a
  // line that says so; empty where there is no limit or that was done. The first step does it where
  // nobody has. Throws Error(memory) when even recomputing all blocks is too much. Collective.
  std::string plan_memory();
  // Whether steps are replayed from a graph now.
  bool replays_steps() const {
    return graphs_ && (first_graph_[0].graph.captured() || first_graph_[1].graph.captured());
  }
  // Share of the run's tokens with a teacher, as distill.schedule says; of "auto" what it found, 1
  // while it has not.
  double distill_share() const;
  int64_t tokens_seen() const { return step_ > 0 ? schedule_.plan(step_ - 1).tokens_after : 0; }
  const RunConfig& config() const { return config_; }
  nn::Gpt& model() { return *model_; }
  FlatBuffers& buffers() { return *buffers_; }
  const dist::ProcessGroup& world() const;
  Optimizer& optimizer() { return *optimizer_; }
  const data::Tokenizer* tokenizer() const { return data_.tokenizer.get(); }
  // Lines to print before training: where a student's layers come from.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Objective {
    Var total;
    MicroLosses losses;
  };
  // Work of every step, captured on a GPU when it has run once: one launch for hundreds of kernels.
  struct StepGraph {
    Graph graph;
    int64_t bytes = -1;  // needed by the first run; -1 = has not run
  };
  void start_weights();
  // Throws Error(config) where the data or its order is not that of the checkpoint's state.
  void check_same_data(const Json& state) const;
  bool brief_grads() const;
  // What the micro-batches of this step share: places for their tokens, loss weights, the seed.
  void start_step(const data::Batch& batch, const StepResult& result);
  void place_positions(int64_t rows, int64_t length);
  // One weight for each term of the objective, in the order of loss().
  void set_loss_weights(const std::vector<double>& weights, const data::Batch& batch);
  // Gradients of a batch, all its micro-batches and ranks summed. False: a stop was requested.
  double distill_weight(const StepPlan& plan) const;
  // Tokens and targets of the rows from `row` on to their places on the device.
  void load_micro_batch(const data::Batch& batch, int64_t row);
  bool find_gradients(const data::Batch& batch, bool with_teacher);
  // distill.schedule = "auto": whether the teacher still points the way (train/teacher_check.cpp).
  // False: a stop was requested.
  bool check_teacher();
  // The gradients of distillation alone, or of cross-entropy alone, over distill.check_batches
  // batches of their own. False: a stop was requested.
  bool find_one_gradient(bool of_teacher);
  double gradient_squares();
  // Forward and backward of the micro-batch in tokens_ and targets_, which begins at `row` of the
  // global batch.
  void micro_step(int64_t row, bool first, bool last, bool with_teacher);
  Tensor teacher_features() const;
  Vars logit_losses(const Var& logits, bool with_teacher) const;
  // From the logits where there are any, else from the features.
  Objective loss(const nn::GptOut& out, const Var& features, bool with_teacher) const;
  // Clips, guards and updates, on the device.
  void update();
  // The host's look at the step: losses, norm and whether it was skipped.
  void finish(double share, int64_t micro_batches, StepResult& result);
  // Throws Error(non_finite) when too many steps in a row were skipped.
  void check_skips(const StepResult& result);
  void prepare_graphs();
  void run(StepGraph& graph, const std::function<void()>& work);
  // The backward pass; with overlap, gradients that are final leave for other ranks meanwhile.
  void run_backward(const Var& total, bool last);
  void phase(const char* name) const;
  bool dumping() const { return step_ == 0 && dump_ != nullptr && !trying_; }
  std::string plan_memory(const data::Batch& batch);
  // The most bytes held meanwhile, of all ranks.
  int64_t try_micro_steps(const data::Batch& batch, bool with_teacher, nn::MemoryProbe* probe);

  RunConfig config_;
  Device device_;
  const dist::Mesh* mesh_;  // null: one rank
  Schedule schedule_;
  OpenData data_;
  std::unique_ptr<nn::Gpt> model_, teacher_;
  std::unique_ptr<FlatBuffers> buffers_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<dist::GradReducer> reducer_;
  std::unique_ptr<LayoutSum> layout_sum_;  // parallel.deterministic = "layout"
  // For overlap: how often backward writes each parameter's gradient, and the parameter's piece.
  std::map<const VarState*, int64_t> writes_;
  std::map<const VarState*, size_t> piece_of_;
  std::vector<dist::GradReducer::Piece> pieces_;
  std::unique_ptr<StepDump> dump_;
  StepScalars scalars_;
  StepReport report_;
  AutoStop auto_stop_;
  ExpertMoves moves_;
  Tensor tokens_, targets_, positions_;  // of a micro-batch
  Tensor rng_now_;                       // an RngNow; undefined where no graph draws numbers
  Tensor seed_, loss_weights_, squares_;
  std::vector<double> seen_weights_;                         // what seed_ and loss_weights_ hold
  bool graphs_ = false;                                      // steps may be captured
  StepGraph first_graph_[2], next_graph_[2], update_graph_;  // [with a teacher]
  bool memory_planned_ = false, trying_ = false;             // trying: before the first step
  int64_t step_ = 0;  // optimizer steps taken, skipped ones included
  int64_t skips_in_row_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace pyramoe::train
