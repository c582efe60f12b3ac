// Opening domains, and the synthetic text.
#include "data/corpus.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "data/token_file.h"

namespace pyramoe::data {
namespace {

constexpr int64_t kSyntheticTokens = int64_t{1} << 26;
constexpr int64_t kRun = 16;

class FileSource : public TokenSource {
 public:
  FileSource(const std::string& path, const CorpusConfig& config)
      : file_(path, config.verify), vocab_(config.vocab) {
    const TokenLayout& layout = file_.layout();
    if (layout.vocab_size > vocab_) {
      fail(Exit::data, path, ": made with a vocabulary of ", layout.vocab_size,
           " tokens, but the model has ", vocab_, "; set model.vocab to ", layout.vocab_size,
           " or more, or prepare the data with the model's tokenizer");
    }
    const uint64_t hash = layout.tokenizer_hash;
    if (config.tokenizer_hash != 0 && hash != 0 && hash != config.tokenizer_hash) {
      fail(Exit::data, path,
           ": made with another tokenizer than the one of this run; prepare the "
           "data again with the same tokenizer, or name the tokenizer it was made with");
    }
  }
  uint64_t tokenizer_hash() const { return file_.layout().tokenizer_hash; }
  int64_t tokens() const override { return file_.tokens(); }
  void read(int64_t begin, std::span<int32_t> out) const override {
    file_.read(begin, out, vocab_);
  }

 private:
  TokenFile file_;
  int64_t vocab_;
};

class SyntheticSource : public TokenSource {
 public:
  SyntheticSource(int64_t vocab, uint64_t seed, int64_t tokens)
      : vocab_(static_cast<uint64_t>(vocab)),
        tokens_(tokens),
        key_{.seed = seed, .purpose = RngPurpose::synthetic_data} {
    PM_CHECK(vocab >= 2 && vocab <= std::numeric_limits<int32_t>::max(),
             "synthetic text: vocabulary ", vocab, ", expected 2 or more");
    const Philox4 rule = philox(key_, ~uint64_t{0});
    factor_ = rule.v[0] % vocab_;
    while (std::gcd(factor_, vocab_) != 1) factor_ = (factor_ + 1) % vocab_;
    shift_ = 1 + rule.v[1] % (vocab_ - 1);
  }
  int64_t tokens() const override { return tokens_; }
  void read(int64_t begin, std::span<int32_t> out) const override {
    PM_CHECK(begin >= 0 && begin <= tokens_ - static_cast<int64_t>(out.size()),
             "synthetic text: tokens from ", begin, " of ", tokens_);
    const int64_t end = begin + static_cast<int64_t>(out.size());
    int64_t run = begin / kRun;
    if (begin < start_of(run)) --run;
    uint64_t token = first_of(run);
    int64_t next = start_of(run + 1);
    for (int64_t at = start_of(run); at < end; ++at) {
      if (at == next) {
        token = first_of(++run);
        next = start_of(run + 1);
      }
      if (at >= begin) out[static_cast<size_t>(at - begin)] = static_cast<int32_t>(token);
      token = (factor_ * token + shift_) % vocab_;
    }
  }

 private:
  // Runs start at places that cannot be told from a position: one in each stretch of kRun tokens.
  int64_t start_of(int64_t run) const {
    if (run <= 0) return 0;
    return run * kRun + random_u32(key_, 2 * static_cast<uint64_t>(run)) % kRun;
  }
  uint64_t first_of(int64_t run) const {
    const double u = random_uniform(key_, 2 * static_cast<uint64_t>(std::max<int64_t>(run, 0)) + 1);
    return static_cast<uint64_t>(u * u * u * static_cast<double>(vocab_));
  }

  uint64_t vocab_;
  int64_t tokens_;
  RngKey key_;
  uint64_t factor_ = 1, shift_ = 1;
};

}  // namespace

std::unique_ptr<TokenSource> make_synthetic_source(int64_t vocab, uint64_t seed, int64_t tokens) {
  return std::make_unique<SyntheticSource>(vocab, seed, tokens);
}

TokenRange Corpus::open(const std::string& path, CorpusConfig& config, size_t domain) {
  if (path == kSynthetic) {
    sources_.push_back(make_synthetic_source(config.vocab, config.seed + domain, kSyntheticTokens));
  } else {
    auto file = std::make_unique<FileSource>(path, config);
    // Of a run that names no tokenizer, all files must be of one.
    if (config.tokenizer_hash == 0) config.tokenizer_hash = file->tokenizer_hash();
    sources_.push_back(std::move(file));
  }
  return {sources_.back().get(), 0, sources_.back()->tokens(), path};
}

Corpus::Corpus(CorpusConfig config) {
  if (config.domains.empty()) {
    fail(Exit::config, "data: no domains; name at least one token file, or \"", kSynthetic, "\"");
  }
  if (!(config.val_fraction >= 0 && config.val_fraction < 1)) {
    fail(Exit::config, "data: val_fraction = ", config.val_fraction, "; expected 0 to below 1");
  }
  if (config.vocab < 2) {
    fail(Exit::config, "data: a vocabulary of ", config.vocab, " tokens; expected 2 or more");
  }
  std::set<std::string> names;
  for (size_t d = 0; d < config.domains.size(); ++d) {
    const DomainSpec& spec = config.domains[d];
    if (!names.insert(spec.name).second) {
      fail(Exit::config, "data: two domains are named \"", spec.name, "\"; give each its own name");
    }
    Domain domain{spec.name, spec.weight, open(spec.path, config, d), {}};
    if (!spec.val_path.empty()) {
      const bool same = spec.val_path == spec.path;  // not to be opened and verified twice
      domain.validation = same ? domain.train : open(spec.val_path, config, d);
    } else {
      domain.validation = domain.train;
      const auto held = static_cast<int64_t>(
          std::floor(config.val_fraction * static_cast<double>(domain.train.end)));
      domain.train.end -= held;
      domain.validation.begin = domain.train.end;
    }
    domains_.push_back(std::move(domain));
  }
}

std::vector<std::string> Corpus::names() const {
  std::vector<std::string> list;
  for (const Domain& domain : domains_) list.push_back(domain.name);
  return list;
}

}  // namespace pyramoe::data
