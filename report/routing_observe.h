// What a trained model does with validation text: which experts read it, layer by layer, and in
// which company. One forward pass without the head over some thousand tokens of each domain.
#pragma once

#include <string>
#include <vector>

#include "report/routing_math.h"
#include "train/run_config.h"

namespace pyramoe::report {

// A piece of text that was read: one token, or those that share a character.
struct ReadToken {
  std::string text;  // raw bytes
  struct Choice {
    int32_t expert = 0;  // the first choice
    double probability = 0;
  };
  std::vector<Choice> layers;  // of each layer of experts
};

struct SampleText {
  std::string domain;
  std::vector<ReadToken> tokens;
};

// A token that an expert reads more often than others do.
struct Favourite {
  std::string text;
  int64_t count = 0;
  double times = 0;  // its share of this expert's tokens over its share of all tokens
};

struct LayerObservation {
  int64_t block = 0, experts = 0;
  Counts by_domain;        // (domains, experts): choices
  Counts together;         // (experts, experts) of one token, off the diagonal; empty for top-1
  Counts next;             // (experts, experts of the next layer of experts); empty for the last
  double entropy = 0;      // of a token's probabilities over log E, mean
  double probability = 0;  // the largest one, mean
  std::vector<std::vector<Favourite>> favourites;  // of each expert
};

struct Observation {
  int64_t step = 0;    // of the checkpoint
  int64_t tokens = 0;  // that went through
  std::vector<std::string> domains;
  std::vector<LayerObservation> layers;
  std::vector<SampleText> samples;  // one a domain
};

// Reads the newest intact checkpoint of a run and its data, with the run's own copy of the
// tokenizer. Throws Error(checkpoint) or Error(data) when one of them is not there.
//   tokens  of each domain
Observation observe(const std::string& run, const train::RunConfig& config, int64_t tokens);

}  // namespace pyramoe::report
