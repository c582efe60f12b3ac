#include "lab/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

extern char** environ;  // NOLINT: the system's name

namespace pyramoe::lab {
namespace {

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : more) replaced |= text.starts_with(name + "=");
    if (!replaced) all.push_back(text);
  }
  for (const auto& [name, value] : more) all.push_back(name + "=" + value);
  return all;
}

int open_file(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
  if (fd < 0) fail(Exit::data, path, ": ", std::strerror(errno));
  return fd;
}

// In the child, between fork and exec: only calls that are safe there.
[[noreturn]] void become(char* const* argv, char* const* envp, int output, int log, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before the line above
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) ::signal(signal, SIG_DFL);
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::dup2(nothing, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execve(argv[0], argv, envp);
  ::_exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& command, const ChildOptions& options) {
  std::vector<std::string> words = command;
  std::vector<std::string> variables = environment_with(options.environment);
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  const int log = open_file(options.log, O_APPEND);
  const int output = options.output.empty() ? log : open_file(options.output, O_TRUNC);
  const pid_t parent = ::getpid();
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) become(argv.data(), envp.data(), output, log, parent);
  const int error = errno;
  if (output != log) ::close(output);
  ::close(log);
  if (pid_ < 0) fail(Exit::data, command[0], ": no new process: ", std::strerror(error));
}

Child::~Child() {
  if (ended_) return;
  send(SIGKILL);
  wait();
}

bool Child::running() {
  if (ended_) return false;
  int status = 0;
  const pid_t got = ::waitpid(pid_, &status, WNOHANG);
  if (got != pid_) return true;
  ended_ = true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

int Child::wait() {
  while (running()) ::usleep(2000);
  return status_;
}

void Child::send(int signal) {
  if (!ended_) ::kill(pid_, signal);
}

std::pair<bool, std::string> output_of(const std::string& shell_command) {
  FILE* pipe = ::popen((shell_command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return {false, ""};
  std::string text;
  char piece[256];
  while (const size_t count = std::fread(piece, 1, sizeof piece, pipe)) text.append(piece, count);
  const bool good = ::pclose(pipe) == 0;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return {good, text};
}

}  // namespace pyramoe::lab
