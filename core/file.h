// Files: the one gate through which pyramoe writes to disk, and bounded ways to read.
//
// One idea: a file is either the old one or the new one, never half of one. Data goes to a
// temporary name in the same folder, is flushed to the disk, takes its final name by rename, and
// the folder is flushed. Calls that fail throw an Error that names path, cause and remedy, with the
// exit code that the caller gives. Faults for tests are injected one page below, in
// core/file_ops.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace pyramoe {

// ---- Reading

inline constexpr int64_t kMaxReadFile = int64_t{1} << 30;

// The whole file as bytes. A file longer than max_bytes is an Error.
std::string read_file(const std::string& path, int64_t max_bytes = kMaxReadFile,
                      Exit code = Exit::data);

// A file's bytes, read-only, loaded by the system as they are touched.
// A file that shrinks while it is mapped would end the process with SIGBUS on the next touch of a
// lost page; check_unchanged() before a long use turns that into an Error in all but a race.
class MappedFile {
 public:
  enum class Access : uint8_t { normal, sequential, random, will_need };

  MappedFile() = default;
  explicit MappedFile(const std::string& path, Exit code = Exit::data,
                      Access access = Access::normal);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }  // nullptr when the file is empty
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), as_size()}; }
  // Bytes [offset, offset + count). Throws Error when the file ends before.
  std::span<const std::byte> bytes(int64_t offset, int64_t count) const;
  // Throws Error when the file no longer has the size it was mapped with.
  void check_unchanged() const;
  void advise(Access access) const;

 private:
  size_t as_size() const { return static_cast<size_t>(size_); }
  void close() noexcept;

  std::string path_;
  Exit code_ = Exit::data;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  int fd_ = -1;
};

// ---- Writing whole files

// A file's new content, written in pieces. Nothing has the final name until commit(); destroyed
// before that, the temporary file is removed and an old file of that name is untouched.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path, Exit code = Exit::checkpoint);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, int64_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), static_cast<int64_t>(bytes.size())); }
  int64_t bytes() const { return bytes_; }  // written so far
  uint32_t crc() const { return crc_; }     // CRC-32C of them
  // Flushes to the disk, renames, flushes the folder. Once.
  void commit();

 private:
  void flush();
  void put(const char* data, size_t count);

  std::string path_;
  std::string temp_;
  Exit code_;
  int fd_ = -1;
  std::string buffer_;
  int64_t bytes_ = 0;
  uint32_t crc_ = 0;
};

// FileWriter in one call.
void write_file(const std::string& path, std::string_view bytes, Exit code = Exit::checkpoint);

// ---- Folders

// A fresh name beside `path` for work in progress; is_temp_name says if a name is one of these.
std::string temp_name(const std::string& path);
bool is_temp_name(std::string_view name);

// Gives a finished folder its final name: flushes every file and folder in it, renames, flushes the
// parent. Throws Error if `final_path` exists.
void commit_folder(const std::string& temp_path, const std::string& final_path,
                   Exit code = Exit::checkpoint);
// The same where `final_path` may exist: the two change places in one moment, then the old one is
// removed, so that there is always one of them.
void replace_folder(const std::string& temp_path, const std::string& final_path,
                    Exit code = Exit::checkpoint);
// The folder and those above it; one that exists is fine.
void make_folders(const std::string& path, Exit code = Exit::checkpoint);
// Names (without "." and ".."), sorted bytewise. Throws Error if the folder cannot be read.
std::vector<std::string> list_folder(const std::string& path, Exit code = Exit::data);
// A file or a folder with all that is in it; links are removed, not followed; none is fine. The
// path is first renamed to a temporary name, so a removal cut short leaves no half folder behind.
void remove_tree(const std::string& path, Exit code = Exit::checkpoint);
// Removes what interrupted saves left in a folder; returns how many.
int64_t remove_temp_files(const std::string& folder, Exit code = Exit::checkpoint);

bool path_exists(const std::string& path);
bool is_folder(const std::string& path);
// Throws Error if there is no such file.
int64_t file_bytes(const std::string& path, Exit code = Exit::data);
// Free space for this user on the disk of `path` (which need not exist yet); -1 if unknown.
int64_t free_bytes(const std::string& path);
// Throws Error unless the disk of `path` has room for `wanted` more bytes.
void check_free_space(const std::string& path, int64_t wanted, Exit code = Exit::checkpoint);
std::string parent_folder(const std::string& path);  // "." for a bare name

// ---- Growing files

// Bytes added at the end, each append going to the system at once (safe from kill -9, not from
// power loss until sync()). An append that fails leaves the file as it was before it.
class AppendFile {
 public:
  explicit AppendFile(const std::string& path, Exit code = Exit::checkpoint);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  void truncate(int64_t bytes);
  void sync();
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  Exit code_;
  int fd_ = -1;
  int64_t size_ = 0;
};

// Lines added at the end (metrics.jsonl). A last line that a crash left without its end is cut off
// when the log is opened again.
class AppendLog {
 public:
  explicit AppendLog(const std::string& path, Exit code = Exit::checkpoint);
  void append(std::string_view line);  // without the line's end
  // Cuts the log before the first line for which keep(line) is false; returns lines kept. On
  // resume: rows of steps that will be trained again.
  int64_t truncate_to(const std::function<bool(std::string_view line)>& keep);
  void sync() { file_.sync(); }
  int64_t size() const { return file_.size(); }

 private:
  AppendFile file_;
  Exit code_;
};

}  // namespace pyramoe
