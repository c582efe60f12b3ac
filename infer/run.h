// A trained model from disk, ready to use: weights, settings and tokenizer of a run.
//
// A run folder holds checkpoints/step_NNNNNNNN and tokenizer/; either the run or one checkpoint may
// be named. Read next: nn/checkpoint.h, data/tokenizer.h.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/tokenizer.h"
#include "moe/model_config.h"
#include "nn/checkpoint.h"
#include "nn/gpt.h"

namespace pyramoe::infer {

struct LoadedRun {
  moe::ModelConfig config;
  std::unique_ptr<nn::Gpt> model;
  std::unique_ptr<data::Tokenizer> tokenizer;
  int64_t step = 0;
  std::string folder;      // of the run
  std::string checkpoint;  // folder of the weights
  DType dtype = DType::f32;
  Device device{};
  bool has_tokenizer = true;  // false: the run has none, texts are taken as bytes
};

// Loads a run folder's newest intact checkpoint (damaged ones are skipped with a line on stderr) or
// the given checkpoint folder.
//   dtype  of the weights in memory; none: as they were trained
// Throws Error(checkpoint) if there is no run, no intact checkpoint, or parts that do not fit
// together; Error(data) for a broken tokenizer.
LoadedRun load_run(const std::string& path, std::optional<DType> dtype = {}, Device device = kCpu);

// The settings of a checkpoint that are part of the model.
moe::ModelConfig model_config_of(const nn::Checkpoint& checkpoint);
// What train.dtype says in the checkpoint's settings; f32 if it says nothing.
DType trained_dtype(const nn::Checkpoint& checkpoint);

// "f32", "bf16", "f64"; none for an empty text. Throws Error(config) otherwise.
std::optional<DType> parse_dtype(const std::string& text);

// Bytes as token ids 0 to 255, for runs on generated tokens. Ids a model of fewer tokens lacks are
// replaced by their remainder.
std::unique_ptr<data::Tokenizer> make_raw_tokenizer(int64_t vocab);

}  // namespace pyramoe::infer
