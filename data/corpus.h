// The domains a model is trained on: named sources of tokens, each parted into train and
// validation.
//
// A source is a token file or `synthetic`, an endless text of random runs that needs no file. Of
// each file the last part (val_fraction) is for validation, unless the domain has a file for that.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pyramoe::data {

// Tokens by position, from wherever they come.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual int64_t tokens() const = 0;
  // Tokens [begin, begin + out.size()); throws Error(data) if one is outside the vocabulary.
  virtual void read(int64_t begin, std::span<int32_t> out) const = 0;
};

inline constexpr const char* kSynthetic = "synthetic";

struct DomainSpec {
  std::string name;
  std::string path;      // a token file, or "synthetic"
  std::string val_path;  // a token file for validation; empty: the last part of `path`
  double weight = 1;     // share of the training samples, relative to the other domains
};

struct CorpusConfig {
  std::vector<DomainSpec> domains;
  int64_t vocab = 0;           // every token must be below
  double val_fraction = 0.05;  // of each file without a val_path; 0: no validation
  uint64_t seed = 0;           // of the synthetic text
  uint64_t tokenizer_hash =
      0;               // files made with another tokenizer are refused; 0: the first file's counts
  bool verify = true;  // compare the checksums of token files once
};

// Tokens [begin, end) of a source.
struct TokenRange {
  const TokenSource* source = nullptr;
  int64_t begin = 0, end = 0;
  std::string from;  // the file, for messages
  int64_t size() const { return end - begin; }
};

struct Domain {
  std::string name;
  double weight = 1;
  TokenRange train, validation;
};

class Corpus {
 public:
  // Throws Error(data) on a bad file, Error(config) on settings that contradict each other.
  explicit Corpus(CorpusConfig config);

  const std::vector<Domain>& domains() const { return domains_; }
  std::vector<std::string> names() const;

 private:
  TokenRange open(const std::string& path, CorpusConfig& config, size_t domain);

  std::vector<std::unique_ptr<TokenSource>> sources_;
  std::vector<Domain> domains_;
};

// Text of runs of about 16 tokens. A run starts at a random token (small ids more often) and goes
// on by a fixed rule, next = (a * token + c) mod vocab, so a model learns 15 of 16 tokens from the
// token before. Needs vocab >= 2.
std::unique_ptr<TokenSource> make_synthetic_source(int64_t vocab, uint64_t seed, int64_t tokens);

}  // namespace pyramoe::data
