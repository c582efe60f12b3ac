// What the compiler made of the kernels, read from the build's object files. A kernel that lost its
// tensor cores, its bulk copies or its wide loads, or that keeps values in local memory, still
// computes right, only slower: no other test would see it.
//
// One table says what a kernel's machine code must hold, for each architecture of the build. Needs
// cuobjdump and nvdisasm of the CUDA toolkit, but no GPU.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace pyramoe {
namespace {

namespace fs = std::filesystem;

const std::string kPath = "PATH=\"$PATH:/usr/local/cuda/bin\"; ";
const fs::path kObjects = fs::path(PYRAMOE_BUILD_DIR) / "CMakeFiles/pm_cuda.dir/cuda";

// ---- the table

struct Need {
  const char* instruction;  // "LDG.128": LDG, whatever other suffixes it has
  int least;
};
using Needs = std::vector<Need>;

struct Row {
  const char* name;
  const char* file;    // of cuda/, without .cu
  const char* kernel;  // how its name starts
  int kernels;         // the file has at least so many of them
  Needs needs;
  int most_local = 0;   // loads and stores of local memory when built for 90a; kAny: not looked at
  bool hopper = false;  // for 90a alone
  int more_waits = 0;   // waits for groups of products, beyond one a group
};
std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.kernel; }

constexpr int kAny = -1;
constexpr bool kHopper = true;

// HGMMA: wgmma. UTMALDG, UTMASTG, UTMAREDG: bulk tensor copies, the last one adds. USETMAXREG:
// registers handed over. HMMA, LDSM, LDGSTS: mma.sync, ldmatrix, cp.async. UCGABAR_ARV: blocks of a
// cluster wait for each other.
const Needs kWgmma = {
    {"HGMMA", 4}, {"UTMALDG", 4}, {"USETMAXREG", 2}, {"UTMASTG", 4}, {"STG.128", 4}};
const Needs kGradient = {
    {"HGMMA", 4}, {"UTMALDG", 4}, {"USETMAXREG", 2}, {"UTMASTG", 4}, {"UTMAREDG", 4}};
const Needs kFlash = {{"HGMMA", 16}, {"UTMALDG", 8}, {"USETMAXREG", 2}, {"UTMASTG", 1}};
const Needs kCluster = {{"LDG.128", 8}, {"UCGABAR_ARV", 2}};
const Needs kTiles = {{"HMMA", 32}, {"LDSM", 12}, {"LDGSTS", 4}};
const Needs kHeads = {{"HMMA", 32}, {"LDSM", 18}, {"LDG.128", 3}};
const Needs kWide = {{"LDG.128", 3}, {"STG.128", 3}};

// The attention of mma_* draws dropout into an array that is indexed at run time: some local memory
// is by design there.
const std::vector<Row> kRows = {
    {"GroupedForward", "grouped_hopper", "hopper_kernel<(Form)0", 2, kWgmma, 0, kHopper, 2},
    {"GroupedDx", "grouped_hopper", "hopper_kernel<(Form)1, (Finish)0", 1, kWgmma, 0, kHopper, 1},
    {"GroupedDxGelu", "grouped_hopper", "hopper_kernel<(Form)1, (Finish)2", 1, kWgmma, 0, kHopper,
     1},
    {"GroupedDw", "grouped_hopper", "hopper_kernel<(Form)2", 2, kGradient, 0, kHopper, 1},
    {"Attention", "attention_hopper_forward", "hopper_forward_kernel<", 4, kFlash, 0, kHopper},
    {"AttentionDkv", "attention_hopper_dkv", "hopper_dkv_kernel<", 4, kFlash, 0, kHopper},
    {"AttentionDq", "attention_hopper_dq", "hopper_dq_kernel<", 4, kFlash, 0, kHopper},
    {"Decode", "attention_hopper_decode", "hopper_decode_kernel<", 12, kCluster, 20, kHopper},
    {"PortableGrouped", "grouped_portable", "mma_kernel<", 6, kTiles},
    {"PortableAttention", "attention_mma", "mma_forward_kernel<", 4, kHeads, kAny},
    {"PortableAttentionDkv", "attention_mma", "mma_dkv_kernel<", 4, kHeads, kAny},
    {"PortableAttentionDq", "attention_mma", "mma_dq_kernel<", 4, kHeads, kAny},
    {"PortableDecode", "attention_decode", "split_kernel<", 8, {{"LDG.128", 4}}},
    {"Router", "moe_router_tiles", "router_kernel<", 5, kTiles},
    {"Permute", "moe_segments", "gather_kernel<bf16, 8", 2, kWide},
    {"CombineBackward", "moe_segments", "from_segments_backward_kernel<bf16, 8", 1, kWide},
    {"LayerNorm", "layernorm", "forward_kernel<false", 40, {{"LDG.128", 1}, {"STG.128", 1}}},
    {"LayerNormBackward", "layernorm_backward", "backward_kernel<1024, 1", 8, kWide},
    {"Loss", "loss_fused", "fused_kernel<", 2, {{"LDGSTS", 24}, {"STG.128", 4}}},
    {"AdamW", "adam", "update_kernel<4, true, true", 4, kWide, 2},
    {"FewRows", "matvec", "few_rows_kernel<", 16, {{"LDG.128", 16}}},
};

