// UTF-8, strictly: one code point at a time, nothing overlong, no surrogates, nothing past
// U+10FFFF.
//
// Text that comes from outside may hold anything; whoever reads it asks here what is a character
// and decides itself what to do with bytes that are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pyramoe::data {

struct CodePoint {
  char32_t value = 0;
  int length = 0;  // bytes; 0 = no valid character starts here
};

// The character that starts at p (p < end).
inline CodePoint decode_utf8(const char* p, const char* end) {
  const auto byte = [&](int i) { return static_cast<uint8_t>(p[i]); };
  const auto tail = [&](int i) { return (byte(i) & 0xC0u) == 0x80u; };
  const auto bits = [&](int i) { return static_cast<char32_t>(byte(i) & 0x3Fu); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xC2) return {};
  if (lead < 0xE0) {
    if (end - p < 2 || !tail(1)) return {};
    return {static_cast<char32_t>(lead & 0x1Fu) << 6 | bits(1), 2};
  }
  if (lead < 0xF0) {
    if (end - p < 3 || !tail(1) || !tail(2)) return {};
    const char32_t c = static_cast<char32_t>(lead & 0x0Fu) << 12 | bits(1) << 6 | bits(2);
    if (c < 0x800 || (c >= 0xD800 && c < 0xE000)) return {};
    return {c, 3};
  }
  if (lead >= 0xF5 || end - p < 4 || !tail(1) || !tail(2) || !tail(3)) return {};
  const char32_t c =
      static_cast<char32_t>(lead & 0x07u) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
  if (c < 0x10000 || c > 0x10FFFF) return {};
  return {c, 4};
}

inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

// Bytes of the longest prefix that does not end inside a character: what a stream may show now.
// Bytes that can never become a character are not held back.
inline size_t complete_prefix(std::string_view text) {
  const size_t size = text.size();
  for (size_t back = 1; back <= 3 && back <= size; ++back) {
    const auto lead = static_cast<uint8_t>(text[size - back]);
    if ((lead & 0xC0u) == 0x80u) continue;  // a tail byte: its lead is further back
    const size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
    if (lead >= 0xF5 || back >= wanted) return size;
    // Only hold back what some further bytes complete: try the lowest and highest second byte.
    std::string tail(text.substr(size - back));
    for (const char filler : {'\x80', '\xBF'}) {
      std::string whole = tail + std::string(wanted - back, filler);
      if (decode_utf8(whole.data(), whole.data() + whole.size()).length != 0) return size - back;
    }
    return size;
  }
  return size;
}

}  // namespace pyramoe::data
