// BoolQ: yes or no, after a passage. Clark et al., 2019.
#include "infer/tasks/task.h"

namespace pyramoe::infer {
namespace {

std::vector<Question> load(const std::string& folder) {
  std::vector<Question> questions;
  for (const Record& record : read_records(folder + "/boolq_dev.jsonl")) {
    Question question;
    question.context =
        text_of(record, "passage") + "\nQuestion: " + text_of(record, "question") + "?\nAnswer:";
    question.choices = {"no", "yes"};
    question.continuations = {" no", " yes"};
    question.gold = {json_value<bool>(record.json, "answer", record.where) ? 1 : 0};
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

Task boolq_task() {
  return {.name = "boolq",
          .version = 2,
          .request = Request::multiple_choice,
          .metrics = {Metric::acc},
          .until = {},
          .files = {"boolq_dev.jsonl"},
          .prompt = "{passage}\\nQuestion: {question}?\\nAnswer:",
          .target = " no | yes",
          .source =
              "BoolQ's dev.jsonl is linked from "
              "https://github.com/google-research-datasets/boolean-questions",
          .load = load};
}

}  // namespace pyramoe::infer
