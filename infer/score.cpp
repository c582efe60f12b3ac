// See score.h. Only the rows that predict a continuation's tokens reach the head.
#include "infer/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/kernels/loss.h"
#include "core/parallel.h"
#include "infer/generate.h"
#include "infer/tasks/text_rules.h"

namespace pyramoe::infer {
namespace {

// A request as the model reads it: `input` without the last token, whose last `targets.size()`
// positions predict `targets`.
struct Prepared {
  Tokens input;
  Tokens targets;
};

Prepared prepare(const ScoreRequest& request, int64_t context, Score& score) {
  PM_CHECK(!request.context.empty() && !request.continuation.empty(),
           "score: a request needs a context and a continuation");
  Tokens whole = request.context;
  whole.insert(whole.end(), request.continuation.begin(), request.continuation.end());
  const auto most = static_cast<size_t>(context) + 1;
  if (whole.size() > most) whole.erase(whole.begin(), whole.end() - static_cast<ptrdiff_t>(most));
  Prepared out;
  out.input.assign(whole.begin(), whole.end() - 1);
  score.cut = request.continuation.size() > out.input.size();
  const size_t count = std::min(request.continuation.size(), out.input.size());
  out.targets.assign(whole.end() - static_cast<ptrdiff_t>(count), whole.end());
  score.tokens = static_cast<int64_t>(count);
  return out;
}

struct TokenScore {
  double log_likelihood;
  bool greedy;
};

// Scores of `targets` given features (n, D), a block of rows at a time.
std::vector<TokenScore> score_rows(const Head& head, const Tensor& features,
                                   const Tokens& targets) {
  const int64_t n = features.dim(0), vocab = head.vocab();
  const int64_t block = std::max<int64_t>(16, (int64_t{1} << 23) / vocab);
  std::vector<TokenScore> out(static_cast<size_t>(n));
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(n, begin + block);
    const Tensor logits = head.logits(features.rows(begin, end));
    const DType type = logits.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Tensor loss({end - begin}, type, logits.device()), lse({end - begin}, type, logits.device());
    const Tensor target = Tensor::from(
        std::span(targets).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
        {end - begin}, logits.device());
    kernels::cross_entropy_forward(logits, target, loss, lse);
    const std::vector<double> nats = loss.to_vector();
    const Tensor host = logits.to(kCpu);
    parallel_for(end - begin, 4, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const auto at = static_cast<size_t>(begin + i);
        const double value = nats[static_cast<size_t>(i)];
        if (!std::isfinite(value)) {
          fail(Exit::non_finite, "score: a log-likelihood is ", -value,
               "; the model's weights are damaged or have diverged (try an earlier checkpoint)");
        }
        out[at] = {-value, greedy_token(host.rows(i, i + 1), vocab) == targets[at]};
      }
    });
  }
  return out;
}

void score_batch(nn::Gpt& model, const Head& head, const std::vector<Prepared>& batch,
                 Device device, std::vector<Score*>& scores) {
  const NoGrad no_grad;
  size_t width = 0;
  for (const Prepared& one : batch) width = std::max(width, one.input.size());
  Tokens padded(batch.size() * width, 0), targets;
  std::vector<int64_t> rows;
  for (size_t b = 0; b < batch.size(); ++b) {
    const Prepared& one = batch[b];
    std::copy(one.input.begin(), one.input.end(),
              padded.begin() + static_cast<ptrdiff_t>(b * width));
    const size_t first = b * width + one.input.size() - one.targets.size();
    for (size_t i = 0; i < one.targets.size(); ++i) rows.push_back(static_cast<int64_t>(first + i));
    targets.insert(targets.end(), one.targets.begin(), one.targets.end());
  }
  nn::Context context;
  nn::GptOut unused;
  const Tensor tokens = Tensor::from(
      padded, {static_cast<int64_t>(batch.size()), static_cast<int64_t>(width)}, device);
  const Tensor features = model.features(tokens, context, unused).value();
  const std::vector<TokenScore> each = score_rows(head, take_rows(features, rows), targets);
  size_t next = 0;
  for (size_t b = 0; b < batch.size(); ++b) {
    Score& total = *scores[b];
    total.greedy = true;
    for (size_t i = 0; i < batch[b].targets.size(); ++i, ++next) {
      total.log_likelihood += each[next].log_likelihood;
      total.greedy = total.greedy && each[next].greedy;
    }
  }
}

}  // namespace

