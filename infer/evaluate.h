// Tasks asked of a model, and the answers counted.
//
// One pass: every task's questions become requests, requests are scored (score.h), each question
// gives one number per metric, and a metric is their mean. Read next: eval_report.h.
#pragma once

#include <string>
#include <vector>

#include "infer/run.h"
#include "infer/score.h"
#include "infer/tasks/task.h"

namespace pyramoe::infer {

struct EvalOptions {
  int64_t limit = 0;       // only the first questions of each task; 0 = all
  int64_t batch_size = 0;  // sequences in one pass; 0 = by their length. Never changes a score
  int64_t max_answer_tokens = 256;  // of a generated answer; at most half of the model's context
  bool keep_samples = false;
};

// Mean of one metric over the questions, or exp of minus the mean for perplexity.
struct MetricValue {
  Metric metric = Metric::acc;
  double value = 0;
  double stderr_ = 0;  // standard error of `value`; NaN for fewer than two questions
};

// One question as it was asked and answered, for --log-samples.
struct EvalSample {
  const Question* question = nullptr;
  std::vector<Score> scores;       // of the continuations
  std::string answer;              // generated, blanks at the front removed
  std::vector<double> per_metric;  // in the task's order
};

struct TaskResult {
  const Task* task = nullptr;
  std::vector<MetricValue> metrics;
  int64_t questions = 0, available = 0;  // asked; in the file
  int64_t cut = 0;                       // continuations longer than the model's context
  double seconds = 0;
  std::vector<Question> asked;      // with keep_samples
  std::vector<EvalSample> samples;  // with keep_samples
};

using OnTaskProgress = std::function<void(const Task& task, int64_t done, int64_t total)>;

// Throws Error(data) for missing or broken files, before any task runs.
std::vector<TaskResult> evaluate_tasks(LoadedRun& run, const std::vector<const Task*>& tasks,
                                       const std::string& data_folder, const EvalOptions& options,
                                       const OnTaskProgress& progress = {});

// What one question adds to one metric.
double question_value(const Task& task, Metric metric, const Question& question,
                      const std::vector<Score>& scores, const std::string& answer);
// Mean and its standard error, sqrt(variance / n) with n - 1 in the variance; for perplexity that
// of exp(-mean), to first order.
MetricValue aggregate(Metric metric, const std::vector<double>& values);

}  // namespace pyramoe::infer
