// SIGTERM and SIGUSR1 ask a run to save and end (a scheduler is about to take the machine away);
// so does the first SIGINT, while the second ends it at once.
#pragma once

namespace pyramoe::train {

// Installs the handlers for the lifetime of the object.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
};

// True once a signal came. Polled after every micro-batch, in evaluation too.
bool stop_requested();

}  // namespace pyramoe::train
