// Folders: commit, list, remove; free space; and files that grow at the end.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/file.h"
#include "core/file_ops.h"

namespace pyramoe {
namespace {

enum class Kind : uint8_t { none, file, folder };

Kind kind_of(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return Kind::none;
  return S_ISDIR(info.st_mode) ? Kind::folder : Kind::file;
}

// Files first, then the folder that names them.
void sync_tree(const std::string& path, Exit code) {
  if (kind_of(path) == Kind::folder)
    for (const std::string& name : list_folder(path, code)) sync_tree(path + "/" + name, code);
  sync_path(path, code);
}

void remove_below(const std::string& path, Exit code) {
  const bool folder = kind_of(path) == Kind::folder;
  if (folder)
    for (const std::string& name : list_folder(path, code)) remove_below(path + "/" + name, code);
  if (file_ops::unlink(path, folder) != 0 && errno != ENOENT) fail_io(code, "remove", path, errno);
}

}  // namespace

void commit_folder(const std::string& temp_path, const std::string& final_path, Exit code) {
  if (kind_of(final_path) != Kind::none) fail_io(code, "commit", final_path, EEXIST);
  sync_tree(temp_path, code);
  if (file_ops::rename(temp_path, final_path) != 0) fail_io(code, "rename to", final_path, errno);
  sync_path(parent_folder(final_path), code);
}

void replace_folder(const std::string& temp_path, const std::string& final_path, Exit code) {
  if (kind_of(final_path) == Kind::none) return commit_folder(temp_path, final_path, code);
  sync_tree(temp_path, code);
  if (file_ops::exchange(temp_path, final_path) != 0) {
    if (errno != EINVAL && errno != ENOSYS) fail_io(code, "replace", final_path, errno);
    remove_tree(final_path, code);  // the best that such a file system allows
    if (file_ops::rename(temp_path, final_path) != 0) fail_io(code, "rename to", final_path, errno);
  }
  sync_path(parent_folder(final_path), code);
  remove_tree(temp_path, code);
}

void make_folders(const std::string& path, Exit code) {
  if (path.empty() || is_folder(path)) return;
  const std::string parent = parent_folder(path);
  if (parent != path && !is_folder(parent)) make_folders(parent, code);
  // Another process may have made it in between: only a folder that is missing now is an error.
  if (file_ops::make_folder(path) != 0 && !(errno == EEXIST && is_folder(path)))
    fail_io(code, "make folder", path, errno);
  // A folder that power loss takes away takes all in it. Work in progress may go.
  if (!is_temp_name(path)) sync_path(parent, code);
}

std::vector<std::string> list_folder(const std::string& path, Exit code) {
  DIR* folder = ::opendir(path.c_str());
  if (!folder) fail_io(code, "list", path, errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  const int why = errno;
  ::closedir(folder);
  if (why != 0) fail_io(code, "list", path, why);
  std::sort(names.begin(), names.end());
  return names;
}

void remove_tree(const std::string& path, Exit code) {
  const Kind kind = kind_of(path);
  if (kind == Kind::none) return;
  std::string doomed = path;
  if (kind == Kind::folder && !is_temp_name(path)) {
    doomed = temp_name(path);
    if (file_ops::rename(path, doomed) != 0) fail_io(code, "remove", path, errno);
  }
  remove_below(doomed, code);
}

int64_t remove_temp_files(const std::string& folder, Exit code) {
  int64_t removed = 0;
  for (const std::string& name : list_folder(folder, code)) {
    if (!is_temp_name(name)) continue;
    remove_below(folder + "/" + name, code);
    ++removed;
  }
  return removed;
}

bool path_exists(const std::string& path) { return kind_of(path) != Kind::none; }

bool is_folder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

int64_t file_bytes(const std::string& path, Exit code) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail_io(code, "inspect", path, errno);
  if (S_ISDIR(info.st_mode)) fail_io(code, "read", path, EISDIR);
  return info.st_size;
}

int64_t free_bytes(const std::string& path) {
  std::string here = path;
  struct statvfs info {};
  while (::statvfs(here.c_str(), &info) != 0) {
    const std::string parent = parent_folder(here);
    if (parent == here) return -1;
    here = parent;
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(info.f_bavail, info.f_frsize, &bytes)) return INT64_MAX;
  return bytes;
}

void check_free_space(const std::string& path, int64_t wanted, Exit code) {
  const int64_t free = free_bytes(path);
  if (free >= 0 && free < wanted) fail_io(code, "write", path, ENOSPC, wanted);
}

// ---- AppendFile, AppendLog

AppendFile::AppendFile(const std::string& path, Exit code) : path_(path), code_(code) {
  if (is_folder(path)) fail_io(code, "write", path, EISDIR);
  fd_ = file_ops::open_for_write(path, O_RDWR | O_CREAT | O_APPEND);
  if (fd_ < 0) fail_io(code, "write", path, errno);
  struct stat info {};
  if (::fstat(fd_, &info) != 0) {
    const int why = errno;
    ::close(fd_);
    fail_io(code, "inspect", path, why);
  }
  size_ = info.st_size;
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = file_ops::write(fd_, bytes.data() + done, bytes.size() - done);
    if (written <= 0) {
      const int why = written < 0 ? errno : EIO;
      // Best effort: if even this fails, opening the log again cuts off the torn line.
      file_ops::truncate(fd_, size_);
      fail_io(code_, "write", path_, why, static_cast<int64_t>(bytes.size()));
    }
    done += static_cast<size_t>(written);
  }
  size_ += static_cast<int64_t>(bytes.size());
}

void AppendFile::truncate(int64_t bytes) {
  PM_CHECK(bytes >= 0 && bytes <= size_, "AppendFile: cannot cut ", path_, " of ", size_,
           " bytes to ", bytes);
  if (file_ops::truncate(fd_, bytes) != 0) fail_io(code_, "shorten", path_, errno);
  size_ = bytes;
}

void AppendFile::sync() {
  if (file_ops::sync(fd_) != 0) fail_io(code_, "flush", path_, errno);
}

AppendLog::AppendLog(const std::string& path, Exit code) : file_(path, code), code_(code) {
  if (file_.size() == 0) return;
  const MappedFile old(path, code);
  const size_t last_end = old.text().rfind('\n');
  const int64_t whole = last_end == std::string_view::npos ? 0 : static_cast<int64_t>(last_end) + 1;
  if (whole < file_.size()) file_.truncate(whole);
}

void AppendLog::append(std::string_view line) {
  PM_CHECK(line.find('\n') == std::string_view::npos, "AppendLog: a line end inside a line of ",
           file_.path());
  std::string whole(line);
  whole += '\n';
  file_.append(whole);
}

int64_t AppendLog::truncate_to(const std::function<bool(std::string_view line)>& keep) {
  int64_t kept = 0;
  size_t begin = 0;
  {
    const MappedFile old(file_.path(), code_);
    const std::string_view text = old.text();
    while (begin < text.size()) {
      const size_t end = text.find('\n', begin);
      if (end == std::string_view::npos || !keep(text.substr(begin, end - begin))) break;
      begin = end + 1;
      ++kept;
    }
  }
  if (static_cast<int64_t>(begin) < file_.size()) file_.truncate(static_cast<int64_t>(begin));
  return kept;
}

}  // namespace pyramoe
