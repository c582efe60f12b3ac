// Where runs may run at a time: cores of this machine, or its GPUs. And what they are asked to do:
// the config that a child gets.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lab/plan.h"

namespace pyramoe::lab {

class Places {
 public:
  // jobs: 0 = one a core, or one a GPU. Throws Error(config) where the device is not there.
  Places(const std::string& device, int jobs);

  int count() const { return count_; }
  int all_cores() const { return cores_; }
  // Threads and GPU of the child in a place.
  std::vector<std::pair<std::string, std::string>> environment(int place) const;
  std::string words() const;  // "2 at a time, 1 thread each"

 private:
  int cores_ = 1, count_ = 1;
  std::vector<std::string> gpus_;  // as CUDA_VISIBLE_DEVICES names them
};

// Writes RUN/request.toml, the config of a run with what is to be saved of it; returns its path.
//   weights  someone will read the weights of the last step
std::string write_request(const PlannedRun& run, bool weights);

}  // namespace pyramoe::lab
