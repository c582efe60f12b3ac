// The plan of the house as a test: a folder includes only folders below it, no file is longer than
// 500 lines, every header says at its top what it is, and the bugs that are planted into the CUDA
// sources still find their place there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
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

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Blocks of "== name", "file F" and lines "- " as they stand (tests/gpu/planted.py plants them).
TEST(House, PlantedBugsStandOnceInTheirSources) {
  std::istringstream list(text_of(kSource / "tests/gpu/planted_bugs.txt") + "== end\n");
  std::string line, name, file, lines;
  int bugs = 0;
  while (std::getline(list, line)) {
    if (line.rfind("== ", 0) == 0) {
      if (!lines.empty()) {
        const std::string source = text_of(kSource / file);
        const size_t place = source.find(lines);
        EXPECT_TRUE(place != std::string::npos &&
                    source.find(lines, place + 1) == std::string::npos)
            << name << ": not once in " << file << ":\n"
            << lines;
        ++bugs;
      }
      name = line.substr(3);
      lines.clear();
    } else if (line.rfind("file ", 0) == 0) {
      file = line.substr(5);
    } else if (line.rfind("-", 0) == 0) {
      lines += (lines.empty() ? "" : "\n") + (line.size() > 2 ? line.substr(2) : "");
    }
  }
  EXPECT_GE(bugs, 50);
}

}  // namespace
