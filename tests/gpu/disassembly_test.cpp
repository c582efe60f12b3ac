// The grouped Hopper kernels really use Hopper: their machine code has wgmma (HGMMA) and the bulk
// tensor copy (UTMALDG). A kernel that lost them would still be right, only slow, so no other test
// would see it (attention_sass_test.cpp does the same for attention). Reads the build's object
// files with cuobjdump; needs no GPU.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <string>

namespace pyramoe {
namespace {

// For each function of an object file: which of the two instructions it has.
std::map<std::string, std::set<std::string>> instructions(const std::string& object) {
  std::map<std::string, std::set<std::string>> found;
  const std::string command =
      "PATH=\"$PATH:/usr/local/cuda/bin\" cuobjdump --dump-sass '" + object + "' 2>/dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return found;
  std::string function;
  std::array<char, 1024> line{};
  while (std::fgets(line.data(), line.size(), pipe)) {
    const std::string text = line.data();
    const size_t at = text.find("Function : ");
    if (at != std::string::npos) {
      function = text.substr(at + 11, text.find_last_not_of(" \n") - at - 10);
      found[function];
    }
    for (const char* name : {"HGMMA", "UTMALDG"}) {
      if (text.find(name) != std::string::npos) found[function].insert(name);
    }
  }
  pclose(pipe);
  return found;
}

class Disassembly : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(File, Disassembly, ::testing::Values("grouped_hopper"),
                         [](const auto& row) { return std::string(row.param); });

TEST_P(Disassembly, KernelsUseWgmmaAndBulkCopies) {
  const std::string object =
      std::string(PYRAMOE_BUILD_DIR) + "/CMakeFiles/pm_cuda.dir/cuda/" + GetParam() + ".cu.o";
  if (!std::ifstream(object)) GTEST_SKIP() << object << " is not here: only where it was built";
  const auto found = instructions(object);
  if (found.empty()) GTEST_SKIP() << "cuobjdump is not here, or the build has no sm_90a";
  int kernels = 0;
  for (const auto& [function, used] : found) {
    if (function.find("hopper") == std::string::npos ||
        function.find("_kernel") == std::string::npos) {
      continue;
    }
    ++kernels;
    EXPECT_TRUE(used.contains("HGMMA")) << function << " has no wgmma";
    EXPECT_TRUE(used.contains("UTMALDG")) << function << " has no bulk tensor copy";
  }
  EXPECT_GT(kernels, 0) << "no kernel in " << object;
}

}  // namespace
}  // namespace pyramoe
