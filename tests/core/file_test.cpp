// Files: whole or not at all, whatever fails on the way; and bounded reading.
#include "core/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "core/crc32c.h"
#include "core/file_ops.h"
#include "tests/core/temp_folder.h"

namespace pyramoe {
namespace {

template <class F>
std::string error_of(F&& f, Exit code) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error";
  return "";
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(count, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// Faults end with the test, also when it fails.
struct FaultScope {
  ~FaultScope() { clear_fault_plan(); }
};

// ---- Checksums

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);    // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);  // RFC 3720, B.4
  EXPECT_EQ(crc32c_masked(0), 0xa282ead8u);
  EXPECT_EQ(crc32c_masked(0xe3069283u), ((0xe3069283u >> 15) | (0xe3069283u << 17)) + 0xa282ead8u);
}

TEST(Crc32c, FastEqualsPortableAtEveryLengthAndAlignment) {
  const std::string bytes = random_bytes(40000, 1);
  for (size_t length = 0; length < 2000; length += 1 + length / 64)
    for (size_t start : {0, 1, 7})
      ASSERT_EQ(crc32c(bytes.data() + start, length, 77u),
                crc32c_portable(bytes.data() + start, length, 77u));
  for (size_t length : {12287u, 12288u, 12289u, 24576u, 39993u})
    ASSERT_EQ(crc32c(bytes.data() + 3, length), crc32c_portable(bytes.data() + 3, length));
}

TEST(Crc32c, PiecesGiveTheWhole) {
  const std::string bytes = random_bytes(30000, 2);
  const uint32_t whole = crc32c(bytes);
  for (size_t cut : {0u, 1u, 8u, 777u, 12288u, 29999u, 30000u})
    EXPECT_EQ(
        crc32c(std::string_view(bytes).substr(cut), crc32c(std::string_view(bytes).substr(0, cut))),
        whole);
}

// ---- Reading

TEST(ReadFile, ReturnsAllBytes) {
  const TempFolder folder;
  for (size_t size : {0u, 1u, 65535u, 65536u, 65537u, 300000u}) {
    const std::string bytes = random_bytes(size, 3);
    put(folder / "f", bytes);
    EXPECT_EQ(read_file(folder / "f"), bytes);
  }
}

TEST(ReadFile, RefusesWhatCannotBeRead) {
  const TempFolder folder;
  EXPECT_NE(error_of([&] { read_file(folder / "none"); }, Exit::data).find("No such file"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read_file(folder.path()); }, Exit::data).find("folder"),
            std::string::npos);
  put(folder / "long", "12345");
  EXPECT_EQ(read_file(folder / "long", 5), "12345");
  EXPECT_NE(error_of([&] { read_file(folder / "long", 4, Exit::config); }, Exit::config)
                .find("longer than the 4 bytes"),
            std::string::npos);
  // A stream without a size is bounded too.
  error_of([&] { read_file("/dev/zero", 100000); }, Exit::data);
}

TEST(MappedFile, GivesBytesWithinBoundsOnly) {
  const TempFolder folder;
  put(folder / "f", "hello world");
  MappedFile file(folder / "f", Exit::checkpoint);
  EXPECT_EQ(file.text(), "hello world");
  EXPECT_EQ(static_cast<char>(file.bytes(6, 5)[4]), 'd');
  EXPECT_EQ(file.bytes(11, 0).size(), 0u);
  const std::pair<int64_t, int64_t> beyond[] = {{6, 6},  {12, 0},        {-1, 1},       {0, -1},
                                                {0, 12}, {INT64_MAX, 5}, {5, INT64_MAX}};
  for (const auto& [offset, count] : beyond)
    EXPECT_NE(
        error_of([&] { file.bytes(offset, count); }, Exit::checkpoint).find("ends at byte 11"),
        std::string::npos);
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.size(), 11);
  put(folder / "empty", "");
  EXPECT_EQ(MappedFile(folder / "empty").size(), 0);
  error_of([&] { MappedFile f(folder / "none"); }, Exit::data);
  error_of([&] { MappedFile f(folder.path()); }, Exit::data);
}

TEST(MappedFile, NoticesThatTheFileShrank) {
  const TempFolder folder;
  put(folder / "f", std::string(5000, 'x'));
  const MappedFile file(folder / "f");
  file.check_unchanged();
  std::filesystem::resize_file(folder / "f", 10);
  EXPECT_NE(error_of([&] { file.check_unchanged(); }, Exit::data).find("changed"),
            std::string::npos);
}

// ---- Writing

TEST(FileWriter, NothingHasTheNameBeforeCommit) {
  const TempFolder folder;
  put(folder / "f", "old");
  {
    FileWriter writer(folder / "f");
    writer.write(std::string(1000000, 'x'));
    EXPECT_EQ(read_file(folder / "f"), "old");
    EXPECT_EQ(list_folder(folder.path()).size(), 2u);
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"f"});
}

TEST(FileWriter, StoresAndSumsPiecesOfAnySize) {
  const TempFolder folder;
  std::string all;
  FileWriter writer(folder / "f");
  for (size_t size : {0u, 1u, 100u, 262143u, 262144u, 2u, 600000u, 3u}) {
    const std::string piece = random_bytes(size, static_cast<uint32_t>(size));
    writer.write(piece);
    all += piece;
  }
  EXPECT_EQ(writer.bytes(), static_cast<int64_t>(all.size()));
  EXPECT_EQ(writer.crc(), crc32c(all));
  writer.commit();
  EXPECT_EQ(read_file(folder / "f"), all);
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{"f"});
  error_of([&] { writer.write("more"); }, Exit::bug);
  error_of([&] { writer.commit(); }, Exit::bug);
}

