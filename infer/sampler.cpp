// Temperature, then top-k, then top-p, then one draw from what is left. All in double.
#include "infer/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace pyramoe::infer {
namespace {

// Calls f(token, logit) for the first `vocab` logits.
template <class F>
void each_logit(const Tensor& logits, int64_t vocab, F&& f) {
  PM_CHECK(vocab >= 1 && vocab <= logits.numel(), "sampler: ", vocab, " tokens but ",
           logits.numel(), " logits");
  visit_floating(logits.dtype(), [&]<class T>() {
    const T* row = logits.data<T>();
    for (int64_t i = 0; i < vocab; ++i) f(static_cast<int32_t>(i), static_cast<double>(row[i]));
  });
}

[[noreturn]] void fail_non_finite(int32_t token, double logit) {
  fail(Exit::non_finite, "sampler: the logit of token ", token, " is ", logit,
       "; the model's weights are damaged or have diverged (try an earlier checkpoint)");
}

}  // namespace

int32_t greedy_token(const Tensor& logits, int64_t vocab) {
  int32_t best = 0;
  double best_logit = -INFINITY;
  each_logit(logits, vocab, [&](int32_t token, double logit) {
    if (!(logit < INFINITY)) fail_non_finite(token, logit);
    if (logit > best_logit) {
      best = token;
      best_logit = logit;
    }
  });
  if (best_logit == -INFINITY) fail_non_finite(0, best_logit);
  return best;
}

Sampler::Sampler(const SampleOptions& options) : options_(options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    fail(Exit::config, "temperature: expected a number >= 0 (0 = greedy), got ",
         options.temperature);
  }
  if (options.top_k < 0) fail(Exit::config, "top-k: expected >= 0 (0 = all), got ", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    fail(Exit::config, "top-p: expected a share in (0, 1], got ", options.top_p);
  }
}

int32_t Sampler::choose(const Tensor& logits, int64_t vocab, int64_t sample, int64_t position) {
  if (options_.temperature == 0 || options_.top_k == 1) return greedy_token(logits, vocab);
  candidates_.clear();
  double max = -INFINITY;
  each_logit(logits, vocab, [&](int32_t token, double logit) {
    if (!(logit < INFINITY)) fail_non_finite(token, logit);
    max = std::max(max, logit);
    candidates_.push_back({logit, token});
  });
  if (max == -INFINITY) fail_non_finite(0, max);

  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  };
  const auto k = static_cast<size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k - 1),
                     candidates_.end(), before);
    candidates_.resize(k);
  }
  // A fixed order, so that the draw does not depend on how nth_element left things.
  if (options_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), before);
  } else if (k > 0) {
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  }
  weights_.resize(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    weights_[i] = std::exp((candidates_[i].logit - max) / options_.temperature);
    total += weights_[i];
  }
  if (options_.top_p < 1) total = keep_top_p(total);

  const RngKey key{options_.seed, RngPurpose::sampling, 0, 0};
  const Philox4 word =
      philox(key, static_cast<uint64_t>(sample) << 32 ^ static_cast<uint64_t>(position));
  const uint64_t bits = static_cast<uint64_t>(word.v[0]) << 32 | word.v[1];
  const double u = static_cast<double>(bits >> 11) * 0x1p-53;  // [0, 1)
  return draw(u, total);
}

// Cuts the sorted candidates after the first that reaches the share; returns the weight left.
double Sampler::keep_top_p(double total) {
  double sum = 0;
  size_t kept = 0;
  while (kept < weights_.size() && (kept == 0 || sum < options_.top_p * total)) {
    sum += weights_[kept++];
  }
  candidates_.resize(kept);
  weights_.resize(kept);
  return sum;
}

int32_t Sampler::draw(double u, double total) const {
  double left = u * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].token;
  }
  // Rounding may leave a crumb: the last token that could have been drawn takes it.
  for (size_t i = weights_.size(); i-- > 0;) {
    if (weights_[i] > 0) return candidates_[i].token;
  }
  return candidates_.back().token;
}

}  // namespace pyramoe::infer
