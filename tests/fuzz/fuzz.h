// What every fuzz target shares: hostile input may end in an Error, and in nothing else.
//
// Build: CC=clang-14 CXX=clang++-14 cmake -G Ninja -B build-fuzz -DPYRAMOE_FUZZ=ON
//   -DPYRAMOE_TESTS=OFF -DPYRAMOE_SANITIZE=address,undefined,fuzzer-no-link
// Replay: build-fuzz/fuzz_config -runs=0 tests/fuzz/corpus/config
// Search: build-fuzz/fuzz_config -max_total_time=60 NEW_FOLDER tests/fuzz/corpus/config
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace pyramoe {

// Holds for every input, or the target has found a bug.
inline void require(bool condition, const char* promise) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

// An Error that blames the input is an answer; one that blames the program is not, nor is any other
// exception.
template <class F>
void expect_answer(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    require(error.code() != Exit::bug, error.what());
  }
}

// The parts of an input between zero bytes; at most `count`, the last one takes the rest.
inline std::vector<std::string> parts_of(const uint8_t* data, size_t size, size_t count) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> parts;
  while (parts.size() + 1 < count && rest.find('\0') != std::string_view::npos) {
    parts.emplace_back(rest.substr(0, rest.find('\0')));
    rest.remove_prefix(rest.find('\0') + 1);
  }
  parts.emplace_back(rest);
  return parts;
}

}  // namespace pyramoe
