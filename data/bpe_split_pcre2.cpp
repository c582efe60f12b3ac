// The only page that talks to PCRE2: the pattern as it is written in GPT-2, and what is a letter.
//
// Patterns are compiled with UTF and UCP and, where the library can, turned into machine code.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string>

#include "core/error.h"
#include "data/bpe_classes.h"
#include "data/bpe_split.h"
#include "data/utf8.h"

namespace pyramoe::data {
namespace {

// The members of White_Space; PCRE2's own \s also takes U+180E, which left the property in 2013.
#define PM_WHITE_SPACE                                                                        \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
  "\\x{205f}\\x{3000}"

constexpr const char* kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" PM_WHITE_SPACE
    "\\p{L}\\p{N}]+|[" PM_WHITE_SPACE "]+(?![^" PM_WHITE_SPACE "])|[" PM_WHITE_SPACE "]+";

class Pattern {
 public:
  explicit Pattern(const char* text) {
    int error = 0;
    size_t offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    PM_CHECK(code_, "pcre2: pattern refused, error ", error, " at ", offset, ": ", text);
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without JIT pcre2_match interprets
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    PM_CHECK(match_, "pcre2: no memory for a match");
  }

  // Calls found(begin, end) for every match in `text`, which must be valid UTF-8.
  template <class F>
  void for_each(std::string_view text, F&& found) const {
    size_t at = 0;
    while (at < text.size()) {
      const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(), at, PCRE2_NO_UTF_CHECK, match_.get(), nullptr);
      if (rc == PCRE2_ERROR_NOMATCH) return;
      PM_CHECK(rc > 0, "pcre2: match failed with ", rc);
      const size_t* range = pcre2_get_ovector_pointer(match_.get());
      PM_CHECK(range[1] > range[0], "pcre2: empty match");
      found(range[0], range[1]);
      at = range[1];
    }
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

constexpr char32_t kCodePoints = 0x110000;

std::vector<CharClass> make_classes() {
  std::vector<CharClass> table(kCodePoints, CharClass::other);
  // Text of all characters with the same length in bytes, so that places tell code points.
  const auto mark = [&](char32_t first, char32_t last, size_t length) {
    std::string text;
    text.reserve((last - first + 1) * length);
    for (char32_t c = first; c <= last; ++c) append_utf8(text, c);
    const auto set = [&](const char* pattern, CharClass kind) {
      Pattern(pattern).for_each(text, [&](size_t begin, size_t end) {
        for (size_t i = begin / length; i < end / length; ++i) table[first + i] = kind;
      });
    };
    set("\\p{L}+", CharClass::letter);
    set("\\p{N}+", CharClass::number);
    set("[" PM_WHITE_SPACE "]+", CharClass::space);
  };
  mark(0, 0x7F, 1);
  mark(0x80, 0x7FF, 2);
  mark(0x800, 0xD7FF, 3);
  mark(0xE000, 0xFFFF, 3);
  mark(0x10000, 0x10FFFF, 4);
  return table;
}

}  // namespace

const CharClass* unicode_classes() {
  static const std::vector<CharClass> table = make_classes();
  return table.data();
}

std::vector<std::string_view> split_words_pcre2(std::string_view text) {
  const Pattern pattern(kGpt2Pattern);
  std::vector<std::string_view> words;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const bool valid = decode_utf8(p, end).length > 0;
    const char* q = p;
    while (q < end) {
      const int length = decode_utf8(q, end).length;
      if ((length > 0) != valid) break;
      q += valid ? length : 1;
    }
    const std::string_view part(p, static_cast<size_t>(q - p));
    if (valid) {
      pattern.for_each(
          part, [&](size_t from, size_t to) { words.push_back(part.substr(from, to - from)); });
    } else {
      words.push_back(part);
    }
    p = q;
  }
  return words;
}

}  // namespace pyramoe::data
