// A child process: this program again, with its output in files. It dies with its parent, however
// the parent dies, so that no run goes on that nobody waits for.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace pyramoe::lab {

struct ChildOptions {
  std::string output;  // file for stdout; empty = `log`
  std::string log;     // file for stderr, and what is appended to
  std::vector<std::pair<std::string, std::string>> environment = {};  // over the parent's
};

class Child {
 public:
  // Throws Error(data) where a file cannot be opened or no process made.
  Child(const std::vector<std::string>& command, const ChildOptions& options);
  ~Child();  // kills what still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool running();         // looks, never waits
  int wait();             // the status
  void send(int signal);  // nothing once it has ended
  // As a shell counts: the exit status, or 128 + the signal that ended it.
  int status() const { return status_; }

 private:
  pid_t pid_ = -1;
  bool ended_ = false;
  int status_ = 0;
};

// Whether a command of PATH succeeds, and what it prints (without the last line's end).
std::pair<bool, std::string> output_of(const std::string& shell_command);

}  // namespace pyramoe::lab
