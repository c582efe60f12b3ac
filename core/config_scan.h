// Prepares TOML text for the parser: the same document, in ASCII and of bounded depth.
//
// Two weaknesses of toml++ 3.3 are kept from hostile text. Foreign letters where it looks for white
// space lead it into code that expects none (undefined behaviour): so letters in texts become \U
// escapes, in comments they go, and elsewhere TOML has no place for them. And it recurses when it
// destroys nested tables, while dotted keys nest without limit: so the parts of a key are counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pyramoe {

inline constexpr int64_t kMaxKeyParts = 16;

// Lines stay where they are. Throws Error(config), naming `what` and the line, on text that is not
// UTF-8, strings without end, letters outside of strings and comments, and keys of too many parts.
std::string scan_toml(std::string_view text, const std::string& what);

}  // namespace pyramoe
