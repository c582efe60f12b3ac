// See evaluate.h.
#include "infer/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "infer/tasks/text_rules.h"

namespace pyramoe::infer {
namespace {

// The first of the largest.
template <class F>
size_t best_of(size_t n, F&& value) {
  size_t best = 0;
  for (size_t i = 1; i < n; ++i) {
    if (value(i) > value(best)) best = i;
  }
  return best;
}

bool is_gold(const Question& question, size_t choice) {
  return std::find(question.gold.begin(), question.gold.end(), static_cast<int64_t>(choice)) !=
         question.gold.end();
}

bool is_answer(const Question& question, const std::string& answer) {
  const std::string said = normalised_answer(answer);
  return std::any_of(question.answers.begin(), question.answers.end(),
                     [&](const std::string& right) { return normalised_answer(right) == said; });
}

// Fills `samples` of a task whose continuations are scored.
void ask_scores(LoadedRun& run, const std::vector<Question>& questions, const EvalOptions& options,
                const OnProgress& progress, std::vector<EvalSample>& samples) {
  std::vector<ScoreRequest> requests;
  for (const Question& question : questions) {
    for (const std::string& continuation : question.continuations) {
      requests.push_back(encode_request(*run.tokenizer, question.context, continuation));
    }
  }
  const std::vector<Score> scores = score(*run.model, run.tokenizer->vocab_size(), requests,
                                          options.batch_size, run.device, progress);
  size_t next = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    for (size_t j = 0; j < questions[i].continuations.size(); ++j) {
      samples[i].scores.push_back(scores[next++]);
    }
  }
}

// Fills `samples` of a task whose answers are generated.
void ask_answers(LoadedRun& run, const Task& task, const std::vector<Question>& questions,
                 const EvalOptions& options, const OnProgress& progress,
                 std::vector<EvalSample>& samples) {
  std::vector<Tokens> contexts;
  for (const Question& question : questions) {
    contexts.push_back(run.tokenizer->encode(question.context, true));
  }
  const int64_t most =
      std::max<int64_t>(1, std::min(options.max_answer_tokens, run.config.context / 2));
  const std::vector<std::string> answers =
      answer_greedily(*run.model, *run.tokenizer, contexts, task.until, most, options.batch_size,
                      run.device, progress);
  for (size_t i = 0; i < answers.size(); ++i) {
    samples[i].answer = std::string(lstrip(answers[i]));
  }
}

TaskResult run_task(LoadedRun& run, const Task& task, std::vector<Question> questions,
                    const EvalOptions& options, const OnTaskProgress& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  TaskResult result;
  result.task = &task;
  result.available = static_cast<int64_t>(questions.size());
  if (options.limit > 0 && options.limit < result.available) {
    questions.resize(static_cast<size_t>(options.limit));
  }
  result.questions = static_cast<int64_t>(questions.size());
  OnProgress progress;
  if (on_progress) {
    progress = [&](int64_t done, int64_t total) { on_progress(task, done, total); };
  }
  std::vector<EvalSample> samples(questions.size());
  if (task.request == Request::generate_until) {
    ask_answers(run, task, questions, options, progress, samples);
  } else {
    ask_scores(run, questions, options, progress, samples);
  }
  for (const Metric metric : task.metrics) {
    std::vector<double> values;
    for (size_t i = 0; i < questions.size(); ++i) {
      values.push_back(
          question_value(task, metric, questions[i], samples[i].scores, samples[i].answer));
      samples[i].per_metric.push_back(values.back());
    }
    result.metrics.push_back(aggregate(metric, values));
  }
  for (const EvalSample& sample : samples) {
    result.cut += std::count_if(sample.scores.begin(), sample.scores.end(),
                                [](const Score& one) { return one.cut; });
  }
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  result.seconds = time.count();
  if (options.keep_samples) {
    result.asked = std::move(questions);
    result.samples = std::move(samples);
    for (size_t i = 0; i < result.samples.size(); ++i) {
      result.samples[i].question = &result.asked[i];
    }
  }
  return result;
}

}  // namespace

double question_value(const Task& task, Metric metric, const Question& question,
                      const std::vector<Score>& scores, const std::string& answer) {
  if (task.request == Request::generate_until) return is_answer(question, answer) ? 1 : 0;
  const size_t n = scores.size();
  if (task.request == Request::loglikelihood) {
    return metric == Metric::perplexity ? scores[0].log_likelihood : (scores[0].greedy ? 1 : 0);
  }
  const auto plain = [&](size_t i) { return scores[i].log_likelihood; };
  const auto per_character = [&](size_t i) {
    return scores[i].log_likelihood / static_cast<double>(count_characters(question.choices[i]));
  };
  switch (metric) {
    case Metric::acc:
      return is_gold(question, best_of(n, plain)) ? 1 : 0;
    case Metric::acc_norm:
      return is_gold(question, best_of(n, per_character)) ? 1 : 0;
    case Metric::exact_match:
      for (size_t i = 0; i < n; ++i) {
        if (scores[i].greedy && is_gold(question, i)) return 1;
      }
      return 0;
    case Metric::perplexity:
      break;
  }
  fail(Exit::bug, "task ", task.name, " has no metric ", to_string(metric));
}

MetricValue aggregate(Metric metric, const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double error = values.size() < 2 ? std::nan("") : std::sqrt(squares / (n - 1) / n);
  if (metric != Metric::perplexity) return {metric, mean, error};
  const double perplexity = std::exp(-mean);
  return {metric, perplexity, perplexity * error};
}

std::vector<TaskResult> evaluate_tasks(LoadedRun& run, const std::vector<const Task*>& tasks,
                                       const std::string& data_folder, const EvalOptions& options,
                                       const OnTaskProgress& progress) {
  if (options.limit < 0)
    fail(Exit::config, "--limit: expected >= 0 (0 = all), got ", options.limit);
  if (options.batch_size < 0) {
    fail(Exit::config, "--batch-size: expected >= 0 (0 = automatic), got ", options.batch_size);
  }
  std::vector<std::vector<Question>> questions;
  for (const Task* task : tasks) questions.push_back(load_task(*task, data_folder));
  std::vector<TaskResult> results;
  for (size_t i = 0; i < tasks.size(); ++i) {
    results.push_back(run_task(run, *tasks[i], std::move(questions[i]), options, progress));
  }
  return results;
}

}  // namespace pyramoe::infer
