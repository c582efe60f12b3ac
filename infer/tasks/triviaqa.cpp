// TriviaQA without context: an open question, the answer generated. Joshi et al., 2017.
#include "infer/tasks/task.h"
#include "infer/tasks/text_rules.h"

namespace pyramoe::infer {
namespace {

std::vector<Question> load(const std::string& folder) {
  std::vector<Question> questions;
  for (const Record& record : read_records(folder + "/triviaqa_unfiltered_1000.jsonl")) {
    Question question;
    // The second question mark is lm-eval's.
    question.context =
        "Question: " + without_csv_quotes(text_of(record, "question")) + "?\nAnswer:";
    question.answers = texts_of(record, "golden_answers");
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

Task triviaqa_task() {
  return {.name = "triviaqa",
          .version = 3,
          .request = Request::generate_until,
          .metrics = {Metric::exact_match},
          .filter = "remove_whitespace",
          .until = {"\n", ".", ","},
          .files = {"triviaqa_unfiltered_1000.jsonl"},
          .prompt = "Question: {question}?\\nAnswer:",
          .target = "{any of the aliases}",
          .source =
              "TriviaQA is at https://nlp.cs.washington.edu/triviaqa (unfiltered, "
              "open-domain); one JSON line {question, golden_answers} each",
          .load = load};
}

}  // namespace pyramoe::infer
