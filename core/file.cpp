// Whole files: bounded reads, mappings, and the write, flush, rename protocol.
#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "core/crc32c.h"
#include "core/file_ops.h"

namespace pyramoe {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 18;

int open_for_read(const std::string& path, Exit code) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd < 0 && errno == EINTR) fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_io(code, "open", path, errno);
  return fd;
}

// Closes on every way out; reading needs no check of close().
struct ReadHandle {
  explicit ReadHandle(int descriptor) : fd(descriptor) {}
  ~ReadHandle() {
    if (fd >= 0) ::close(fd);
  }
  ReadHandle(const ReadHandle&) = delete;
  ReadHandle& operator=(const ReadHandle&) = delete;
  int release() { return std::exchange(fd, -1); }
  int fd;
};

struct stat stat_of(int fd, const std::string& path, Exit code) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail_io(code, "inspect", path, errno);
  if (S_ISDIR(info.st_mode)) fail_io(code, "read", path, EISDIR);
  return info;
}

[[noreturn]] void fail_too_long(Exit code, const std::string& path, int64_t max_bytes) {
  fail(code, "cannot read ", path, ": it is longer than the ", human_bytes(max_bytes),
       " that such a file may have; check that this is the file you meant");
}

}  // namespace

std::string read_file(const std::string& path, int64_t max_bytes, Exit code) {
  const ReadHandle file(open_for_read(path, code));
  const struct stat info = stat_of(file.fd, path, code);
  if (info.st_size > max_bytes) fail_too_long(code, path, max_bytes);
  std::string text;
  text.reserve(static_cast<size_t>(info.st_size));
  // The size is only a hint: pipes say 0, and files grow.
  std::string piece(info.st_size > 0 ? static_cast<size_t>(info.st_size) + 1 : 65536, '\0');
  for (;;) {
    const ssize_t count = ::read(file.fd, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_io(code, "read", path, errno);
    if (count == 0) return text;
    if (text.empty() && static_cast<size_t>(count) + 1 == piece.size()) {
      piece.resize(static_cast<size_t>(count));
      text.swap(piece);
      piece.assign(65536, '\0');
    } else {
      text.append(piece.data(), static_cast<size_t>(count));
    }
    if (static_cast<int64_t>(text.size()) > max_bytes) fail_too_long(code, path, max_bytes);
  }
}

// ---- MappedFile

MappedFile::MappedFile(const std::string& path, Exit code, Access access)
    : path_(path), code_(code) {
  ReadHandle file(open_for_read(path, code));
  const struct stat info = stat_of(file.fd, path, code);
  if (!S_ISREG(info.st_mode)) fail(code, "cannot map ", path, ": it is not a regular file");
  size_ = info.st_size;
  if (size_ > 0) {
    void* memory = ::mmap(nullptr, as_size(), PROT_READ, MAP_SHARED, file.fd, 0);
    if (memory == MAP_FAILED) fail_io(code, "map", path, errno);
    data_ = static_cast<const std::byte*>(memory);
  }
  fd_ = file.release();
  advise(access);
}

void MappedFile::close() noexcept {
  if (data_) ::munmap(const_cast<std::byte*>(data_), as_size());
  if (fd_ >= 0) ::close(fd_);
  data_ = nullptr;
  fd_ = -1;
  size_ = 0;
}

MappedFile::~MappedFile() { close(); }

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  code_ = other.code_;
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  fd_ = std::exchange(other.fd_, -1);
  return *this;
}

std::span<const std::byte> MappedFile::bytes(int64_t offset, int64_t count) const {
  if (offset < 0 || count < 0 || offset > size_ || count > size_ - offset)
    fail(code_, path_, " ends at byte ", size_, ", but ", count, " bytes were expected at byte ",
         offset, ": the file is cut short or not what it should be");
  return {data_ + offset, static_cast<size_t>(count)};
}

