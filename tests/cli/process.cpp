#include "tests/cli/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace pyramoe::test {
namespace {

constexpr uid_t kNobody = 65534;

// In the child, between fork and exec: only calls that are safe there.
[[noreturn]] void become(char* const* argv, char* const* envp, int output, const Launch& launch) {
  const auto limit = [](auto what, int64_t bytes) {
    const auto value = static_cast<rlim_t>(bytes);
    const struct rlimit both { value, value };
    if (bytes > 0) ::setrlimit(what, &both);
  };
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::dup2(nothing, STDIN_FILENO);
  if (launch.full_output) ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO);
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    if (launch.closed) ::close(fd);
  }
  limit(RLIMIT_AS, launch.address_space);
  limit(RLIMIT_FSIZE, launch.file_size);
  if (launch.as_nobody && (::setresgid(kNobody, kNobody, kNobody) != 0 ||
                           ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    ::_exit(126);
  }
  ::execve(argv[0], argv, envp);
  ::_exit(127);
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments, const Launch& launch)
    : timeout_(now_seconds() + launch.timeout) {
  output_ = ::memfd_create("output", MFD_CLOEXEC);
  if (output_ < 0) throw std::runtime_error("memfd_create failed");
  ::fcntl(output_, F_SETFL, O_APPEND);
  std::vector<std::string> words{std::string(PYRAMOE_BUILD_DIR) + "/pyramoe"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  // One thread: tiny models gain nothing from more, and the bits are the same for any number.
  std::vector<std::string> variables{"PYRAMOE_THREADS=1", "PATH=/usr/bin:/bin", "LC_ALL=C"};
  for (const char* name : {"PYRAMOE_FILL_NAN", "ASAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name)) variables.push_back(std::string(name) + "=" + value);
  }
  for (const auto& [name, value] : launch.environment) variables.push_back(name + "=" + value);
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("fork failed");
  if (pid_ == 0) become(argv.data(), envp.data(), output_, launch);
}

Process::~Process() {
  if (!done_) {
    send(SIGKILL);
    reap(true);
  }
  ::close(output_);
}

void Process::send(int signal) const {
  if (!done_) ::kill(pid_, signal);
}

std::string Process::text() const {
  std::string all;
  char piece[4096];
  for (;;) {
    const ssize_t count = ::pread(output_, piece, sizeof piece, static_cast<off_t>(all.size()));
    if (count <= 0) return all;
    all.append(piece, static_cast<size_t>(count));
  }
}

bool Process::reap(bool block) {
  if (done_) return true;
  int status = 0;
  struct rusage usage {};
  if (::wait4(pid_, &status, block ? 0 : WNOHANG, &usage) != pid_) return false;
  done_ = true;
  if (WIFEXITED(status)) outcome_.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome_.signal = WTERMSIG(status);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  outcome_.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  outcome_.text = text();
  return true;
}

bool Process::running() { return !reap(false); }

bool Process::wait_for(const std::string& part, double seconds) {
  const double end = now_seconds() + seconds;
  while (text().find(part) == std::string::npos) {
    if (!running() || now_seconds() > end) return text().find(part) != std::string::npos;
    pause_us(200);
  }
  return true;
}

Outcome Process::wait() {
  while (!reap(false)) {
    if (now_seconds() > timeout_) {
      outcome_.timed_out = true;
      send(SIGKILL);
      reap(true);
      break;
    }
    pause_us(300);
  }
  return outcome_;
}

Outcome run_program(const std::vector<std::string>& arguments, const Launch& launch) {
  return Process(arguments, launch).wait();
}

void pause_us(int64_t microseconds) {
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace pyramoe::test
