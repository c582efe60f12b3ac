// The three tokenizers behind the interface.
#include "data/tokenizer.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/bpe.h"
#include "data/tokenizer_files.h"
#include "data/utf8.h"

namespace pyramoe::data {
namespace {

[[noreturn]] void fail_id(int32_t id, int64_t size) {
  fail(Exit::data, "decode: token id ", id, " is outside the vocabulary of ", size,
       " tokens; the tokens were made with another tokenizer");
}

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(Bpe bpe) : bpe_(std::move(bpe)) {}
  std::vector<int32_t> encode(std::string_view text, bool with_special) const override {
    return bpe_.encode(text, with_special);
  }
  std::string token(int32_t id) const override { return bpe_.bytes_of(id); }
  int64_t vocab_size() const override { return bpe_.vocab_size(); }
  int32_t eot() const override { return bpe_.eot(); }
  std::string kind() const override { return "bpe"; }
  std::vector<NamedFile> files() const override {
    return {{kTokenizerFile, tokenizer_json("bpe", vocab_size(), {})},
            {"vocab.json", bpe_.vocab_json()},
            {"merges.txt", bpe_.merges_text()}};
  }
  const Bpe* bpe() const override { return &bpe_; }

 private:
  Bpe bpe_;
};

class ByteTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, bool with_special) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size());
    const std::string_view mark = kEndOfText;
    while (!text.empty()) {
      if (with_special && text.starts_with(mark)) {
        ids.push_back(eot());
        text.remove_prefix(mark.size());
      } else {
        ids.push_back(static_cast<uint8_t>(text[0]));
        text.remove_prefix(1);
      }
    }
    return ids;
  }
  std::string token(int32_t id) const override {
    if (id < 0 || id > 256) fail_id(id, vocab_size());
    return id == 256 ? kEndOfText : std::string(1, static_cast<char>(id));
  }
  int64_t vocab_size() const override { return 257; }
  int32_t eot() const override { return 256; }
  std::string kind() const override { return "byte"; }
  std::vector<NamedFile> files() const override {
    return {{kTokenizerFile, tokenizer_json("byte", vocab_size(), {})}};
  }
};

class CharTokenizer : public Tokenizer {
 public:
  explicit CharTokenizer(std::vector<char32_t> chars) : chars_(std::move(chars)) {}

  std::vector<int32_t> encode(std::string_view text, bool /*with_special*/) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size());
    const char* end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const CodePoint c = decode_utf8(p, end);
      if (c.length == 0) {
        fail(Exit::data, "char tokenizer: byte ", p - text.data(),
             " of the text is not valid UTF-8; convert the text or use a byte-level tokenizer");
      }
      const auto found = std::lower_bound(chars_.begin(), chars_.end(), c.value);
      if (found == chars_.end() || *found != c.value) {
        fail(Exit::data, "char tokenizer: the character ",
             quoted(std::string_view(p, static_cast<size_t>(c.length))), " (U+", std::hex,
             static_cast<uint32_t>(c.value),
             ") was not in the text it was made from; use one of its ", std::dec, chars_.size(),
             " characters or a byte-level tokenizer");
      }
      ids.push_back(static_cast<int32_t>(found - chars_.begin()));
      p += c.length;
    }
    return ids;
  }
  std::string token(int32_t id) const override {
    if (id < 0 || id >= vocab_size()) fail_id(id, vocab_size());
    std::string text;
    append_utf8(text, chars_[static_cast<size_t>(id)]);
    return text;
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(chars_.size()); }
  int32_t eot() const override { return -1; }
  std::string kind() const override { return "char"; }
  std::vector<NamedFile> files() const override {
    return {{kTokenizerFile, tokenizer_json("char", vocab_size(), chars_)}};
  }

 private:
  std::vector<char32_t> chars_;  // sorted; a character's id is its place
};

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += token(id);
  return text;
}

void Tokenizer::save(const std::string& folder) const {
  make_folders(folder, Exit::data);
  for (const auto& [name, content] : files()) {
    write_file(folder + "/" + name, content, Exit::data);
  }
}

uint64_t Tokenizer::hash() const {
  std::string all;
  for (const auto& [name, content] : files()) all += cat(name, '\0', content.size(), '\0', content);
  return hash_name(all);
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(Bpe bpe) {
  return std::make_unique<BpeTokenizer>(std::move(bpe));
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> make_char_tokenizer(std::vector<char32_t> sorted_chars) {
  return std::make_unique<CharTokenizer>(std::move(sorted_chars));
}

std::unique_ptr<Tokenizer> make_char_tokenizer(std::string_view corpus) {
  std::set<char32_t> chars;
  const char* end = corpus.data() + corpus.size();
  for (const char* p = corpus.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);
    if (c.length == 0) {
      fail(Exit::data, "char tokenizer: byte ", p - corpus.data(),
           " of the corpus is not valid UTF-8; convert the text or use a byte-level tokenizer");
    }
    chars.insert(c.value);
    p += c.length;
  }
  if (chars.empty()) fail(Exit::data, "char tokenizer: the corpus is empty; give it some text");
  return make_char_tokenizer(std::vector<char32_t>(chars.begin(), chars.end()));
}

std::string StreamDecoder::push(int32_t id) {
  held_ += tokenizer_->token(id);
  const size_t whole = complete_prefix(held_);
  std::string text = held_.substr(0, whole);
  held_.erase(0, whole);
  return text;
}

std::string StreamDecoder::finish() { return std::exchange(held_, {}); }

}  // namespace pyramoe::data
