// What the fault tests share: scratch folders, a run that trains in milliseconds, and ways to look
// at and damage its files.
#pragma once

#include <string>
#include <vector>

#include "tests/cli/process.h"

namespace pyramoe::test {

// True in a campaign (tests/campaign/run.sh): loops run to their end instead of a sample.
bool campaign();

// A folder that is deleted with the object; in memory where the system has such a place.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string get(const std::string& path);
void put(const std::string& path, const std::string& bytes);
bool there(const std::string& path);
void remove_all(const std::string& path);
void copy_tree(const std::string& from, const std::string& to);
// Every file below a folder, as paths relative to it, sorted.
std::vector<std::string> files_below(const std::string& folder);
// Files and folders below that interrupted writes left.
std::vector<std::string> leftovers(const std::string& folder);

// Writes the config of a PR-MoE of a few thousand parameters on generated tokens: `steps` steps, a
// checkpoint every second one.
std::string tiny_config(const Scratch& scratch, int64_t steps = 6);
// pyramoe train CONFIG run.dir=DIR ...
std::vector<std::string> train_command(const std::string& config, const std::string& dir,
                                       const std::vector<std::string>& more = {});
std::string checkpoint_folder(const std::string& dir, int64_t step);
// Weights and moments of a checkpoint, as the bytes of their files.
std::string state_of(const std::string& dir, int64_t step);
// The steps of the training rows of metrics.jsonl, in order.
std::vector<int64_t> logged_steps(const std::string& dir);
// Its validation rows as they stand.
std::vector<std::string> logged_validations(const std::string& dir);
// The first column of metrics.csv.
std::vector<std::string> csv_steps(const std::string& dir);

}  // namespace pyramoe::test
