// Runs the built program as a user would: arguments in; exit code, signal and all it printed out.
// Limits on memory, file size and time are set for the child alone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace pyramoe::test {

struct Launch {
  std::vector<std::pair<std::string, std::string>> environment = {};
  int64_t address_space = 0;  // bytes (ulimit -v); 0 = no limit
  int64_t file_size = 0;      // bytes (ulimit -f); 0 = no limit
  bool as_nobody = false;     // give up root's right to write anywhere
  bool full_output = false;   // stdout is a full disk
  bool closed = false;        // stdout and stderr are closed
  double timeout = 60;        // seconds, then SIGKILL
};

struct Outcome {
  int code = -1;   // exit code; -1 when a signal ended it
  int signal = 0;  // the signal; 0 when it exited
  bool timed_out = false;
  double cpu_seconds = 0;
  std::string text;  // stdout and stderr, in order
  bool says(const std::string& part) const { return text.find(part) != std::string::npos; }
};

class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments, const Launch& launch = {});
  ~Process();  // kills what still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const;
  // What was printed so far.
  std::string text() const;
  // Waits until the text holds `part`; false when the process ended or `seconds` passed before.
  bool wait_for(const std::string& part, double seconds = 30);
  bool running();
  Outcome wait();

 private:
  bool reap(bool block);

  pid_t pid_ = -1;
  int output_ = -1;
  bool done_ = false;
  double timeout_;
  Outcome outcome_;
};

// build/pyramoe with these arguments.
Outcome run_program(const std::vector<std::string>& arguments, const Launch& launch = {});

// Sleeps a little between two looks at something.
void pause_us(int64_t microseconds);
double now_seconds();

}  // namespace pyramoe::test
