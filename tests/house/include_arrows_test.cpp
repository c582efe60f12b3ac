// The plan of the house as a test: a folder includes only folders below it, no file is longer than
// 500 lines, and every file says at its top what it is.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = PYRAMOE_SOURCE_DIR;

// Who may include whom: core <- autograd <- dist <- nn <- moe <- infer <- train <- report <- lab <-
// cli, and core <- data <- {infer, train}. Nothing includes cuda.
const std::map<std::string, std::set<std::string>> kMay = {
    {"core", {}},
    {"autograd", {"core"}},
    {"dist", {"core", "autograd"}},
    {"nn", {"core", "autograd", "dist"}},
    {"moe", {"core", "autograd", "dist", "nn"}},
    {"data", {"core"}},
    {"infer", {"core", "autograd", "dist", "nn", "moe", "data"}},
    {"train", {"core", "autograd", "dist", "nn", "moe", "data", "infer"}},
    {"report", {"core", "autograd", "dist", "nn", "moe", "data", "infer", "train"}},
    {"lab", {"core", "autograd", "dist", "nn", "moe", "data", "infer", "train", "report"}},
    {"cli", {"core", "autograd", "dist", "nn", "moe", "data", "infer", "train", "report", "lab"}},
    {"cuda", {"core"}},
};

std::vector<fs::path> sources(const fs::path& folder) {
  std::vector<fs::path> all;
  if (!fs::exists(folder)) return all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension();
    if (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh") {
      all.push_back(entry.path());
    }
  }
  return all;
}

TEST(House, IncludesGoOneWay) {
  const std::regex include("^\\s*#\\s*include\\s+\"([^/\"]+)/");
  for (const auto& [folder, allowed] : kMay) {
    for (const fs::path& path : sources(kSource / folder)) {
      std::ifstream file(path);
      std::string line;
      for (int number = 1; std::getline(file, line); ++number) {
        std::smatch match;
        if (!std::regex_search(line, match, include)) continue;
        const std::string target = match[1];
        EXPECT_TRUE(target == folder || allowed.count(target))
            << path.string() << ":" << number << ": " << folder << " may not include " << target;
      }
    }
  }
}

TEST(House, PagesAreSmall) {
  for (const auto& [folder, allowed] : kMay) {
    for (const fs::path& path : sources(kSource / folder)) {
      std::ifstream file(path);
      std::string line;
      int lines = 0;
      while (std::getline(file, line)) ++lines;
      EXPECT_LE(lines, 500) << path.string() << ": one idea a file";
    }
  }
}

TEST(House, HeadersSayWhatTheyAre) {
  for (const auto& [folder, allowed] : kMay) {
    for (const fs::path& path : sources(kSource / folder)) {
      if (path.extension() != ".h" && path.extension() != ".cuh") continue;
      std::ifstream file(path);
      std::string first;
      std::getline(file, first);
      EXPECT_EQ(first.rfind("// ", 0), 0u) << path.string() << " opens without a comment";
    }
  }
}

}  // namespace
