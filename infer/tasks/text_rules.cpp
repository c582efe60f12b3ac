// See text_rules.h. Code points come from data/utf8.h; bytes that are no character stand for
// themselves.
#include "infer/tasks/text_rules.h"

#include <algorithm>

#include "data/utf8.h"

namespace pyramoe::infer {
namespace {

// str.isspace(): White_Space and the four information separators.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// The character at the front; its value is that of the byte where none starts.
data::CodePoint front(std::string_view text) {
  const data::CodePoint c = data::decode_utf8(text.data(), text.data() + text.size());
  if (c.length > 0) return c;
  return {0xDC00u + static_cast<uint8_t>(text[0]), 1};
}

char32_t lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c < 0x100) return c >= 0xC0 && c <= 0xDE && c != 0xD7 ? c + 32 : c;
  if (c < 0x180) {  // Latin Extended-A: pairs, whose capital is even, odd from 139 to 148 and 179
    if (c == 0x130 || c == 0x131 || c == 0x138 || c == 0x149 || c == 0x17F) return c;
    if (c == 0x178) return 0xFF;
    const bool odd_capitals = (c >= 0x139 && c <= 0x148) || c >= 0x179;
    return (c % 2 == 1) == odd_capitals ? c + 1 : c;
  }
  if (c >= 0x391 && c <= 0x3AB && c != 0x3A2) return c + 32;
  if (c == 0x386) return 0x3AC;
  if (c >= 0x388 && c <= 0x38A) return c + 37;
  if (c == 0x38C) return 0x3CC;
  if (c == 0x38E || c == 0x38F) return c + 63;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  const bool pairs = (c >= 0x1E00 && c <= 0x1E95) || (c >= 0x1EA0 && c <= 0x1EFF);
  return pairs && c % 2 == 0 ? c + 1 : c;
}

bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

}  // namespace

size_t rstripped_size(std::string_view text) {
  size_t kept = 0;
  for (size_t i = 0; i < text.size();) {
    const data::CodePoint c = front(text.substr(i));
    i += static_cast<size_t>(c.length);
    if (!is_space(c.value)) kept = i;
  }
  return kept;
}

std::string_view lstrip(std::string_view text) {
  while (!text.empty()) {
    const data::CodePoint c = front(text);
    if (!is_space(c.value)) break;
    text.remove_prefix(static_cast<size_t>(c.length));
  }
  return text;
}

int64_t count_characters(std::string_view text) {
  int64_t count = 0;
  for (size_t i = 0; i < text.size(); ++count) {
    i += static_cast<size_t>(front(text.substr(i)).length);
  }
  return count;
}

std::string lower(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const data::CodePoint c = front(text.substr(i));
    const char32_t small = lower(c.value);
    if (small == c.value) {
      out += text.substr(i, static_cast<size_t>(c.length));
    } else {
      data::append_utf8(out, small);
    }
    i += static_cast<size_t>(c.length);
  }
  return out;
}

std::string without_punctuation(std::string_view text) {
  std::string out(text);
  std::erase_if(out, is_punctuation);
  return out;
}

std::string normalised_answer(std::string_view text) { return without_punctuation(lower(text)); }

std::string without_csv_quotes(std::string_view text) {
  if (text.size() < 2 || text.front() != '"' || text.back() != '"') return std::string(text);
  std::string out;
  const std::string_view inside = text.substr(1, text.size() - 2);
  for (size_t i = 0; i < inside.size(); ++i) {
    out += inside[i];
    if (inside[i] != '"') continue;
    // A lone quote inside: the outer two were not a CSV writer's.
    if (i + 1 == inside.size() || inside[i + 1] != '"') return std::string(text);
    ++i;
  }
  return out;
}

std::vector<std::string> without_prefixed(std::vector<std::string> answers) {
  std::sort(answers.begin(), answers.end());
  std::vector<std::string> kept;
  for (std::string& answer : answers) {
    if (kept.empty() || !answer.starts_with(kept.back())) kept.push_back(std::move(answer));
  }
  return kept;
}

}  // namespace pyramoe::infer
