// Every setting of a training run: the model's, and how it is trained. Each struct lists its
// fields once; parsing, checks, --help, the copy in the run folder and docs/config.md walk the
// lists.
#pragma once

#include <string>
#include <vector>

#include "core/dtype.h"
#include "dist/parallel_config.h"
#include "moe/model_config.h"

namespace pyramoe::train {

// Whether a text is a number of bytes (train/memory_plan.h).
bool is_bytes(const std::string& text);

struct TrainConfig {
  int64_t steps = 1000;
  int64_t batch = 16;
  int64_t micro_batch = 0;
  int64_t ramp_start = 0;
  int64_t ramp_tokens = 0;
  std::string optimizer = "adamw";
  double lr = 3e-4;
  double min_lr = 3e-5;
  std::string schedule = "cosine";
  int64_t warmup_tokens = 0;
  int64_t decay_tokens = 0;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double momentum = 0;
  double weight_decay = 0.1;
  double clip = 1.0;
  int64_t seed = 1337;
  std::string dtype = "f32";
  std::string states = "f32";
  bool recompute = false;
  std::string memory_limit = "0";
  bool graph = true;
  int64_t max_skips = 10;
  int64_t log_every = 10;
  int64_t eval_every = 0;
  int64_t eval_sequences = 200;
  int64_t save_every = 0;
  int64_t keep_last = 2;
  int64_t record_routing = 10;
  int64_t sample_every = 0;
  int64_t sample_tokens = 100;
  std::string sample_prompt = "";
  std::string dump = "";

  template <class V>
  void fields(V& v) {
    v("train.steps", steps, "optimizer steps of the run", between(0, int64_t{1} << 40));
    v("train.batch", batch, "sequences in one optimizer step, over all ranks", between(1, 1 << 24));
    v("train.micro_batch", micro_batch,
      "sequences per rank and pass; gradients accumulate over train.batch; 0 = train.batch over "
      "all data ranks, or moe.group where parallel.deterministic = layout",
      between(0, 1 << 24));
    v("train.ramp_start", ramp_start,
      "batch at the start; grows in equal steps of itself to train.batch over train.ramp_tokens; "
      "0 = no ramp",
      between(0, 1 << 24));
    v("train.ramp_tokens", ramp_tokens, "tokens over which the batch grows",
      between(0, int64_t{1} << 50));
    v("train.optimizer", optimizer, "adamw or sgd", one_of({"adamw", "sgd"}));
    v("train.lr", lr, "highest learning rate", between(0.0, 100.0));
    v("train.min_lr", min_lr, "learning rate at the end of the decay", between(0.0, 100.0));
    v("train.schedule", schedule, "decay after the warm-up: cosine, linear or constant",
      one_of({"cosine", "linear", "constant"}));
    v("train.warmup_tokens", warmup_tokens, "tokens of linear warm-up",
      between(0, int64_t{1} << 50));
    v("train.decay_tokens", decay_tokens,
      "tokens at which train.min_lr is reached; 0 = the end of the run",
      between(0, int64_t{1} << 50));
    v("train.beta1", beta1, "AdamW: decay of the first moment", between(0.0, 0.999999));
    v("train.beta2", beta2, "AdamW: decay of the second moment", between(0.0, 0.999999));
    v("train.eps", eps, "AdamW: added to the root of the second moment", between(0.0, 1.0));
    v("train.momentum", momentum, "SGD: momentum", between(0.0, 0.999999));
    v("train.weight_decay", weight_decay, "decoupled weight decay of matrices", between(0.0, 10.0));
    v("train.clip", clip, "largest global gradient norm; 0 = no clipping", between(0.0, 1e9));
    v("train.seed", seed, "seed of initial values, data order, dropout and routing noise",
      between(0, int64_t{1} << 62));
    v("train.dtype", dtype,
      "weights and activations: f32, bf16 (with f32 master weights) or f64 (for checking)",
      one_of({"f64", "f32", "bf16"}));
    v("train.states", states,
      "AdamW over bf16 weights: f32 (master weights, moments and gradients), or bf16 (no master "
      "weights; all rounded at random): 14 bytes a parameter instead of 30",
      one_of({"f32", "bf16"}));
    v("train.recompute", recompute,
      "keep each block's input only and run it again in the backward pass");
    v("train.memory_limit", memory_limit,
      "most bytes that the tensors of a step may hold on one rank: as few blocks are recomputed as "
      "that takes; 0 = no limit",
      number_as_text(), rule<std::string>("a number of bytes such as 60GB", is_bytes));
    v("train.graph", graph, "on a GPU, record a step once and replay it");
    v("train.max_skips", max_skips,
      "steps in a row that may be skipped for a loss or gradient that is not finite",
      between(0, 1 << 20));
    v("train.log_every", log_every, "steps between lines on the screen", between(1, 1 << 30));
    v("train.eval_every", eval_every, "steps between validations; 0 = only at the end",
      between(0, int64_t{1} << 40));
    v("train.eval_sequences", eval_sequences, "most validation sequences per domain; 0 = all",
      between(0, 1 << 30));
    v("train.save_every", save_every,
      "steps between checkpoints; 0 = only at the end, -1 = never, not even at the end",
      between(-1, int64_t{1} << 40));
    v("train.keep_last", keep_last, "checkpoints kept; older ones are deleted",
      between(1, 1 << 20));
    v("train.record_routing", record_routing,
      "steps between records of expert load, drops and router entropy (routing.jsonl); 0 = never",
      between(0, int64_t{1} << 40));
    v("train.sample_every", sample_every, "steps between sampled texts (samples.txt); 0 = never",
      between(0, int64_t{1} << 40));
    v("train.sample_tokens", sample_tokens, "tokens of a sampled text", between(1, 1 << 20));
    v("train.sample_prompt", sample_prompt, "start of a sampled text");
    v("train.dump", dump,
      "folder for the first step's loss, logits, gradients and updated parameters "
      "(step.safetensors)");
  }
};

struct DataConfig {
  std::vector<std::string> sources;
  std::vector<std::string> validation;
  std::vector<double> weights;
  std::string tokenizer = "";
  double val_fraction = 0.05;
  bool synthetic = false;