std::vector<std::vector<size_t>> batches_by_length(const std::vector<int64_t>& lengths,
                                                   int64_t batch_size) {
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<size_t>> batches;
  for (size_t next = 0; next < order.size();) {
    const int64_t longest = std::max<int64_t>(1, lengths[order[next]]);
    const int64_t fit =
        batch_size > 0 ? batch_size : std::max<int64_t>(1, kTokensPerPass / longest);
    const size_t end = std::min(order.size(), next + static_cast<size_t>(fit));
    batches.emplace_back(order.begin() + static_cast<ptrdiff_t>(next),
                         order.begin() + static_cast<ptrdiff_t>(end));
    next = end;
  }
  return batches;
}

ScoreRequest encode_request(const data::Tokenizer& tokenizer, const std::string& context,
                            const std::string& continuation) {
  ScoreRequest request;
  if (context.empty()) {
    request.context = start_token(tokenizer);
    request.continuation = tokenizer.encode(continuation, true);
    if (request.continuation.size() > 1 && request.context.back() == request.continuation.front()) {
      request.continuation.erase(request.continuation.begin());
    }
  } else {
    const size_t cut = rstripped_size(context);
    const std::string before = context.substr(0, cut);
    request.context = tokenizer.encode(before, true);
    Tokens whole = tokenizer.encode(context + continuation, true);
    const size_t head = std::min(request.context.size(), whole.size());
    request.continuation.assign(whole.begin() + static_cast<ptrdiff_t>(head), whole.end());
    if (request.context.empty()) request.context = start_token(tokenizer);
  }
  if (request.continuation.empty()) {
    fail(Exit::data, "a continuation has no tokens of its own: \"", continuation, "\"");
  }
  return request;
}

std::vector<Score> score(nn::Gpt& model, int64_t vocab, const std::vector<ScoreRequest>& requests,
                         int64_t batch_size, Device device, const OnProgress& progress) {
  const Head head(model, vocab);
  std::vector<Score> scores(requests.size());
  std::vector<Prepared> prepared;
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < requests.size(); ++i) {
    prepared.push_back(prepare(requests[i], model.options().context, scores[i]));
    lengths.push_back(static_cast<int64_t>(prepared.back().input.size()));
  }
  int64_t done = 0;
  for (const std::vector<size_t>& batch : batches_by_length(lengths, batch_size)) {
    std::vector<Prepared> rows;
    std::vector<Score*> into;
    for (const size_t i : batch) {
      rows.push_back(std::move(prepared[i]));
      into.push_back(&scores[i]);
    }
    score_batch(model, head, rows, device, into);
    done += static_cast<int64_t>(batch.size());
    if (progress) progress(done, static_cast<int64_t>(requests.size()));
  }
  return scores;
}

std::vector<std::string> answer_greedily(nn::Gpt& model, const data::Tokenizer& tokenizer,
                                         const std::vector<Tokens>& contexts,
                                         const std::vector<std::string>& until, int64_t max_tokens,
                                         int64_t batch_size, Device device,
                                         const OnProgress& progress) {
  const int64_t room = std::max<int64_t>(1, model.options().context - max_tokens);
  std::vector<Tokens> cut;
  std::vector<int64_t> lengths;
  for (const Tokens& context : contexts) {
    const auto count = std::min(context.size(), static_cast<size_t>(room));
    cut.emplace_back(context.end() - static_cast<ptrdiff_t>(count), context.end());
    lengths.push_back(static_cast<int64_t>(count));
  }
  GenerateOptions options;
  options.tokens = max_tokens;
  options.sample.temperature = 0;
  options.stops = until;
  std::vector<std::string> answers(contexts.size());
  int64_t done = 0;
  // One row's cache is as long as its context and its answer: 32 answers at a time fill the cores.
  for (const auto& batch : batches_by_length(lengths, batch_size > 0 ? batch_size : 32)) {
    std::vector<Tokens> prompts;
    for (const size_t i : batch) prompts.push_back(cut[i]);
    const std::vector<Generated> texts = generate(model, tokenizer, prompts, options, device);
    for (size_t b = 0; b < batch.size(); ++b) answers[batch[b]] = texts[b].text;
    done += static_cast<int64_t>(batch.size());
    if (progress) progress(done, static_cast<int64_t>(contexts.size()));
  }
  return answers;
}

}  // namespace pyramoe::infer
