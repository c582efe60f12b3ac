// Text from files, made safe to show to people.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pyramoe {

bool is_utf8(std::string_view text);

// A short form of text that came from a file, safe to show on a terminal: control bytes and bytes
// that are not UTF-8 as \xNN, the rest as it is. `quoted` puts it in double quotes.
std::string printable(std::string_view text, size_t max_bytes = 80);
// An object, not a function: so that a call with a std::string does not find std::quoted instead.
struct Quoted {
  std::string operator()(std::string_view text, size_t max_bytes = 80) const {
    return '"' + printable(text, max_bytes) + '"';
  }
};
inline constexpr Quoted quoted;

}  // namespace pyramoe