TEST(FileWriter, RefusesPlacesItCannotWriteTo) {
  const TempFolder folder;
  error_of([&] { write_file(folder.path(), "x"); }, Exit::checkpoint);
  error_of([&] { write_file(folder / "no/such/f", "x", Exit::data); }, Exit::data);
}

TEST(FileWriter, FullDiskSaysPathWantedFreeAndWhatToDo) {
  const TempFolder folder;
  const FaultScope scope;
  set_fault_plan({.fail_at_operation = 2, .kind = FaultKind::enospc, .and_all_later = false});
  const std::string text =
      error_of([&] { write_file(folder / "f", std::string(5000, 'x')); }, Exit::checkpoint);
  for (const char* part : {"/f", "No space left", "5 kB wanted", " free)", "free some space"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(FileWriter, HonoursTheSizeLimitOfTheProcess) {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100000, 100000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int result = 1;
    try {
      write_file(folder / "f", std::string(1000000, 'x'));
    } catch (const Error& error) {
      result = static_cast<int>(error.code());
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(Exit::checkpoint));
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

// The heart of the promise: for every operation and every kind of failure, the old content or the
// new, nothing else, and no leftover unless the process died.
TEST(FileFaults, EveryOperationOfWriteFileMayFail) {
  const std::string old_bytes(300, 'a');
  const std::string new_bytes = random_bytes(700000, 5);
  const FaultScope scope;
  for (FaultKind kind : {FaultKind::eio, FaultKind::enospc, FaultKind::short_write}) {
    int64_t failures = 0;
    for (int64_t n = 1;; ++n) {
      const TempFolder folder;
      put(folder / "f", old_bytes);
      set_fault_plan({n, kind, false});
      bool failed = false;
      try {
        FileWriter writer(folder / "f");
        writer.write(std::string_view(new_bytes).substr(0, 1000));
        writer.write(std::string_view(new_bytes).substr(1000));
        writer.commit();
      } catch (const Error& error) {
        failed = true;
        EXPECT_EQ(error.code(), Exit::checkpoint);
      }
      const bool reached = counted_operations() >= n;
      clear_fault_plan();
      const std::string now = read_file(folder / "f");
      EXPECT_TRUE(now == old_bytes || now == new_bytes) << "operation " << n;
      EXPECT_TRUE(failed || now == new_bytes) << "operation " << n;
      EXPECT_EQ(list_folder(folder.path()).size(), 1u) << "operation " << n;
      failures += failed;
      if (!reached) break;
    }
    // open, two writes, fsync, rename, fsync of the folder: six ways to fail.
    EXPECT_EQ(failures, kind == FaultKind::short_write ? 0 : 6);
  }
}

TEST(FileFaults, KilledAtAnyOperationTheOldOrNewFileIsThere) {
  const std::string old_bytes(300, 'a');
  const std::string new_bytes = random_bytes(400000, 6);
  for (int64_t n = 1; n < 20; ++n) {
    const TempFolder folder;
    put(folder / "f", old_bytes);
    const pid_t child = ::fork();
    if (child == 0) {
      set_fault_plan({n, FaultKind::kill, false});
      write_file(folder / "f", new_bytes);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const std::string now = read_file(folder / "f");
    EXPECT_TRUE(now == old_bytes || now == new_bytes) << "operation " << n;
    remove_temp_files(folder.path());
    EXPECT_EQ(list_folder(folder.path()).size(), 1u) << "operation " << n;
    if (WIFEXITED(status)) {
      EXPECT_TRUE(now == new_bytes);
      EXPECT_GE(n, 5);
      return;
    }
  }
  FAIL() << "the save never came to its end";
}

// The test starts its own program again with the variable set; there it only writes a file.
TEST(FileFaults, TheEnvironmentSetsAPlanForAProcess) {
  const char* const target_variable = "PYRAMOE_TEST_FILE";
  if (const char* target = std::getenv(target_variable)) {
    try {
      write_file(target, "new");
    } catch (const Error& error) {
      ::_exit(static_cast<int>(error.code()));
    }
    ::_exit(0);
  }
  const TempFolder folder;
  const auto run = [&](const char* plan) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("PYRAMOE_FAULT", plan, 1);
      ::setenv(target_variable, (folder / "f").c_str(), 1);
      ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
      const char* const self = "/proc/self/exe";
      ::execl(self, self, "--gtest_filter=FileFaults.TheEnvironmentSetsAPlanForAProcess", nullptr);
      ::_exit(99);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  };
  EXPECT_EQ(run("eio@1"), static_cast<int>(Exit::checkpoint));
  EXPECT_EQ(run("enospc@3+"), static_cast<int>(Exit::checkpoint));
  EXPECT_EQ(run("short@2"), 0);
  EXPECT_EQ(run("kill@4"), -SIGKILL);
  EXPECT_EQ(run("eio@1000"), 0);
  for (const char* wrong : {"eio", "eio@", "eio@0", "eio@x", "what@3", "@", "kill@-1"})
    EXPECT_EQ(run(wrong), static_cast<int>(Exit::config)) << wrong;
}

}  // namespace
}  // namespace pyramoe
