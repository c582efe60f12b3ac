#include "tests/cli/support.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/file.h"
#include "core/json.h"

namespace pyramoe::test {

namespace fs = std::filesystem;

bool campaign() { return std::getenv("PYRAMOE_CAMPAIGN") != nullptr; }

Scratch::Scratch() {
  const bool memory = ::access("/dev/shm", W_OK) == 0;
  std::string name = memory ? "/dev/shm" : fs::temp_directory_path().string();
  name += "/pyramoe_XXXXXX";
  path_ = ::mkdtemp(name.data());
}

Scratch::~Scratch() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string get(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

bool there(const std::string& path) { return fs::exists(path); }

void remove_all(const std::string& path) { fs::remove_all(path); }

void copy_tree(const std::string& from, const std::string& to) {
  fs::copy(from, to, fs::copy_options::recursive);
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> leftovers(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (is_temp_name(entry.path().filename().string())) names.push_back(entry.path().string());
  }
  return names;
}

std::string tiny_config(const Scratch& scratch, int64_t steps) {
  const std::string path = scratch / "tiny.toml";
  put(path, cat("model.layers = 2\nmodel.dim = 8\nmodel.heads = 2\nmodel.context = 8\n",
                "model.vocab = 16\nmoe.experts = \"0 2\"\nmoe.residual = true\n",
                "moe.noise = \"rsample\"\nmoe.capacity_factor = 1.0\nmodel.dropout = 0.1\n",
                "moe.gate = \"sigmoid_bias\"\ntrain.steps = ", steps,
                "\ntrain.batch = 4\ntrain.micro_batch = 2\ntrain.lr = 3.0e-3\n",
                "train.min_lr = 3.0e-4\ntrain.save_every = 2\ntrain.eval_sequences = 4\n",
                "data.synthetic = true\nrun.dir = \"not_given\"\n"));
  return path;
}

std::vector<std::string> train_command(const std::string& config, const std::string& dir,
                                       const std::vector<std::string>& more) {
  std::vector<std::string> words{"train", config, "run.dir=" + dir};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::string checkpoint_folder(const std::string& dir, int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step_%08lld", static_cast<long long>(step));
  return dir + "/checkpoints/" + name;
}

std::string state_of(const std::string& dir, int64_t step) {
  const std::string folder = checkpoint_folder(dir, step);
  if (!there(folder + "/model.safetensors")) return "no checkpoint at step " + std::to_string(step);
  return get(folder + "/model.safetensors") + get(folder + "/optimizer.safetensors") +
         get(folder + "/state.json");
}

std::vector<int64_t> logged_steps(const std::string& dir) {
  std::vector<int64_t> steps;
  std::istringstream lines(get(dir + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json row = parse_json(line, "metrics.jsonl");
    if (row.contains("loss")) steps.push_back(row.at("step").get<int64_t>());
  }
  return steps;
}

std::vector<std::string> logged_validations(const std::string& dir) {
  std::vector<std::string> rows;
  std::istringstream lines(get(dir + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    if (line.find("\"val_loss\"") != std::string::npos) rows.push_back(line);
  }
  return rows;
}

std::vector<std::string> csv_steps(const std::string& dir) {
  std::vector<std::string> steps;
  std::istringstream lines(get(dir + "/metrics.csv"));
  for (std::string line; std::getline(lines, line);)
    steps.push_back(line.substr(0, line.find(',')));
  return steps;
}

}  // namespace pyramoe::test
