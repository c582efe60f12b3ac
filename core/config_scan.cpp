// One pass over TOML: strings, comments, and what is outside of them.
//
// The text need not be right. Up to the first mistake this scanner and the parser see the same
// strings; after it the parser has given up, and all that counts is that it was given ASCII.
#include "core/config_scan.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace pyramoe {
namespace {

bool is_foreign(char c) { return static_cast<unsigned char>(c) >= 0x80; }

class Scanner {
 public:
  Scanner(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  std::string run() {
    if (!is_utf8(text_)) refuse_bytes();
    out_.reserve(text_.size() + 64);
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;  // a byte order mark
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"' || c == '\'')
        string(c);
      else if (c == '#')
        comment();
      else
        bare(c);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const {
    fail(Exit::config, what_, ":", line_, ": not valid TOML: ", problem);
  }
  // Finds the line of the bytes that are no UTF-8.
  [[noreturn]] void refuse_bytes() {
    std::string_view rest = text_;
    for (std::string_view line; !rest.empty(); ++line_) {
      line = rest.substr(0, rest.find('\n'));
      if (!is_utf8(line)) break;
      rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    }
    refuse("the text is not UTF-8");
  }

  void bare(char c) {
    if (is_foreign(c)) {
      const std::string_view rest = text_.substr(at_);
      const std::string_view word = rest.substr(0, rest.find_first_of(" \t\r\n=,]}"));
      refuse(quoted(word, 40) + " must be inside quotes or a comment");
    }
    if (c == '\n') ++line_;
    if (c == '.' && ++dots_ >= kMaxKeyParts)
      refuse(cat("a key of more than ", kMaxKeyParts, " parts"));
    if (std::string_view("\n=,[]{}").find(c) != std::string_view::npos) dots_ = 0;
    out_ += c;
    ++at_;
  }

  void comment() {
    for (; at_ < text_.size() && text_[at_] != '\n'; ++at_)
      if (!is_foreign(text_[at_])) out_ += text_[at_];
  }

  // Copies a string with its quotes. One with foreign letters becomes a "basic" one with escapes.
  void string(char quote) {
    const bool is_long = text_.substr(at_, 3) == std::string(3, quote);
    const size_t width = is_long ? 3 : 1;
    const size_t begin = at_ + width;
    const size_t end = end_of_string(begin, quote, is_long);
    const std::string_view body = text_.substr(begin, end - begin);
    if (std::none_of(body.begin(), body.end(), is_foreign)) {
      out_ += text_.substr(at_, end + width - at_);
    } else {
      out_.append(width, '"');
      for (size_t i = 0; i < body.size();) i += put(body.substr(i), quote == '\'');
      out_.append(width, '"');
    }
    at_ = end + width;
  }

  // The place of the closing quotes.
  size_t end_of_string(size_t begin, char quote, bool is_long) {
    const std::string close(is_long ? 3 : 1, quote);
    for (size_t i = begin; i < text_.size(); ++i) {
      if (text_[i] == '\n' && !is_long) break;
      if (text_[i] == '\n') ++line_;
      if (text_[i] == '\\' && quote == '"') {
        // Skips what is escaped, but for the end of a line that goes on in the next.
        if (i + 1 < text_.size() && is_foreign(text_[i + 1])) refuse("an unknown escape in a text");
        if (text_.substr(i + 1, 1) != "\n") ++i;
        continue;
      }
      if (text_.substr(i, close.size()) != close) continue;
      // A long string may end in up to two quotes of its own.
      for (int extra = 0; is_long && extra < 2 && text_.substr(i + 1, 3) == close; ++extra) ++i;
      return i;
    }
    refuse("a text without its closing quotes");
  }

  // Copies one character of a string; returns its length.
  size_t put(std::string_view rest, bool was_literal) {
    const char c = rest[0];
    if (!is_foreign(c)) {
      if (was_literal && (c == '"' || c == '\\')) out_ += '\\';
      out_ += c;
      return 1;
    }
    const auto byte = [&](size_t i) {
      return static_cast<uint32_t>(static_cast<uint8_t>(rest[i]));
    };
    const size_t length = byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
    uint32_t code = byte(0) & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; ++i) code = (code << 6) | (byte(i) & 0x3fu);
    out_ += "\\U";
    for (int shift = 28; shift >= 0; shift -= 4) out_ += "0123456789abcdef"[(code >> shift) & 15u];
    return length;
  }

  std::string_view text_;
  const std::string& what_;
  std::string out_;
  size_t at_ = 0;
  int64_t line_ = 1;
  int64_t dots_ = 0;
};

}  // namespace

std::string scan_toml(std::string_view text, const std::string& what) {
  return Scanner(text, what).run();
}

}  // namespace pyramoe
