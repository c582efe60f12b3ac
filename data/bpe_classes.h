// The class of every Unicode code point, as the pre-tokeniser sees it.
//
// One byte a code point, filled once by PCRE2 from \p{L}, \p{N} and the list of White_Space.
#pragma once

#include <cstdint>

namespace pyramoe::data {

// `broken`: bytes that are no UTF-8. `beyond`: a byte that needs decoding first.
enum class CharClass : uint8_t { other, letter, number, space, broken, beyond };

// 0x110000 entries.
const CharClass* unicode_classes();

inline CharClass class_of(char32_t c) { return unicode_classes()[c]; }

}  // namespace pyramoe::data
