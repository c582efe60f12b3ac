// Switches of the environment.
#include "core/environment.h"

#include <gtest/gtest.h>

namespace pyramoe {
namespace {

TEST(EnvironmentFlag, IsOnAtOneAndAtNothingElse) {
  const char* name = "PYRAMOE_TEST_FLAG";
  ::unsetenv(name);
  EXPECT_FALSE(environment_flag(name));
  for (const char* off : {"", "0", "no", "11", " 1"}) {
    ::setenv(name, off, 1);
    EXPECT_FALSE(environment_flag(name)) << '"' << off << '"';
  }
  ::setenv(name, "1", 1);
  EXPECT_TRUE(environment_flag(name));
  ::unsetenv(name);
}

}  // namespace
}  // namespace pyramoe
