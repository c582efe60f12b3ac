// GPT-2's pre-tokeniser: cuts text into the words that byte pairs are merged inside of.
//
// The definition is a regular expression, run by PCRE2 (split_words_pcre2):
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// where \s is exactly the Unicode property White_Space: U+0085, U+00A0 and U+3000 are in; U+180E,
// U+200B and U+FEFF are not. The fast form (next_word) is a hand-written scanner over a table of
// character classes that is itself filled by PCRE2, so both know the same Unicode; tests compare
// them on whole books and on random strings.
//
// Bytes that are no UTF-8: each longest run of them is a word of its own, and the text on either
// side is cut as though the run were the end of the text. So no byte is ever lost or replaced.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pyramoe::data {

// The end of the word that starts at p; p < end. `p` must be the start of the text or the end of
// its previous word.
const char* next_word(const char* p, const char* end);

// All words of a text, in order; joined they are the text. One by the scanner, one by PCRE2.
std::vector<std::string_view> split_words(std::string_view text);
std::vector<std::string_view> split_words_pcre2(std::string_view text);

// The first place at or after `from` where text may be cut so that both parts, each split on its
// own, give the words of the whole: before white space that follows something else. text.size()
// if there is none.
size_t safe_cut(std::string_view text, size_t from);
// The last such place at or before `from`, looking back no more than `window` bytes; 0 if none.
size_t last_safe_cut(std::string_view text, size_t from, size_t window = SIZE_MAX);

}  // namespace pyramoe::data
