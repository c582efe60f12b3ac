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

}  // namespace pyramoe::train
