// What a run reads: its corpus, the batches drawn from it, the validation set and the tokenizer.
#pragma once

#include <memory>
#include <string>

#include "data/batches.h"
#include "data/tokenizer.h"
#include "train/run_config.h"

namespace pyramoe::train {

struct OpenData {
  std::unique_ptr<data::Corpus> corpus;
  std::unique_ptr<data::Batches> batches;
  std::unique_ptr<data::ValidationSet> validation;
  std::unique_ptr<data::Tokenizer> tokenizer;  // null when the config names none
  // What decides which tokens a step reads and which are kept for validation, in words. Where the
  // files lie does not.
  std::string order;
};

// Throws Error(data) for files that are missing or damaged, Error(config) when there is nothing to
// train on or the tokenizer has more tokens than model.vocab.
// Throws Error(config) when the config names nothing to train on.
void check_has_data(const RunConfig& config);
OpenData open_data(const RunConfig& config);

}  // namespace pyramoe::train
