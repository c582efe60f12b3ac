// Switches that come from the environment, all of one form: NAME=1 is on, anything else is off.
#pragma once

#include <cstdlib>
#include <cstring>

namespace pyramoe {

inline bool environment_flag(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && std::strcmp(text, "1") == 0;
}

}  // namespace pyramoe
