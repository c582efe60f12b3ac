// RACE-h: a school exam's questions on an article; only the last one of each article is asked, the
// earlier ones stand in the prompt with their answers. Lai et al., 2017.
#include "infer/tasks/task.h"

namespace pyramoe::infer {
namespace {

constexpr const char* kBlank = "  _  .";  // a statement to complete, not a question

const Json& item(const Json& list, size_t i, const Record& record, const char* key) {
  if (!list.is_array() || i >= list.size()) {
    fail(Exit::data, record.where, ": ", key, " has no entry ", i);
  }
  return list[i];
}

std::vector<std::string> options_of(const Record& record, size_t i) {
  const Json& options =
      item(json_member(record.json, "options", record.where), i, record, "options");
  std::vector<std::string> texts;
  for (size_t j = 0; j < 4; ++j) {
    const Json& option = item(options, j, record, "options");
    if (!option.is_string()) {
      fail_json_type(option, "options", record.where, "four strings", Exit::data);
    }
    texts.push_back(option.get<std::string>());
  }
  return texts;
}

Question last_question(const Record& record) {
  const std::vector<std::string> questions = texts_of(record, "questions");
  const std::vector<std::string> letters = texts_of(record, "answers");
  if (questions.empty() || letters.size() != questions.size()) {
    fail(Exit::data, record.where, ": ", letters.size(), " answers for ", questions.size(),
         " questions");
  }
  Question out;
  out.context = "Article: " + text_of(record, "article") + "\n\n";
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::string& letter = letters[i];
    if (letter.size() != 1 || letter[0] < 'A' || letter[0] > 'D') {
      fail(Exit::data, record.where, ": an answer is ", pyramoe::quoted(letter),
           ", expected A, B, C or D");
    }
    const int64_t right = letter[0] - 'A';
    const std::vector<std::string> options = options_of(record, i);
    if (i + 1 == questions.size()) {
      out.context += questions[i];
      out.choices = options;
      out.gold = {right};
    } else if (questions[i].ends_with(kBlank)) {
      // lm-eval keeps the last five characters where it meant all but the last five. Published
      // scores carry that, so it stays.
      const std::string& answer = options[static_cast<size_t>(right)];
      out.context += questions[i].substr(questions[i].size() - 5) + answer + "\n";
    } else {
      out.context +=
          "Question: " + questions[i] + "\nAnswer: " + options[static_cast<size_t>(right)] + "\n";
    }
  }
  for (const std::string& choice : out.choices) out.continuations.push_back(" " + choice);
  return out;
}

std::vector<Question> load(const std::string& folder) {
  std::vector<Question> questions;
  for (const Record& record : read_records(folder + "/race_h_test.jsonl")) {
    questions.push_back(last_question(record));
  }
  return questions;
}

}  // namespace

Task race_task() {
  return {.name = "race",
          .version = 2,
          .request = Request::multiple_choice,
          .metrics = {Metric::acc},
          .until = {},
          .files = {"race_h_test.jsonl"},
          .prompt = "Article: {article}\\n\\n{earlier questions with answers}{last question}",
          .target = " {option} of four",
          .source =
              "RACE is at https://www.cs.cmu.edu/~glai1/data/race; one JSON line an article "
              "of test/high, {article, questions, options, answers}",
          .load = load};
}

}  // namespace pyramoe::infer
