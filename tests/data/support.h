// What the data tests share: files that may be absent, scratch folders, and errors looked into.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"

namespace pyramoe::data {

inline std::string shared_path(const std::string& name) {
  return std::string(PYRAMOE_SOURCE_DIR) + "/../shared/data/" + name;
}

// Skips the test when the file of the shared data folder is not on this machine.
#define PM_NEEDS_SHARED(name)                                                  \
  if (!path_exists(shared_path(name))) {                                       \
    GTEST_SKIP() << "needs ../shared/data/" << name << ", which is not there"; \
  }

inline std::string read_gz(const std::string& path) {
  std::string text;
  const gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return text;
  std::vector<char> piece(size_t{1} << 20);
  for (int n = 0; (n = gzread(file, piece.data(), static_cast<unsigned>(piece.size()))) > 0;) {
    text.append(piece.data(), static_cast<size_t>(n));
  }
  gzclose(file);
  return text;
}

// A folder that is gone when the test ends.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "pyramoe-data-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail(Exit::bug, "no scratch folder");
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string file(const std::string& name, std::string_view content) const {
    std::ofstream out(file(name), std::ios::binary);  // not write_file: thousands of flushes
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    return file(name);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The message of the Error that f throws, which must have the code Exit::data; "" if it throws
// none.
template <class F>
std::string data_error(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data) << error.what();
    return error.what();
  }
  return "";
}

// Numbers for a test, from the counter generator.
class Dice {
 public:
  explicit Dice(uint64_t seed) : key_{.seed = seed, .purpose = RngPurpose::test} {}
  uint32_t word() { return random_u32(key_, next_++); }
  uint32_t below(uint32_t n) { return word() % n; }
  char byte() { return static_cast<char>(word() & 0xFFu); }

 private:
  RngKey key_;
  uint64_t next_ = 0;
};

}  // namespace pyramoe::data
