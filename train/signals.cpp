#include "train/signals.h"

#include <csignal>
#include <initializer_list>

namespace pyramoe::train {
namespace {

volatile std::sig_atomic_t requested = 0;

void on_signal(int signal) {
  if (signal == SIGINT && requested != 0) std::signal(SIGINT, SIG_DFL);
  requested = 1;
}

}  // namespace

StopSignals::StopSignals() {
  requested = 0;
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, on_signal);
}

StopSignals::~StopSignals() {
  // A second signal while the program ends must not turn "saved" into "killed".
  if (stop_requested()) return;
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, SIG_DFL);
}

bool stop_requested() { return requested != 0; }

}  // namespace pyramoe::train
