// What the compiler made of the Hopper attention kernels: wgmma (HGMMA in the disassembly) and bulk
// tensor copies (UTMALDG). A kernel that lost them still computes right, only several times slower.
//
// Needs cuobjdump and kernels built for 90a, but no GPU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdio>
#include <map>
#include <string>

namespace pyramoe::gputest {
namespace {

struct Count {
  int products = 0, copies = 0;
};

// Kernel name (mangled) to how often it holds each; empty without cuobjdump.
std::map<std::string, Count> disassemble() {
  std::array<char, PATH_MAX> self{};
  if (readlink("/proc/self/exe", self.data(), self.size() - 1) <= 0) return {};
  const std::string command = "PATH=$PATH:/usr/local/cuda/bin; cuobjdump --dump-sass '" +
                              std::string(self.data()) +
                              "' 2>/dev/null | grep -E 'Function :|HGMMA|UTMALDG'";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return {};
  std::map<std::string, Count> kernels;
  Count* at = nullptr;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), static_cast<int>(line.size()), pipe)) {
    const std::string text = line.data();
    if (text.find("Function :") != std::string::npos) {
      at = &kernels[text];
    } else if (at) {
      at->products += text.find("HGMMA") != std::string::npos;
      at->copies += text.find("UTMALDG") != std::string::npos;
    }
  }
  pclose(pipe);
  return kernels;
}

TEST(CudaAttention, HopperKernelsUseWgmmaAndBulkCopies) {
  const std::map<std::string, Count> kernels = disassemble();
  if (kernels.empty()) GTEST_SKIP() << "no cuobjdump here, or no kernels in this program";
  for (const char* name : {"hopper_forward_kernel", "hopper_dkv_kernel", "hopper_dq_kernel"}) {
    int found = 0, empty = 0;
    for (const auto& [function, count] : kernels) {
      if (function.find("attention") == std::string::npos ||
          function.find(name) == std::string::npos) {
        continue;
      }
      ++found;
      if (count.products + count.copies == 0) {
        ++empty;  // the empty kernel of another architecture
        continue;
      }
      EXPECT_GE(count.products, 8) << function;
      EXPECT_GE(count.copies, 2) << function;
    }
    if (found == 0) GTEST_SKIP() << "this build has no kernels for 90a";
    EXPECT_GE(found - empty, 2) << name << ": expected one for head dim 64 and one for 128";
  }
}

}  // namespace
}  // namespace pyramoe::gputest
