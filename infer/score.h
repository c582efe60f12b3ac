// What a model thinks of given continuations: log-likelihood, and whether it would have said them.
//
// One idea: a request's score depends on its tokens alone. Requests run together are padded on the
// right, where causal attention cannot see, so any batch size and any order give the same bits.
// Rules of splitting and cutting are lm-eval's. Read next: tasks/task.h, evaluate.h.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "infer/session.h"

namespace pyramoe::infer {

struct ScoreRequest {
  Tokens context;       // not empty
  Tokens continuation;  // not empty
};

struct Score {
  double log_likelihood = 0;  // sum over the continuation's tokens, nats
  bool greedy = false;        // each token was the most likely one
  int64_t tokens = 0;         // of the continuation
  bool cut = false;           // the continuation alone was longer than the model's context
};

// Called as work goes on.
using OnProgress = std::function<void(int64_t done, int64_t total)>;

// Splits as lm-eval does: blanks at the context's end go to the continuation, both are encoded as
// one text, and what exceeds the tokens of the context alone is the continuation. An empty context
// becomes start_token().
ScoreRequest encode_request(const data::Tokenizer& tokenizer, const std::string& context,
                            const std::string& continuation);

//   vocab       tokens of the tokenizer (head.h); 0 = all of the model's
//   batch_size  requests in one pass; 0 = as many as fit kTokensPerPass
// Of requests longer than the model's context the beginning is cut off.
std::vector<Score> score(nn::Gpt& model, int64_t vocab, const std::vector<ScoreRequest>& requests,
                         int64_t batch_size = 0, Device device = kCpu,
                         const OnProgress& progress = {});

inline constexpr int64_t kTokensPerPass = 4096;

// Cuts the numbers 0 … n-1, sorted by falling length, into batches.
std::vector<std::vector<size_t>> batches_by_length(const std::vector<int64_t>& lengths,
                                                   int64_t batch_size);

// Greedy answers to contexts, each ended by one of `until`, the end-of-text token or `max_tokens`.
// A context longer than model.context - max_tokens loses its beginning.
std::vector<std::string> answer_greedily(nn::Gpt& model, const data::Tokenizer& tokenizer,
                                         const std::vector<Tokens>& contexts,
                                         const std::vector<std::string>& until, int64_t max_tokens,
                                         int64_t batch_size = 0, Device device = kCpu,
                                         const OnProgress& progress = {});

}  // namespace pyramoe::infer
