// A scratch folder with one scale and one experiment of models that train in milliseconds on
// generated tokens.
#pragma once

#include <string>

#include "core/file.h"
#include "lab/definition.h"
#include "tests/train/support.h"

namespace pyramoe::test {

inline constexpr const char* kTinyScale = R"(
device = "cpu"
seeds  = 2
[set]
"model.layers"   = 2
"model.dim"      = 16
"model.heads"    = 2
"model.context"  = 16
"model.vocab"    = 64
"train.batch"    = 4
"train.steps"    = 6
"train.lr"       = 1e-2
"train.min_lr"   = 1e-3
"train.warmup_tokens" = 64
"train.eval_every" = 2
"train.eval_sequences" = 4
"data.synthetic" = true
[words]
few  = 2
many = "0 4"
)";

inline constexpr const char* kTinyExperiment = R"(
title    = "Tiny"
question = "Does it run?"
source   = "nowhere"
columns  = ["params_total", "loss"]
set      = { "moe.top_k" = 1 }
[[arm]]
name  = "dense"
label = "Dense"
[[arm]]
name  = "moe"
label = "MoE {few}"
set   = { "moe.experts" = "0 {few}" }
[[claim]]
text    = "MoE is better"
left    = "moe"
right   = "dense"
side    = "below"
margin  = 0.0
)";

// An arm whose teacher is arm "moe", one layer shallower.
inline constexpr const char* kStudent = R"(
[[arm]]
name = "student"
set  = { "distill.teacher" = "@moe", "distill.student_layers" = 1 }
)";

class TinyExperiments {
 public:
  TinyExperiments() {
    put("experiments/scales/tiny.toml", kTinyScale);
    put("experiments/tiny/experiment.toml", kTinyExperiment);
  }

  std::string path(const std::string& name) const { return scratch_.path(name); }
  std::string folder() const { return path("experiments/tiny"); }
  void put(const std::string& name, const std::string& text) const {
    make_folders(parent_folder(path(name)));
    write_file(path(name), text);
  }
  // The experiment with something more at its end.
  void add(const std::string& more) const {
    put("experiments/tiny/experiment.toml", kTinyExperiment + more);
  }
  lab::Scale scale() const { return lab::read_scale(folder(), "tiny"); }
  lab::Definition definition() const { return lab::read_definition(folder()); }

 private:
  ScratchFolder scratch_;
};

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos)
    ADD_FAILURE() << from << " is not in the text";
  else
    text.replace(at, from.size(), to);
  return text;
}

// What f throws; "" if it does not.
template <class F>
std::string complaint(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace pyramoe::test