  template <class V>
  void fields(V& v) {
    v("data.sources", sources,
      "token files, one per domain, each \"name=path\" or a path: pyramoe .tok, nanoGPT or llm.c "
      ".bin, Megatron .idx");
    v("data.validation", validation,
      "token files to validate on, one for each source in its order; empty = the last part of each "
      "source");
    v("data.weights", weights, "share of each source in a batch; empty = by size");
    v("data.tokenizer", tokenizer, "tokenizer folder, copied into the run");
    v("data.val_fraction", val_fraction,
      "last part of each source that is kept for validation; 0 = none", between(0.0, 0.5));
    v("data.synthetic", synthetic, "train on generated tokens that need no file");
  }
};

struct DistillConfig {
  std::string teacher = "";
  int64_t student_layers = 0;
  std::string init = "random";
  std::string schedule = "staged";
  double stop_at = 0.7;
  int64_t check_every = 100;
  int64_t check_batches = 4;
  int64_t window = 4;
  double threshold = 0;
  double beta = 1.0;
  double temperature = 1.0;

  template <class V>
  void fields(V& v) {
    v("distill.teacher", teacher,
      "run folder of the teacher (Mixture-of-Students); empty = no distillation");
    v("distill.student_layers", student_layers,
      "layers of the student; the rest of its model comes from the teacher's config; 0 = the model "
      "of this config",
      between(0, 1000));
    v("distill.init", init, "the student starts at random or from the teacher's layers",
      one_of({"random", "teacher"}));
    v("distill.schedule", schedule,
      "weight of the distillation loss over the run: full, staged (stops at distill.stop_at), "
      "linear or cosine (falls to 0 at distill.stop_at), auto (stops when the teacher's gradient "
      "no longer points the way of the student's own)",
      one_of({"full", "staged", "linear", "cosine", "auto"}));
    v("distill.stop_at", stop_at, "share of the run's tokens at which distillation has ended",
      between(0.0, 1.0));
    v("distill.check_every", check_every, "auto: steps between checks",
      between(1, int64_t{1} << 40));
    v("distill.check_batches", check_batches,
      "auto: batches that each of the two gradients of a check is taken over; a check costs about "
      "twice as many steps",
      between(1, 1 << 20));
    v("distill.window", window, "auto: checks whose mean cosine decides", between(1, 1000));
    v("distill.threshold", threshold,
      "auto: stop when the mean cosine of the two gradients falls below this", between(-1.0, 1.0));
    v("distill.beta", beta, "weight of the distillation loss", between(0.0, 1e3));
    v("distill.temperature", temperature, "softmax temperature of teacher and student",
      between(0.01, 100.0));
  }
};

struct InitConfig {
  std::string from = "";
  std::string from_dense = "";

  template <class V>
  void fields(V& v) {
    v("init.from", from, "run whose weights to start from (same model)");
    v("init.from_dense", from_dense,
      "run of a dense model to upcycle: every expert starts as its MLP");
  }
};

struct RunConfig {
  std::string dir = "runs/pyramoe";
  moe::ModelConfig model;
  TrainConfig train;
  DataConfig data;
  InitConfig init;
  DistillConfig distill;
  dist::ParallelConfig parallel;
  int64_t data_ranks = 1;  // of this job (train/layout.h); not a setting

  template <class V>
  void fields(V& v) {
    v("run.dir", dir, "folder of the run: config, metrics, checkpoints, samples");
    model.fields(v);
    train.fields(v);
    data.fields(v);
    init.fields(v);
    distill.fields(v);
    parallel.fields(v);
  }

  // The rules that span several keys.
  void check(ConfigProblems& problems) const;

  // Sequences per rank and pass.
  int64_t micro_batch() const {
    if (train.micro_batch > 0) return train.micro_batch;
    return parallel.same_on_any_layout() ? model.group : train.batch / data_ranks;
  }
};

// Reads a config file with its includes and `key=value` overrides, fills in what follows from the
// teacher's run, and checks everything that can be checked before work starts.
// Throws Error(config) that names keys, values and rules.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);
// The same from the text saved in a run or checkpoint.
RunConfig parse_run_config(const std::string& toml, const std::string& what);

DType dtype_of(const RunConfig& config);

// docs/config.md: every key with its type, default and meaning.
std::string config_page();

}  // namespace pyramoe::train
