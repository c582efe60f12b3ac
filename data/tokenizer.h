// One interface for all ways to turn text into token ids and back.
//
// Three kinds: "bpe" (GPT-2's, or one trained here), "byte" (256 bytes and the end of text) and
// "char" (the characters of a corpus, as nanoGPT's shakespeare_char). A tokenizer's folder holds
// pyramoe_tokenizer.json and, for bpe, vocab.json and merges.txt as Hugging Face names them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pyramoe::data {

class Bpe;

// A file by name (no folder) and content.
using NamedFile = std::pair<std::string, std::string>;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of a text. With `with_special`, "<|endoftext|>" in it becomes eot() where there is one.
  // Throws Error(data) if the text has a character that the tokenizer does not know ("char" only).
  virtual std::vector<int32_t> encode(std::string_view text, bool with_special = false) const = 0;
  // The bytes of one token. Throws Error(data) on an id outside the vocabulary.
  virtual std::string token(int32_t id) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int32_t eot() const = 0;  // -1: has none
  virtual std::string kind() const = 0;
  // All that load_tokenizer needs.
  virtual std::vector<NamedFile> files() const = 0;
  // The merges and names behind a "bpe"; nullptr for other kinds.
  virtual const Bpe* bpe() const { return nullptr; }

  std::string decode(std::span<const int32_t> ids) const;
  void save(const std::string& folder) const;
  // Tells tokenizers apart: a 64-bit hash of files(). Token files carry it.
  uint64_t hash() const;
};

std::unique_ptr<Tokenizer> make_bpe_tokenizer(Bpe bpe);
std::unique_ptr<Tokenizer> make_byte_tokenizer();
// The characters of a text, sorted; ids from 0. Throws Error(data) if it is empty or not UTF-8.
std::unique_ptr<Tokenizer> make_char_tokenizer(std::string_view corpus);

// A saved tokenizer, or a folder with vocab.json and merges.txt, or encoder.json and vocab.bpe.
// Throws Error(data) that names the file and what is wrong with it.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder);
// The same from files in memory (a checkpoint's copy); `where` is for messages.
std::unique_ptr<Tokenizer> tokenizer_from_files(const std::vector<NamedFile>& files,
                                                const std::string& where);

// Decodes token by token for a screen: shows only whole characters, holds back the bytes of one
// that is not complete yet.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  // What may be shown after this token; perhaps nothing.
  std::string push(int32_t id);
  // What is still held back, complete or not.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
};

}  // namespace pyramoe::data
