#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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

}  // namespace pyramoe::train
