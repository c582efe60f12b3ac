// Learns a byte-level vocabulary from text: the most frequent pair becomes a token, again and
// again.
//
// One idea: a word that occurs a thousand times is merged once and counted a thousand times, and a
// merge touches only the words that have the pair. Counting words is spread over all threads; the
// result does not depend on how many. Ties go to the lower pair of token ids.
// Sennrich et al. 2016, algorithm 1. Read next: bpe.h, which uses what is learnt here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "data/bpe.h"

namespace pyramoe::data {

struct BpeTrainOptions {
  int64_t vocab_size = 8192;  // tokens in all: 256 bytes, the merges, "<|endoftext|>" (the last id)
  int64_t min_count = 2;      // a pair seen less often is not merged
  // Called now and then with (tokens so far, vocab_size).
  std::function<void(int64_t, int64_t)> progress;
};

class BpeTrainer {
 public:
  // Counts the words of documents; give many at a time, they are spread over the threads. Words
  // longer than kMaxWord bytes count as several.
  void add(std::span<const std::string> texts);
  int64_t bytes() const { return bytes_; }
  int64_t distinct_words() const { return static_cast<int64_t>(counts_.size()); }

  // The vocabulary of all that was added. It has fewer tokens than asked for when the text has no
  // more pairs to merge. Throws Error(config) unless 257 <= vocab_size <= 2^20.
  Bpe train(const BpeTrainOptions& options) const;

  static constexpr size_t kMaxWord = 512;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  using Counts = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;

  Counts counts_;
  int64_t bytes_ = 0;
};

}  // namespace pyramoe::data
