// Choosing the next token from logits.
//
// A draw depends on (seed, sample, position) and the logits only: the same seed gives the same
// text, alone or in a batch, on any device.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace pyramoe::infer {

struct SampleOptions {
  double temperature = 0.8;  // 0: the most likely token, always
  int64_t top_k = 200;       // only the k most likely; 0 = all
  double top_p = 1;          // of those, the fewest that hold this share of probability
  uint64_t seed = 1337;
};

class Sampler {
 public:
  // Throws Error(config) that names the option, its range and its value.
  explicit Sampler(const SampleOptions& options);

  // The token after `position` tokens of text number `sample`.
  //   logits  row of at least `vocab` values on the CPU, floating; entries from `vocab` on are
  //           padding and never chosen
  // Equal logits: the lower token wins. Throws Error(non_finite) if no choice can be made.
  int32_t choose(const Tensor& logits, int64_t vocab, int64_t sample, int64_t position);

  const SampleOptions& options() const { return options_; }

 private:
  struct Candidate {
    double logit;
    int32_t token;
  };
  int32_t draw(double u, double total) const;
  double keep_top_p(double total);

  SampleOptions options_;
  std::vector<Candidate> candidates_;  // reused from call to call
  std::vector<double> weights_;
};

// The most likely of the first `vocab` tokens. Throws Error(non_finite) as Sampler::choose.
int32_t greedy_token(const Tensor& logits, int64_t vocab);

}  // namespace pyramoe::infer
