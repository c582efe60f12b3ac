// A zero-shot task: a data file turned into questions, and how answers are counted.
//
// One idea: a task is text only. It builds prompts and says which answers are right; score.h asks
// the model and evaluate.h counts. Prompts, rules and versions are those of lm-eval
// (EleutherAI/lm-evaluation-harness), quirks included; docs/eval.md lists them.
// To add a task: one file here, one line in registry.cpp, one row in tests/infer/tasks_test.cpp.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"

namespace pyramoe::infer {

// One question to a model.
struct Question {
  std::string context;
  // Scored by log-likelihood, each after the context. Empty: generate greedily instead.
  std::vector<std::string> continuations;
  std::vector<std::string> choices;  // without the leading blank: acc_norm counts their characters
  std::vector<int64_t> gold;         // continuations that are right
  std::vector<std::string> answers;  // texts that are right, when generated
};

enum class Metric { acc, acc_norm, perplexity, exact_match };
const char* to_string(Metric metric);
inline bool higher_is_better(Metric metric) { return metric != Metric::perplexity; }

enum class Request { loglikelihood, multiple_choice, generate_until };
const char* to_string(Request request);

struct Task {
  std::string name;
  double version = 1;
  Request request = Request::multiple_choice;
  std::vector<Metric> metrics;
  std::string filter = "none";
  std::vector<std::string> until;  // where a generated answer ends
  std::vector<std::string> files;  // in the data folder
  std::string prompt, target;      // the templates, for people
  std::string source;              // where the data comes from
  std::vector<Question> (*load)(const std::string& folder);
};

const std::vector<Task>& all_tasks();
// Throws Error(config) that names the nearest task.
const Task& find_task(const std::string& name);
// "a,b,c" -> tasks, each once.
std::vector<const Task*> parse_tasks(const std::string& names);
// The task's questions. Throws Error(data) naming a missing file and where it comes from.
std::vector<Question> load_task(const Task& task, const std::string& folder);

// One of each, in the file of its name.
Task lambada_openai_task();
Task piqa_task();
Task boolq_task();
Task race_task();
Task triviaqa_task();
Task webqs_task();

// ---- for the tasks
// The objects of a JSON-lines file; empty lines are skipped. Errors name path and line.
struct Record {
  Json json;
  std::string where;  // "path, line 3"
};
std::vector<Record> read_records(const std::string& path);
std::string text_of(const Record& record, const std::string& key);
std::vector<std::string> texts_of(const Record& record, const std::string& key);

}  // namespace pyramoe::infer
