// Scales: experiments/scales/NAME.toml, and what {words} mean there.
#include <algorithm>
#include <cmath>

#include "core/file.h"
#include "core/text.h"
#include "lab/definition.h"
#include "lab/items.h"
#include "lab/plan.h"

namespace pyramoe::lab {
namespace {

const std::vector<std::string> kScaleKeys = {"device",    "seeds", "dry",   "prepare",
                                             "eval_data", "set",   "words", "slurm"};
const std::vector<std::string> kSlurmKeys = {"nodes", "gpus_per_node", "tflops",
                                             "dollars_per_gpu_hour"};

void add_slurm(const ConfigItem& item, const std::string& key, Scale& scale) {
  if (std::find(kSlurmKeys.begin(), kSlurmKeys.end(), key) == kSlurmKeys.end()) {
    refuse_key(item, key, kSlurmKeys);
  }
  const double value = number_of(item);
  if (!std::isfinite(value) || value <= 0) refuse(item, "must be greater than 0");
  scale.slurm[key] = value;
}

void add_item(const ConfigItem& item, Scale& scale) {
  const std::string first = first_part(item.key), rest = after_first(item.key);
  if (first == "set" && !rest.empty()) {
    scale.set.emplace_back(rest, plain_of(item));
  } else if (first == "words" && !rest.empty()) {
    scale.words[rest] = plain_of(item);
  } else if (first == "slurm" && !rest.empty()) {
    add_slurm(item, rest, scale);
  } else if (item.key == "device") {
    scale.device = text_of(item);
    if (scale.device != "cpu" && scale.device != "cuda") refuse(item, "expected cpu or cuda");
  } else if (item.key == "seeds") {
    scale.seeds = whole_of(item, 1);
  } else if (item.key == "dry") {
    scale.dry = flag_of(item);
  } else if (item.key == "prepare") {
    scale.prepare = text_of(item);
  } else if (item.key == "eval_data") {
    scale.eval_data = text_of(item);
  } else {
    refuse_key(item, item.key, kScaleKeys);
  }
}

}  // namespace

std::vector<std::string> scale_names(const std::string& experiment_folder) {
  const std::string folder = parent_folder(experiment_folder) + "/scales";
  std::vector<std::string> names;
  if (!is_folder(folder)) return names;
  for (const std::string& file : list_folder(folder, Exit::config)) {
    if (file.ends_with(".toml")) names.push_back(file.substr(0, file.size() - 5));
  }
  return names;
}

Scale read_scale(const std::string& experiment_folder, const std::string& name) {
  const std::string folder = parent_folder(experiment_folder) + "/scales";
  const std::string path = folder + "/" + name + ".toml";
  if (name.find('/') != std::string::npos || !path_exists(path)) {
    std::string all;
    for (const std::string& one : scale_names(experiment_folder)) {
      all += (all.empty() ? "" : ", ") + one;
    }
    fail(Exit::config, "there is no scale ", quoted(name), "; ", folder, " has ",
         all.empty() ? "none" : all);
  }
  Scale scale;
  scale.name = name;
  for (const ConfigItem& item : read_items(path)) add_item(item, scale);
  return scale;
}

bool takes_part(const std::vector<std::string>& scales, const std::string& scale) {
  return scales.empty() || std::find(scales.begin(), scales.end(), scale) != scales.end();
}

std::vector<std::string> words_in(const std::string& text) {
  std::vector<std::string> words;
  for (size_t open = text.find('{'); open != std::string::npos; open = text.find('{', open + 1)) {
    const size_t close = text.find('}', open);
    if (close == std::string::npos) break;
    words.push_back(text.substr(open + 1, close - open - 1));
  }
  return words;
}

std::string fill_words(const std::string& text, const Scale& scale, const std::string& where) {
  std::string out = text;
  for (const std::string& word : words_in(text)) {
    const auto found = scale.words.find(word);
    if (found == scale.words.end()) {
      fail(Exit::config, where, ": scale ", scale.name, " has no word {", printable(word),
           "}; add it under [words] of scales/", scale.name, ".toml");
    }
    const std::string braced = "{" + word + "}";
    out.replace(out.find(braced), braced.size(), found->second);
  }
  return out;
}

}  // namespace pyramoe::lab
