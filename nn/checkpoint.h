// Checkpoints: named tensors in safetensors files, a manifest with checksums, committed by one
// rename. A run folder keeps them under checkpoints/step_00000100/.
//
// One logical record per tensor, whatever layout wrote it. A save goes to a temporary folder, every
// file is flushed, the manifest last, and then the folder is renamed: a crash at any moment leaves
// the previous or the new checkpoint, never half of one. Opening verifies every byte before any is
// used. docs/formats-checkpoint.md describes the files.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "core/tensor.h"
#include "nn/module.h"

namespace pyramoe::nn {

struct NamedTensor {
  std::string name;
  Tensor value;
  Box box = {};  // the part of the logical tensor that `value` is
};

struct CheckpointContent {
  int64_t step = 0;
  std::string config;                  // TOML text of the whole run
  std::string state = "{}";            // counters of the trainer, a JSON object
  std::vector<NamedTensor> model;      // parameters and buffers
  std::vector<NamedTensor> optimizer;  // empty for a bare model
};

// Writes `run_dir`/checkpoints/step_NNNNNNNN and returns its path. Throws Error(checkpoint).
std::string save_checkpoint(const std::string& run_dir, const CheckpointContent& content);
// Deletes all but the newest `keep` checkpoints up to `step`, the one just saved, and what
// interrupted saves left. Later ones are damaged or of a future that this run has left: they do not
// count, for a run that fell back must not delete what it saves.
void prune_checkpoints(const std::string& run_dir, int64_t keep, int64_t step);

class Checkpoint {
 public:
  // Opens a checkpoint folder and verifies the manifest and every file against it.
  // Throws Error(checkpoint) that names the file, what was expected and what was found.
  static Checkpoint open(const std::string& folder);
  // The newest checkpoint of a run that verifies; damaged ones are skipped with a line on stderr.
  // Throws Error(checkpoint) when there is none.
  static Checkpoint newest(const std::string& run_dir);
  // True when the run has any committed checkpoint folder.
  static bool exists(const std::string& run_dir);
  // Accepts a run folder or a checkpoint folder.
  static Checkpoint find(const std::string& path);

  const std::string& folder() const { return folder_; }
  int64_t step() const { return step_; }
  const std::string& config() const { return config_; }
  const std::string& state() const { return state_; }  // JSON text
  // Loads every parameter and buffer of the module by name, converting between floating dtypes.
  // Throws Error(checkpoint) listing missing, unexpected and misshapen tensors.
  void load_model(Module& module) const;
  // Copies one optimizer tensor, or the part of it in `box`; false when the checkpoint has none of
  // that name.
  bool load_optimizer(const std::string& name, const Tensor& into, const Box& box = {}) const;
  bool has_optimizer() const { return optimizer_ != nullptr; }
  std::vector<std::string> model_names() const;

 private:
  std::string folder_, config_, state_;
  int64_t step_ = 0;
  std::shared_ptr<SafetensorsReader> model_, optimizer_;
};

}  // namespace pyramoe::nn
