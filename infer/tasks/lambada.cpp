// LAMBADA (OpenAI's copy): guess the last word of a passage. Paperno et al., 2016.
#include "infer/tasks/task.h"

namespace pyramoe::infer {
namespace {

std::vector<Question> load(const std::string& folder) {
  std::vector<Question> questions;
  for (const Record& record : read_records(folder + "/lambada_openai_test.jsonl")) {
    const std::string text = text_of(record, "text");
    const size_t blank = text.rfind(' ');
    const bool one_word = blank == std::string::npos;
    Question question;
    question.context = one_word ? "" : text.substr(0, blank);
    const std::string word = one_word ? text : text.substr(blank + 1);
    question.continuations = {" " + word};
    question.choices = {word};
    question.gold = {0};
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

Task lambada_openai_task() {
  return {.name = "lambada_openai",
          .version = 1,
          .request = Request::loglikelihood,
          .metrics = {Metric::perplexity, Metric::acc},
          .until = {},
          .files = {"lambada_openai_test.jsonl"},
          .prompt = "{text without its last word}",
          .target = " {last word}",
          .source = "It is the OpenAI variant of the LAMBADA test set, one JSON line {text} each",
          .load = load};
}

}  // namespace pyramoe::infer
