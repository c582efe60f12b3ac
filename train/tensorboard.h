// A TensorBoard event file, written by hand: records of (length, masked CRC-32C, bytes, masked
// CRC-32C), each an Event message of five protobuf fields.
#pragma once

#include <memory>
#include <string>

#include "core/file.h"

namespace pyramoe::train {

class EventFile {
 public:
  // Starts a new file events.out.tfevents.SECONDS.pyramoe in `folder`.
  explicit EventFile(const std::string& folder);
  void add_scalar(const std::string& tag, int64_t step, double value);

 private:
  std::unique_ptr<AppendFile> file_;
};

// The bytes of one record, and of one scalar event (for tests).
std::string event_record(const std::string& event);
std::string scalar_event(const std::string& tag, int64_t step, double value, double seconds);

}  // namespace pyramoe::train
