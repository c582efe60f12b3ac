// PIQA: which of two ways reaches a goal? Bisk et al., 2020.
#include "core/file.h"
#include "infer/tasks/task.h"

namespace pyramoe::infer {
namespace {

// One 0 or 1 a line.
std::vector<int64_t> read_labels(const std::string& path) {
  std::vector<int64_t> labels;
  const std::string text = read_file(path);
  for (const char c : text) {
    if (c == '0' || c == '1') {
      labels.push_back(c - '0');
    } else if (c != '\n' && c != '\r') {
      fail(Exit::data, path, ", line ", labels.size() + 1, ": expected 0 or 1");
    }
  }
  return labels;
}

std::vector<Question> load(const std::string& folder) {
  const std::string path = folder + "/piqa_valid.jsonl";
  const std::string label_path = folder + "/piqa_valid_labels.lst";
  const std::vector<Record> records = read_records(path);
  const std::vector<int64_t> labels = read_labels(label_path);
  if (labels.size() != records.size()) {
    fail(Exit::data, label_path, " has ", labels.size(), " labels for ", records.size(),
         " questions of ", path, ": the two files must come from one download");
  }
  std::vector<Question> questions;
  for (size_t i = 0; i < records.size(); ++i) {
    Question question;
    question.context = "Question: " + text_of(records[i], "goal") + "\nAnswer:";
    question.choices = {text_of(records[i], "sol1"), text_of(records[i], "sol2")};
    for (const std::string& choice : question.choices) {
      question.continuations.push_back(" " + choice);
    }
    question.gold = {labels[i]};
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

Task piqa_task() {
  return {.name = "piqa",
          .version = 1,
          .request = Request::multiple_choice,
          .metrics = {Metric::acc, Metric::acc_norm},
          .until = {},
          .files = {"piqa_valid.jsonl", "piqa_valid_labels.lst"},
          .prompt = "Question: {goal}\\nAnswer:",
          .target = " {sol1} | {sol2}",
          .source =
              "PIQA's validation set is at https://yonatanbisk.com/piqa (valid.jsonl and "
              "valid-labels.lst)",
          .load = load};
}

}  // namespace pyramoe::infer
