#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/file.h"

namespace pyramoe::train {

RunLock::RunLock(const std::string& run_dir) {
  make_folders(run_dir, Exit::config);
  const std::string path = run_dir + "/run.lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    fail(Exit::config, path, ": ", std::strerror(errno), "; choose a run.dir that can be written");
  }
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd_);
    fail(Exit::config, "run.dir = ", run_dir,
         ": another process is training in this folder; wait for it or choose another run.dir");
  }
}

RunLock::~RunLock() { ::close(fd_); }

std::string changed_settings(const std::string& before, const std::string& now) {
  const auto each_line = [](const std::string& text, const auto& f) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const size_t equals = line.find(" = ");
      if (equals != std::string::npos) f(line.substr(0, equals), line.substr(equals + 3));
    }
  };
  std::map<std::string, std::string> old;
  each_line(before, [&](const std::string& key, const std::string& value) { old[key] = value; });
  std::string changes;
  each_line(now, [&](const std::string& key, const std::string& value) {
    const auto found = old.find(key);
    if (key == "run.dir" || found == old.end() || found->second == value) return;
    changes += cat(changes.empty() ? "" : ", ", key, " = ", value, " (was ", found->second, ")");
  });
  return changes;
}

}  // namespace pyramoe::train