// ---- reading

struct Function {
  std::string name;                         // without namespaces
  std::map<std::string, int> instructions;  // with suffixes, to how often
};

// "void pyramoe::gpu::grouped::(anonymous namespace)::f<__nv_bfloat16>(int)" is "f<bf16>(int)".
std::string short_name(const std::string& mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  const std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  static const std::regex bf16("__nv_bfloat16");
  static const std::regex prefix("^void |\\(anonymous namespace\\)::|[a-z_]+::");
  return std::regex_replace(std::regex_replace(name, bf16, "bf16"), prefix, "");
}

// The instruction of a line "   /*0a10*/   @!P0 LDG.E.128 R4, [R2] ;   /* encoding */", or "". The
// last product of a group says gsb0 among its operands: here a suffix of its own.
std::string instruction_of(const std::string& line) {
  const size_t open = line.find_first_not_of(' ');
  if (open == std::string::npos || line.compare(open, 2, "/*") != 0) return "";
  if (!std::isxdigit(static_cast<unsigned char>(line[open + 2]))) return "";  // an encoding
  std::istringstream words(line.substr(line.find("*/", open) + 2));
  std::string word;
  words >> word;
  if (word.starts_with("@")) words >> word;
  if (!word.empty() && word.back() == ';') word.pop_back();
  if (word.starts_with("HGMMA") && line.find("gsb0") != std::string::npos) word += ".gsb0";
  return word;
}

// The kernels of an object file, as built for one architecture.
const std::vector<Function>& disassemble(const fs::path& object, const std::string& architecture) {
  static std::map<std::string, std::vector<Function>> done;
  const auto [it, fresh] = done.try_emplace(object.string() + architecture);
  std::vector<Function>& functions = it->second;
  if (!fresh) return functions;
  const std::string command = kPath + "cuobjdump --gpu-architecture sm_" + architecture +
                              " --dump-sass '" + object.string() + "'";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return functions;
  std::array<char, 8192> line{};
  while (std::fgets(line.data(), static_cast<int>(line.size()), pipe)) {
    std::string text = line.data();
    text.erase(text.find_last_not_of(" \n") + 1);
    const size_t at = text.find("Function : ");
    if (at != std::string::npos) {
      functions.push_back({short_name(text.substr(at + 11)), {}});
    } else if (!functions.empty()) {
      const std::string instruction = instruction_of(text);
      if (!instruction.empty()) ++functions.back().instructions[instruction];
    }
  }
  EXPECT_EQ(pclose(pipe), 0) << command;
  return functions;
}

std::vector<std::string> parts_of(const std::string& instruction) {
  std::vector<std::string> parts;
  std::istringstream from(instruction);
  for (std::string part; std::getline(from, part, '.');) parts.push_back(part);
  return parts;
}

// How often the kernel has `wanted` with at least its suffixes.
int count(const Function& f, const std::string& wanted) {
  const std::vector<std::string> want = parts_of(wanted);
  int sum = 0;
  for (const auto& [instruction, times] : f.instructions) {
    const std::vector<std::string> have = parts_of(instruction);
    const bool all = std::all_of(want.begin(), want.end(), [&](const std::string& part) {
      return std::find(have.begin(), have.end(), part) != have.end();
    });
    if (have[0] == want[0] && all) sum += times;
  }
  return sum;
}

