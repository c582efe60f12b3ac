// Byte-level byte-pair encoding, compatible with GPT-2.
//
// Text is cut into words (bpe_split.h); in each word the pair of neighbours with the lowest rank is
// merged, everywhere in the word, until no pair has a rank. Any bytes can be encoded, and
// decode(encode(bytes)) == bytes. A Bpe does not change once made: share it between threads.
// Radford et al. 2019, section 2.2; Sennrich et al. 2016. Read next: bpe.cpp, bpe_merge.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/pair_map.h"
#include "data/word_map.h"

namespace pyramoe::data {

inline constexpr const char* kEndOfText = "<|endoftext|>";

// The two halves of a merge, by token id.
using Merge = std::pair<int32_t, int32_t>;

class Bpe {
 public:
  // Reads the two files of GPT-2 (encoder.json, vocab.bpe) or Hugging Face (vocab.json,
  // merges.txt). Throws Error(data) if they are not a vocabulary: an id missing or given twice, one
  // of the 256 bytes without a token, a merge of or into something that is no token.
  static Bpe load(const std::string& vocab_path, const std::string& merges_path);
  // The same from the files' content; the paths are for messages.
  static Bpe parse(std::string_view vocab_json, std::string_view merges_text,
                   const std::string& vocab_path, const std::string& merges_path);

  //   names   token i as the vocabulary file writes it (byte_alphabet.h), special ones as they are
  //   merges  in order of rank
  Bpe(std::vector<std::string> names, const std::vector<Merge>& merges);

  // Token ids of any bytes. With `with_special`, "<|endoftext|>" in the text becomes the one token
  // eot(); otherwise it is text like any other.
  std::vector<int32_t> encode(std::string_view text, bool with_special = false) const;
  // The bytes of the tokens. Throws Error(data) on an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const { return static_cast<int64_t>(names_.size()); }
  int32_t eot() const { return eot_; }  // -1 if the vocabulary has no "<|endoftext|>"
  const std::string& bytes_of(int32_t id) const;
  const std::string& name_of(int32_t id) const { return names_.at(static_cast<size_t>(id)); }
  const std::vector<Merge>& merges() const { return merges_; }

  // The content of vocab.json and merges.txt in the form that Hugging Face reads.
  std::string vocab_json() const;
  std::string merges_text() const;

 private:
  void encode_text(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_words(std::string_view text, WordCache& cache, std::vector<int32_t>& ids) const;
  void encode_word(const char* p, size_t length, const char* end, WordCache& cache,
                   std::vector<int32_t>& ids) const;
  // Appends the merged tokens of one word (bpe_merge.cpp).
  void merge_word(const char* p, size_t length, std::vector<int32_t>& ids) const;
  void merge_short(const char* p, size_t length, std::vector<int32_t>& ids) const;
  void merge_long(const char* p, size_t length, std::vector<int32_t>& ids) const;
  void fill_words();

  std::vector<std::string> names_;
  std::vector<std::string> bytes_;
  std::vector<Merge> merges_;
  std::vector<int32_t> byte_ids_;  // token of each byte
  PairMap pairs_;
  WordMap words_;  // tokens that are found whole: encoding their bytes gives just them
  int32_t eot_ = -1;
};

}  // namespace pyramoe::data
