// Folders appear whole, disappear whole, and logs never keep half a line.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "core/file.h"
#include "core/file_ops.h"
#include "tests/core/temp_folder.h"

namespace pyramoe {
namespace {

using Names = std::vector<std::string>;

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct FaultScope {
  ~FaultScope() { clear_fault_plan(); }
};

// ---- Paths and folders

TEST(Paths, ParentFolder) {
  EXPECT_EQ(parent_folder("a/b/c"), "a/b");
  EXPECT_EQ(parent_folder("a/b/"), "a");
  EXPECT_EQ(parent_folder("a"), ".");
  EXPECT_EQ(parent_folder("/a"), "/");
  EXPECT_EQ(parent_folder("/"), "/");
  EXPECT_EQ(parent_folder(""), ".");
}

TEST(Paths, TempNamesAreBesideFreshAndRecognised) {
  const std::string first = temp_name("runs/a/");
  EXPECT_EQ(parent_folder(first), "runs");
  EXPECT_NE(first, temp_name("runs/a/"));
  EXPECT_TRUE(is_temp_name(first));
  for (const char* name : {"a", "a.tmp", "a.tmp-", "a.tmp-x", "a.tmp-1x", "tmp-1"})
    EXPECT_FALSE(is_temp_name(name)) << name;
}

TEST(Folders, MadeListedAndRemoved) {
  const TempFolder folder;
  make_folders(folder / "a/b/c");
  make_folders(folder / "a/b/c/");
  put(folder / "a/2", "x");
  put(folder / "a/10", "x");
  EXPECT_EQ(list_folder(folder / "a"), (Names{"10", "2", "b"}));
  EXPECT_TRUE(is_folder(folder / "a/b"));
  EXPECT_FALSE(is_folder(folder / "a/2"));
  EXPECT_EQ(file_bytes(folder / "a/2"), 1);
  remove_tree(folder / "a");
  remove_tree(folder / "a");
  EXPECT_TRUE(list_folder(folder.path()).empty());
  put(folder / "f", "x");
  EXPECT_THROW(make_folders(folder / "f/g"), Error);
  EXPECT_THROW(list_folder(folder / "none"), Error);
  EXPECT_THROW(file_bytes(folder / "none"), Error);
}

TEST(Folders, RemovalDoesNotFollowLinks) {
  const TempFolder folder;
  make_folders(folder / "kept");
  put(folder / "kept/f", "x");
  make_folders(folder / "doomed");
  ASSERT_EQ(::symlink((folder / "kept").c_str(), (folder / "doomed/link").c_str()), 0);
  remove_tree(folder / "doomed");
  EXPECT_EQ(read_file(folder / "kept/f"), "x");
  EXPECT_FALSE(path_exists(folder / "doomed"));
}

TEST(Folders, FreeSpaceIsKnownForPathsYetToCome) {
  EXPECT_GT(free_bytes("/"), -1);
  EXPECT_EQ(free_bytes("no/such/folder/yet") > 0, free_bytes(".") > 0);
  check_free_space(".", 1);
  try {
    check_free_space(".", INT64_MAX);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::checkpoint);
    EXPECT_NE(std::string(error.what()).find("free some space"), std::string::npos);
  }
}

// ---- Commit

TEST(CommitFolder, GivesTheFinalNameOnce) {
  const TempFolder folder;
  const std::string temp = temp_name(folder / "step-1");
  make_folders(temp + "/deep");
  put(temp + "/deep/f", "x");
  commit_folder(temp, folder / "step-1");
  EXPECT_EQ(list_folder(folder.path()), Names{"step-1"});
  EXPECT_EQ(read_file(folder / "step-1/deep/f"), "x");
  make_folders(temp);
  EXPECT_THROW(commit_folder(temp, folder / "step-1"), Error);
  EXPECT_EQ(read_file(folder / "step-1/deep/f"), "x");
}

// Each file, the folder and its parent are flushed: each of these operations can fail the commit.
TEST(CommitFolder, EveryFileIsFlushedBeforeTheRename) {
  const FaultScope scope;
  int64_t n = 1;
  for (;; ++n) {
    const TempFolder folder;
    const std::string temp = temp_name(folder / "step-1");
    make_folders(temp);
    put(temp + "/a", "1");
    put(temp + "/b", "2");
    set_fault_plan({n, FaultKind::eio, false});
    bool failed = false;
    try {
      commit_folder(temp, folder / "step-1");
    } catch (const Error&) {
      failed = true;
    }
    clear_fault_plan();
    if (!failed) break;
    EXPECT_EQ(path_exists(folder / "step-1"), n > 4);  // flush a, b and the folder; rename
  }
  EXPECT_EQ(n, 6);
}

// A save of two files into a folder, then the removal of the old one: killed at each operation, a
// folder with a final name is always whole.
TEST(CommitFolder, KilledAtAnyOperationNoFolderIsHalf) {
  int64_t n = 1;
  for (; n < 60; ++n) {
    const TempFolder folder;
    make_folders(folder / "step-1");
    put(folder / "step-1/a", "1");
    put(folder / "step-1/b", "1");
    const pid_t child = ::fork();
    if (child == 0) {
      set_fault_plan({n, FaultKind::kill, false});
      const std::string temp = temp_name(folder / "step-2");
      make_folders(temp);
      write_file(temp + "/a", "2");
      write_file(temp + "/b", "2");
      commit_folder(temp, folder / "step-2");
      remove_tree(folder / "step-1");
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    remove_temp_files(folder.path());
    const Names names = list_folder(folder.path());
    EXPECT_FALSE(names.empty()) << "operation " << n;
    for (const std::string& name : names)
      EXPECT_EQ(list_folder(folder / name), (Names{"a", "b"})) << "operation " << n;
    if (WIFEXITED(status)) {
      EXPECT_EQ(names, Names{"step-2"});
      break;
    }
  }
  EXPECT_GT(n, 15);
  EXPECT_LT(n, 60);
}

// ---- Logs

TEST(AppendLog, LinesAreThereAtOnce) {
  const TempFolder folder;
  AppendLog log(folder / "log");
  log.append("one");
  log.append("");
  EXPECT_EQ(read_file(folder / "log"), "one\n\n");
  EXPECT_THROW(log.append("two\nlines"), Error);
  log.sync();
  AppendLog again(folder / "log");
  again.append("three");
  EXPECT_EQ(read_file(folder / "log"), "one\n\nthree\n");
}

TEST(AppendLog, ATornLastLineIsCutOnReopen) {
  const TempFolder folder;
  const std::pair<const char*, const char*> cases[] = {{"a\nb\n", "a\nb\n"}, {"a\nb", "a\n"},
                                                       {"torn", ""},         {"", ""},
                                                       {"\n", "\n"},         {"a\n\nb", "a\n\n"}};
  for (const auto& [before, after] : cases) {
    put(folder / "log", before);
    { AppendLog log(folder / "log"); }
    EXPECT_EQ(read_file(folder / "log"), after);
  }
}

TEST(AppendLog, ResumeCutsRowsThatWillComeAgain) {
  const TempFolder folder;
  put(folder / "log", "1\n2\n3\n4\n3\n");
  AppendLog log(folder / "log");
  EXPECT_EQ(log.truncate_to([](std::string_view line) { return line != "4"; }), 3);
  EXPECT_EQ(read_file(folder / "log"), "1\n2\n3\n");
  log.append("4");
  EXPECT_EQ(log.truncate_to([](std::string_view) { return true; }), 4);
  EXPECT_EQ(read_file(folder / "log"), "1\n2\n3\n4\n");
  EXPECT_EQ(log.truncate_to([](std::string_view) { return false; }), 0);
  EXPECT_EQ(read_file(folder / "log"), "");
}

TEST(AppendLog, AFailedAppendLeavesNoTrace) {
  const FaultScope scope;
  for (FaultKind kind : {FaultKind::eio, FaultKind::enospc, FaultKind::short_write}) {
    const TempFolder folder;
    AppendLog log(folder / "log");
    log.append("first");
    set_fault_plan({1, kind, false});
    if (kind == FaultKind::short_write)
      log.append("second");
    else
      EXPECT_THROW(log.append("second"), Error);
    clear_fault_plan();
    log.append("third");
    EXPECT_EQ(read_file(folder / "log"),
              kind == FaultKind::short_write ? "first\nsecond\nthird\n" : "first\nthird\n");
  }
}

}  // namespace
}  // namespace pyramoe
