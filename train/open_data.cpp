#include "train/open_data.h"

#include "data/token_file.h"

namespace pyramoe::train {
namespace {

// "name=path", or a path whose stem is the name.
data::DomainSpec domain_spec(const std::string& text) {
  data::DomainSpec spec;
  const size_t equals = text.find('=');
  if (equals != std::string::npos) {
    spec.name = text.substr(0, equals);
    spec.path = text.substr(equals + 1);
  } else {
    const size_t begin = text.rfind('/') == std::string::npos ? 0 : text.rfind('/') + 1;
    spec.name = text.substr(begin, text.rfind('.') > begin ? text.rfind('.') - begin : text.npos);
    spec.path = text;
  }
  return spec;
}

// A source's size, for weights by size.
double source_weight(const data::DomainSpec& spec) {
  return static_cast<double>(data::TokenFile(spec.path, false).tokens());
}

data::CorpusConfig corpus_config(const RunConfig& config, const data::Tokenizer* tokenizer) {
  data::CorpusConfig corpus;
  corpus.vocab = config.model.vocab;
  corpus.val_fraction = config.data.val_fraction;
  corpus.seed = static_cast<uint64_t>(config.train.seed);
  corpus.tokenizer_hash = tokenizer ? tokenizer->hash() : 0;
  if (config.data.synthetic) {
    corpus.domains.push_back({"synthetic", data::kSynthetic, "", 1});
    return corpus;
  }
  check_has_data(config);
  for (size_t i = 0; i < config.data.sources.size(); ++i) {
    data::DomainSpec spec = domain_spec(config.data.sources[i]);
    if (!config.data.validation.empty())
      spec.val_path = domain_spec(config.data.validation.at(i)).path;
    spec.weight = config.data.weights.empty() ? source_weight(spec) : config.data.weights[i];
    corpus.domains.push_back(std::move(spec));
  }
  return corpus;
}

std::string order_of(const data::Corpus& corpus, int64_t seed) {
  std::string words = cat("train.seed ", seed);
  for (const data::Domain& domain : corpus.domains()) {
    words += cat("; ", domain.name, ": ", domain.train.size(), " tokens to train on, ",
                 domain.validation.size(), " to validate, weight ", domain.weight);
  }
  return words;
}

}  // namespace

void check_has_data(const RunConfig& config) {
  if (!config.data.synthetic && config.data.sources.empty()) {
    fail(Exit::config, "data.sources is empty: name the token files to train on (made by ",
         "`pyramoe tokenize prepare`), or set data.synthetic = true");
  }
}

OpenData open_data(const RunConfig& config) {
  OpenData open;
  if (!config.data.tokenizer.empty()) {
    open.tokenizer = data::load_tokenizer(config.data.tokenizer);
    if (open.tokenizer->vocab_size() > config.model.vocab) {
      fail(Exit::config, "data.tokenizer = ", config.data.tokenizer, " has ",
           open.tokenizer->vocab_size(), " tokens, model.vocab = ", config.model.vocab,
           "; set model.vocab to at least that");
    }
  }
  open.corpus = std::make_unique<data::Corpus>(corpus_config(config, open.tokenizer.get()));
  open.order = order_of(*open.corpus, config.train.seed);
  open.batches =
      std::make_unique<data::Batches>(*open.corpus, config.train.batch, config.model.context,
                                      static_cast<uint64_t>(config.train.seed));
  open.validation = std::make_unique<data::ValidationSet>(*open.corpus, config.model.context,
                                                          config.train.eval_sequences);
  return open;
}

}  // namespace pyramoe::train
