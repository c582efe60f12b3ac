// The pre-tokeniser's scanner, its table of character classes, and the places safe to cut at.
//
// One idea: a word is a run of one class (letters, numbers, the rest), perhaps with one blank in
// front; only white space looks ahead. The classes of all code points come from PCRE2, in
// bpe_split_pcre2.cpp.
#include "data/bpe_split.h"

#include <array>
#include <cstdint>

#include "data/bpe_classes.h"
#include "data/utf8.h"

namespace pyramoe::data {
namespace {

using enum CharClass;

constexpr bool ascii_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Classes of single bytes; `beyond` marks the start of something that is not ASCII.
constexpr std::array<CharClass, 256> make_byte_classes() {
  std::array<CharClass, 256> table{};
  for (int c = 0; c < 256; ++c) {
    const bool blank = c == ' ' || (c >= 9 && c <= 13);
    table[static_cast<size_t>(c)] = c >= 128               ? beyond
                                    : ascii_letter(c)      ? letter
                                    : c >= '0' && c <= '9' ? number
                                    : blank                ? space
                                                           : other;
  }
  return table;
}
constexpr std::array<CharClass, 256> kByteClass = make_byte_classes();

struct Char {
  CharClass kind;
  int length;
};

inline CharClass byte_class(const char* p) { return kByteClass[static_cast<uint8_t>(*p)]; }

inline Char wide_char_at(const char* p, const char* end) {
  const CodePoint c = decode_utf8(p, end);
  if (c.length == 0) return {broken, 1};
  return {class_of(c.value), c.length};
}

inline Char char_at(const char* p, const char* end) {
  const CharClass kind = byte_class(p);
  if (kind == beyond) [[unlikely]]
    return wide_char_at(p, end);
  return {kind, 1};
}

// The end of the run of `kind` that p is in.
inline const char* run_end(const char* p, const char* end, CharClass kind) {
  while (p < end) {
    const CharClass next = byte_class(p);
    if (next == kind) {
      ++p;
    } else if (next == beyond) {
      const Char wide = wide_char_at(p, end);
      if (wide.kind != kind) break;
      p += wide.length;
    } else {
      break;
    }
  }
  return p;
}

// 's 't 'm 'd 're 've 'll, lower-case ASCII only. Returns p if there is none.
inline const char* contraction_end(const char* p, const char* end) {
  const auto left = end - p;
  if (left < 2) return p;
  const char a = p[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
  if (left < 3) return p;
  const char b = p[2];
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
  return p;
}

// White space keeps its last character for the next word when one follows: \s+(?!\S)|\s+.
const char* space_end(const char* p, const char* end) {
  const char* last = p;  // start of the last white space character seen
  const char* q = p;
  while (q < end) {
    const Char c = char_at(q, end);
    if (c.kind != space) {
      if (c.kind == broken || last == p) return q;
      return last;
    }
    last = q;
    q += c.length;
  }
  return end;
}

// Is there a cut before text[at]: white space there, and before it a character that is not.
bool is_safe_cut(std::string_view text, size_t at) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (byte_class(begin + at) != space) return false;
  const CharClass before = byte_class(begin + at - 1);
  if (before != beyond) return before != space;
  for (size_t back = 2; back <= 4 && back <= at; ++back) {
    const CodePoint c = decode_utf8(begin + at - back, end);
    if (c.length == static_cast<int>(back)) return class_of(c.value) != space;
  }
  return false;
}

}  // namespace

const char* next_word(const char* p, const char* end) {
  const Char first = char_at(p, end);
  if (first.kind == space) {
    // One blank joins the word that follows it.
    if (*p == ' ' && p + 1 < end) {
      const Char second = char_at(p + 1, end);
      if (second.kind != space && second.kind != broken) {
        return run_end(p + 1 + second.length, end, second.kind);
      }
    }
    return space_end(p, end);
  }
  if (*p == '\'') {
    const char* q = contraction_end(p, end);
    if (q != p) return q;
  }
  return run_end(p + first.length, end, first.kind);
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* q = next_word(p, end);
    words.emplace_back(p, static_cast<size_t>(q - p));
    p = q;
  }
  return words;
}

size_t safe_cut(std::string_view text, size_t from) {
  for (size_t at = from == 0 ? 1 : from; at < text.size(); ++at) {
    if (is_safe_cut(text, at)) return at;
  }
  return text.size();
}

size_t last_safe_cut(std::string_view text, size_t from, size_t window) {
  if (text.empty()) return 0;
  const size_t first = from < text.size() ? from : text.size() - 1;
  const size_t stop = first > window ? first - window : 0;
  for (size_t at = first; at > stop; --at) {
    if (is_safe_cut(text, at)) return at;
  }
  return 0;
}

}  // namespace pyramoe::data