std::vector<std::string> architectures() {
  std::istringstream words(PYRAMOE_BUILT_FOR);
  std::vector<std::string> all;
  for (std::string word; words >> word;) all.push_back(word);
  return all;
}

bool has_tools() {
  return std::system(
             (kPath + "{ command -v cuobjdump && command -v nvdisasm; } >/dev/null").c_str()) == 0;
}

// ---- the tests

class Disassembly : public ::testing::TestWithParam<Row> {};
INSTANTIATE_TEST_SUITE_P(Kernel, Disassembly, ::testing::ValuesIn(kRows),
                         [](const auto& row) { return std::string(row.param.name); });

void check_kernel(const Function& f, const Row& row, const std::string& architecture) {
  const std::string where = f.name + " for " + architecture;
  for (const Need& need : row.needs) {
    EXPECT_GE(count(f, need.instruction), need.least) << need.instruction << " in " << where;
  }
  const int local = count(f, "LDL") + count(f, "STL");
  if (architecture == "90a" && row.most_local != kAny) {
    EXPECT_LE(local, row.most_local) << "loads and stores of local memory in " << where;
  }
  // Where the compiler cannot keep registers out of a running product, it adds waits, or makes each
  // product a group of its own: the tensor cores then stand still.
  const int groups = count(f, "HGMMA.gsb0");
  EXPECT_GE(count(f, "HGMMA"), 4 * groups) << "products in " << groups << " groups in " << where;
  EXPECT_LE(count(f, "WARPGROUP.DEPBAR"), groups + row.more_waits) << "waits in " << where;
}

TEST_P(Disassembly, HoldsWhatMakesItFast) {
  const Row& row = GetParam();
  const fs::path object = kObjects / (std::string(row.file) + ".cu.o");
  if (!has_tools()) GTEST_SKIP() << "cuobjdump and nvdisasm are not on PATH";
  if (!fs::exists(object)) GTEST_SKIP() << object << " is not here: only where it was built";
  int built = 0;
  for (const std::string& architecture : architectures()) {
    if (row.hopper && architecture != "90a") continue;
    ++built;
    int kernels = 0;
    for (const Function& f : disassemble(object, architecture)) {
      if (!f.name.starts_with(row.kernel)) continue;
      ++kernels;
      check_kernel(f, row, architecture);
    }
    EXPECT_GE(kernels, row.kernels) << row.kernel << " of " << object << " for " << architecture;
  }
  if (built == 0) GTEST_SKIP() << "this build has no kernels for 90a";
}

// Two runs give the same bits because no sum depends on who comes first. (Counts may: they are
// integers. And weight gradients of grouped products are added to by the copy engine, but a launch
// adds to each one once.)
TEST(DisassemblyOfAll, NoKernelAddsFloatsByAtomics) {
  if (!has_tools()) GTEST_SKIP() << "cuobjdump and nvdisasm are not on PATH";
  if (!fs::exists(kObjects)) GTEST_SKIP() << kObjects << " is not here: only where it was built";
  const std::regex unordered("(ATOM|RED)[GS]?\\..*(F16|F32|F64|CAS).*|(UTMAREDG|UBLKRED).*");
  const auto adds_once = [](const Function& f, const std::string& instruction) {
    return f.name.starts_with("hopper_kernel<(Form)2") && instruction.starts_with("UTMAREDG");
  };
  int kernels = 0;
  for (const auto& entry : fs::directory_iterator(kObjects)) {
    if (!entry.path().string().ends_with(".cu.o")) continue;
    for (const Function& f : disassemble(entry.path(), architectures().front())) {
      ++kernels;
      for (const auto& [instruction, times] : f.instructions) {
        EXPECT_FALSE(std::regex_match(instruction, unordered) && !adds_once(f, instruction))
            << instruction << " in " << f.name;
      }
    }
  }
  EXPECT_GT(kernels, 100) << "in " << kObjects;
}

}  // namespace
}  // namespace pyramoe
