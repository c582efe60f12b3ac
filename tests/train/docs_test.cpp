// What the docs say is what the program does.
#include <gtest/gtest.h>

#include "core/file.h"
#include "train/run_config.h"

namespace pyramoe {
namespace {

TEST(Docs, TheConfigPageIsTheFieldList) {
  EXPECT_EQ(read_file(std::string(PYRAMOE_SOURCE_DIR) + "/docs/config.md"), train::config_page())
      << "run: build/pyramoe train --keys --markdown > docs/config.md";
}

TEST(Docs, EveryShippedConfigIsValid) {
  for (const char* name :
       {"350m", "1.3b", "6.7b", "350m_moe32", "350m_moe128", "350m_pyramid", "350m_residual32",
        "1.3b_moe128", "350m_pr_moe", "1.3b_pr_moe", "350m_mos", "1.3b_mos", "tiny_pr_moe"}) {
    const std::string path =
        std::string(PYRAMOE_SOURCE_DIR) + "/experiments/base/" + name + ".toml";
    EXPECT_NO_THROW(train::load_run_config(path, {})) << path;
  }
}

}  // namespace
}  // namespace pyramoe
