// Results of tasks as lm-eval prints them: a Markdown table, and one JSON object.
#pragma once

#include <string>
#include <vector>

#include "infer/evaluate.h"

namespace pyramoe::infer {

// Which rules made the numbers: scores of different protocols must not be compared.
inline constexpr const char* kProtocol = "lm-eval-2026";

// |Tasks|Version|Filter|n-shot|Metric| |Value| |Stderr|, columns padded.
std::string results_table(const std::vector<TaskResult>& results);

// {results, configs, versions, n-shot, higher_is_better, n-samples, git_hash, date, …}.
Json results_json(const std::vector<TaskResult>& results, const LoadedRun& run,
                  const EvalOptions& options);

// One JSON line per question of a task: prompt, continuations or answer, scores, metrics.
std::string samples_jsonl(const TaskResult& result);

}  // namespace pyramoe::infer
