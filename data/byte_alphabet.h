// GPT-2's printable alphabet: each of the 256 bytes is written as one visible character.
//
// Vocabulary files are text, so bytes such as 0x20 or 0x0A cannot stand in them as they are.
// Bytes that are printable in Latin-1 stand for themselves; the other 68, in order, are the
// characters from U+0100 on (a blank becomes U+0120, "Ġ").
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "data/utf8.h"

namespace pyramoe::data {

inline bool byte_is_printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// The 256 bytes in the order of GPT-2's ids: printable ones first.
inline const std::array<uint8_t, 256>& bytes_in_gpt2_order() {
  static const std::array<uint8_t, 256> order = [] {
    std::array<uint8_t, 256> list{};
    size_t n = 0;
    for (const bool printable : {true, false}) {
      for (int b = 0; b < 256; ++b) {
        if (byte_is_printable(b) == printable) list[n++] = static_cast<uint8_t>(b);
      }
    }
    return list;
  }();
  return order;
}

inline const std::array<char32_t, 256>& byte_to_char() {
  static const std::array<char32_t, 256> table = [] {
    std::array<char32_t, 256> t{};
    char32_t next = 0x100;
    for (size_t b = 0; b < 256; ++b) {
      t[b] = byte_is_printable(static_cast<int>(b)) ? static_cast<char32_t>(b) : next++;
    }
    return t;
  }();
  return table;
}

// The byte that a character stands for, or -1.
inline int char_to_byte(char32_t c) {
  static const std::array<int, 0x144> table = [] {
    std::array<int, 0x144> t{};
    t.fill(-1);
    for (size_t b = 0; b < 256; ++b) t[byte_to_char()[b]] = static_cast<int>(b);
    return t;
  }();
  return c < table.size() ? table[c] : -1;
}

inline std::string to_alphabet(std::string_view bytes) {
  std::string text;
  for (const char b : bytes) append_utf8(text, byte_to_char()[static_cast<uint8_t>(b)]);
  return text;
}

// False when some character of `text` stands for no byte (such a token is a special one).
inline bool from_alphabet(std::string_view text, std::string& bytes) {
  bytes.clear();
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    const int byte = c.length == 0 ? -1 : char_to_byte(c.value);
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    p += c.length;
  }
  return true;
}

}  // namespace pyramoe::data
