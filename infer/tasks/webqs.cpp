// WebQuestions: right when some gold answer is what the model would say greedily. Berant et al.,
// 2013.
#include "core/file.h"
#include "infer/tasks/task.h"
#include "infer/tasks/text_rules.h"

namespace pyramoe::infer {
namespace {

std::vector<Question> load(const std::string& folder) {
  const std::string path = folder + "/webquestions_test.json";
  const Json list = read_json(path);
  if (!list.is_array()) fail(Exit::data, path, ": expected a JSON array of questions");
  std::vector<Question> questions;
  for (size_t i = 0; i < list.size(); ++i) {
    const Record record{list[i], path + ", question " + std::to_string(i + 1)};
    Question question;
    question.context = "Question: " + text_of(record, "qText") + "\nAnswer:";
    question.choices = without_prefixed(texts_of(record, "answers"));
    if (question.choices.empty()) fail(Exit::data, record.where, ": no answers");
    for (const std::string& choice : question.choices) {
      question.gold.push_back(static_cast<int64_t>(question.continuations.size()));
      question.continuations.push_back(" " + choice);
    }
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

Task webqs_task() {
  return {.name = "webqs",
          .version = 2,
          .request = Request::multiple_choice,
          .metrics = {Metric::exact_match},
          .until = {},
          .files = {"webquestions_test.json"},
          .prompt = "Question: {qText}\\nAnswer:",
          .target = " {any of the answers}",
          .source =
              "WebQuestions' test split is a JSON array of {qText, answers}, for example "
              "main/test.json of https://github.com/brmson/dataset-factoid-webquestions",
          .load = load};
}

}  // namespace pyramoe::infer
