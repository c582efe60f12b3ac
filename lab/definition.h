// What an experiment is: a folder with experiment.toml (arms as overrides of a scale, claims as
// checkable comparisons, the paper's numbers as facts), and a scale: experiments/scales/NAME.toml
// (the model and data that all experiments share at that size). No experiment is named in C++.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace pyramoe::lab {

// Settings of `pyramoe train` in file order: key, value as it stands behind `key=`.
using Settings = std::vector<std::pair<std::string, std::string>>;

// One size at which experiments run.
struct Scale {
  std::string name;       // smoke, cpu, small or paper
  std::string device;     // cpu or cuda
  int64_t seeds = 3;      // 1, 2, ... unless --seeds says otherwise
  bool dry = false;       // only planned and printed (paper), never started
  std::string prepare;    // script that makes the data; run once, skipped when its outputs exist
  std::string eval_data;  // folder of the zero-shot tasks
  Settings set;
  std::map<std::string, std::string> words;  // what {word} in an arm stands for at this scale
  std::map<std::string, double> slurm;       // nodes, gpus_per_node, tflops, dollars_per_gpu_hour
};

// One line of a comparison.
struct Arm {
  std::string name;   // [a-z0-9_]+
  std::string label;  // of tables and figures; may hold {words}
  Settings set;       // values may hold {words} and "@arm": that arm's run folder, same seed
  std::string reuse;  // arm whose trained run is evaluated again, with `eval`; empty = trains
  std::vector<std::string> eval;    // options of `pyramoe eval` for a reusing arm
  std::vector<std::string> scales;  // where it takes part; empty = everywhere
};

// A statement that can turn out false. Each seed gives one number, x:
//   difference      metric(left) - metric(right)
//   ratio           metric(left) / metric(right)
//   value           metric(left)
//   tokens_to_match share of right's tokens after which left's validation loss is right's last
// It holds when the whole confidence interval of x lies `side` the margin.
enum class Measure { difference, ratio, value, tokens_to_match };
enum class Side { below, above, within };  // x < margin, x > margin, |x| < margin

struct Claim {
  std::string text;
  std::string metric = "loss";
  std::string left, right;
  Measure measure = Measure::difference;
  Side side = Side::below;
  double margin = 0;
  std::vector<std::string> scales;  // where it is judged; empty = everywhere but smoke
};

struct PaperFacts {
  std::string text;                            // what the paper reports, with section or figure
  std::vector<std::string> columns;            // may be empty
  std::vector<std::vector<std::string>> rows;  // cells as printed
};

struct Definition {
  std::string folder, name;  // experiments/fig4_pyramid_residual, fig4_pyramid_residual
  std::string title, question, source;
  std::string figure = "loss_curves";  // loss_curves, loss_by_parameters, bars or bars:METRIC
  std::vector<std::string> columns;    // metrics of the table, after the label
  std::string tasks;                   // zero-shot tasks of every arm, as `pyramoe eval --tasks`
  int64_t task_limit = 0;              // samples a task; 0 = all
  bool bench = false;                  // times every arm alone, after the runs
  Settings set;                        // of all arms, between the scale's and the arm's
  std::vector<Arm> arms;
  std::vector<Claim> claims;
  PaperFacts paper;
};

// Reads FOLDER/experiment.toml. Unknown keys, arms that refer to none, words in no scale and
// metrics that cannot exist are Error(config) with file and key.
Definition read_definition(const std::string& folder);
// The last part of it: what spans several keys. `path` names the file.
void check_definition(const Definition& definition, const std::string& path);
// Reads FOLDER/../scales/NAME.toml.
Scale read_scale(const std::string& experiment_folder, const std::string& name);

// Names of the scales beside an experiment's folder, sorted.
std::vector<std::string> scale_names(const std::string& experiment_folder);
// The {words} of a text, in order.
std::vector<std::string> words_in(const std::string& text);

// Whether arm or claim takes part at a scale.
bool takes_part(const std::vector<std::string>& scales, const std::string& scale);

}  // namespace pyramoe::lab
