// A run's folder: config.toml, metrics.*, samples.txt, tokenizer/, checkpoints/. One process at a
// time may train in it.
#pragma once

#include <string>

namespace pyramoe::train {

// Holds run.lock for the lifetime of the object. Throws Error(config) when another process does.
class RunLock {
 public:
  explicit RunLock(const std::string& run_dir);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int fd_ = -1;
};

// "train.lr = 0.001 (was 0.003), ..." of two texts of to_toml, for the keys that both have; not of
// run.dir. Empty when they agree.
std::string changed_settings(const std::string& before, const std::string& now);

}  // namespace pyramoe::train