void MappedFile::check_unchanged() const {
  if (fd_ < 0) return;
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail_io(code_, "inspect", path_, errno);
  if (info.st_size != size_)
    fail(code_, path_, " changed while it was in use: it had ", size_, " bytes, now ",
         static_cast<int64_t>(info.st_size), "; leave it alone until the run ends");
}

void MappedFile::advise(Access access) const {
  if (!data_) return;
  int advice = MADV_NORMAL;
  switch (access) {
    case Access::normal:
      advice = MADV_NORMAL;
      break;
    case Access::sequential:
      advice = MADV_SEQUENTIAL;
      break;
    case Access::random:
      advice = MADV_RANDOM;
      break;
    case Access::will_need:
      advice = MADV_WILLNEED;
      break;
  }
  ::madvise(const_cast<std::byte*>(data_), as_size(), advice);  // advice: may fail without harm
}

// ---- FileWriter

std::string parent_folder(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.find_last_of('/', last);
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string temp_name(const std::string& path) {
  static std::atomic<int64_t> number{0};
  const std::string bare = path.substr(0, path.find_last_not_of('/') + 1);
  return cat(bare, ".tmp-", ::getpid(), "-", number++);
}

bool is_temp_name(std::string_view name) {
  const size_t mark = name.rfind(".tmp-");
  if (mark == std::string_view::npos || mark + 5 == name.size()) return false;
  return name.find_first_not_of("0123456789-", mark + 5) == std::string_view::npos;
}

FileWriter::FileWriter(const std::string& path, Exit code)
    : path_(path), temp_(temp_name(path)), code_(code) {
  if (is_folder(path)) fail_io(code, "write", path, EISDIR);
  fd_ = file_ops::open_for_write(temp_, O_WRONLY | O_CREAT | O_EXCL);
  // In a container a process often has the number of the one that was killed there before it.
  while (fd_ < 0 && errno == EEXIST) {
    temp_ = temp_name(path);
    fd_ = file_ops::open_for_write(temp_, O_WRONLY | O_CREAT | O_EXCL);
  }
  if (fd_ < 0) fail_io(code, "write", path, errno);
  buffer_.reserve(kBufferBytes);
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  file_ops::unlink(temp_, false);  // a leftover is harmless and found by remove_temp_files
}

void FileWriter::put(const char* data, size_t count) {
  while (count > 0) {
    const ssize_t written = file_ops::write(fd_, data, count);
    if (written <= 0)
      fail_io(code_, "write", path_, written < 0 ? errno : EIO, static_cast<int64_t>(count));
    data += written;
    count -= static_cast<size_t>(written);
  }
}

void FileWriter::flush() {
  put(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void FileWriter::write(const void* data, int64_t bytes) {
  PM_CHECK(fd_ >= 0, "FileWriter: write after commit of ", path_);
  PM_CHECK(bytes >= 0, "FileWriter: ", bytes, " bytes for ", path_);
  if (bytes == 0) return;
  const auto count = static_cast<size_t>(bytes);
  crc_ = crc32c(data, count, crc_);
  bytes_ += bytes;
  if (buffer_.size() + count > kBufferBytes) flush();
  if (count >= kBufferBytes)
    put(static_cast<const char*>(data), count);
  else
    buffer_.append(static_cast<const char*>(data), count);
}

void FileWriter::commit() {
  PM_CHECK(fd_ >= 0, "FileWriter: second commit of ", path_);
  flush();
  if (file_ops::sync(fd_) != 0) fail_io(code_, "flush", path_, errno, bytes_);
  if (file_ops::rename(temp_, path_) != 0) fail_io(code_, "rename to", path_, errno);
  // From here the new file has its name; close() after fsync has nothing left to report.
  ::close(std::exchange(fd_, -1));
  sync_path(parent_folder(path_), code_);
}

void write_file(const std::string& path, std::string_view bytes, Exit code) {
  FileWriter writer(path, code);
  writer.write(bytes);
  writer.commit();
}

}  // namespace pyramoe
