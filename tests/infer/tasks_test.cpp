// Every task's prompts, to the letter, and what happens when its files are missing or broken.
#include "infer/tasks/task.h"

#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

using Texts = std::vector<std::string>;
using Ids = std::vector<int64_t>;

Question only(const std::string& task, const ScratchFolder& folder) {
  const std::vector<Question> all = load_task(find_task(task), folder.path());
  EXPECT_EQ(all.size(), 1u);
  return all.at(0);
}

TEST(Tasks, LambadaAsksForTheLastWord) {
  const ScratchFolder folder;
  folder.file("lambada_openai_test.jsonl", R"({"text": "I don't  care\nabout signs"})"
                                           "\n");
  const Question q = only("lambada_openai", folder);
  EXPECT_EQ(q.context, "I don't  care\nabout");
  EXPECT_EQ(q.continuations, Texts{" signs"});
}

TEST(Tasks, PiqaAsksForTheGoal) {
  const ScratchFolder folder;
  folder.file("piqa_valid.jsonl", R"({"goal": "dresser", "sol1": "with pin ", "sol2": "saw"})");
  folder.file("piqa_valid_labels.lst", "1\n");
  const Question q = only("piqa", folder);
  EXPECT_EQ(q.context, "Question: dresser\nAnswer:");
  EXPECT_EQ(q.continuations, (Texts{" with pin ", " saw"}));
  EXPECT_EQ(q.choices, (Texts{"with pin ", "saw"}));
  EXPECT_EQ(q.gold, Ids{1});
}

TEST(Tasks, PiqaRefusesLabelsOfAnotherFile) {
  const ScratchFolder folder;
  folder.file("piqa_valid.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b"})");
  folder.file("piqa_valid_labels.lst", "1\n0\n");
  EXPECT_EQ(exit_of([&] { load_task(find_task("piqa"), folder.path()); }, "2 labels for 1"),
            Exit::data);
  folder.file("piqa_valid_labels.lst", "x\n");
  EXPECT_EQ(exit_of([&] { load_task(find_task("piqa"), folder.path()); }, "line 1"), Exit::data);
}

TEST(Tasks, BoolqAddsAQuestionMark) {
  const ScratchFolder folder;
  folder.file("boolq_dev.jsonl",
              R"({"question": "is it so", "title": "T", "answer": true, "passage": "It is."})");
  const Question q = only("boolq", folder);
  EXPECT_EQ(q.context, "It is.\nQuestion: is it so?\nAnswer:");
  EXPECT_EQ(q.continuations, (Texts{" no", " yes"}));
  EXPECT_EQ(q.gold, Ids{1});
}

TEST(Tasks, RaceAsksTheLastQuestionAfterTheOthers) {
  const ScratchFolder folder;
  folder.file("race_h_test.jsonl", R"({"id": "1", "article": "Text.", )"
                                   R"("questions": ["Why?", "He was  _  .", "Who  _  ."], )"
                                   R"("options": [["a","b","c","d"],["e","f","g","h"],)"
                                   R"(["i","j","k","l"]], "answers": ["B", "C", "D"]})");
  const Question q = only("race", folder);
  // lm-eval keeps " _  ." of the statement to complete instead of "He was".
  EXPECT_EQ(q.context, "Article: Text.\n\nQuestion: Why?\nAnswer: b\n _  .g\nWho  _  .");
  EXPECT_EQ(q.continuations, (Texts{" i", " j", " k", " l"}));
  EXPECT_EQ(q.gold, Ids{3});
}

TEST(Tasks, TriviaqaEndsInTwoQuestionMarks) {
  const ScratchFolder folder;
  folder.file("triviaqa_unfiltered_1000.jsonl",
              R"({"question": "\"Who said \"\"I am\"\"?\"", "golden_answers": ["He", "Him"]})");
  const Question q = only("triviaqa", folder);
  EXPECT_EQ(q.context, "Question: Who said \"I am\"??\nAnswer:");
  EXPECT_EQ(q.answers, (Texts{"He", "Him"}));
  EXPECT_TRUE(q.continuations.empty());
  EXPECT_EQ(find_task("triviaqa").until, (Texts{"\n", ".", ","}));
}

TEST(Tasks, WebqsOffersEveryAnswer) {
  const ScratchFolder folder;
  folder.file("webquestions_test.json",
              R"([{"qId": "1", "qText": "what is x?", "answers": ["Be", "A", "Bee"]}])");
  const Question q = only("webqs", folder);
  EXPECT_EQ(q.context, "Question: what is x?\nAnswer:");
  EXPECT_EQ(q.continuations, (Texts{" A", " Be"}));
  EXPECT_EQ(q.gold, (Ids{0, 1}));
}

TEST(Tasks, AreFoundByName) {
  EXPECT_EQ(parse_tasks("piqa, boolq,piqa").size(), 2u);
  EXPECT_EQ(exit_of([] { parse_tasks("boolqa"); }, "did you mean boolq"), Exit::config);
  EXPECT_EQ(exit_of([] { parse_tasks("lambada"); }, "did you mean lambada_openai"), Exit::config);
  EXPECT_EQ(exit_of([] { parse_tasks("hellaswag"); }, "\"hellaswag\"; there are lambada_openai"),
            Exit::config);
  EXPECT_EQ(exit_of([] { parse_tasks(","); }, "no task named"), Exit::config);
}

TEST(Tasks, SayWhichFileIsMissingAndWhereToGetIt) {
  const ScratchFolder folder;
  for (const Task& task : all_tasks()) {
    const auto load = [&] { load_task(task, folder.path()); };
    EXPECT_EQ(exit_of(load, folder.path() + "/" + task.files[0]), Exit::data);
    EXPECT_EQ(exit_of(load, task.source), Exit::data);
  }
}

TEST(Tasks, SayWhichLineIsBroken) {
  const ScratchFolder folder;
  const auto load = [&](const char* task) { load_task(find_task(task), folder.path()); };
  folder.file("boolq_dev.jsonl", "\n{\"question\": 1}\n");
  EXPECT_EQ(exit_of([&] { load("boolq"); }, "boolq_dev.jsonl, line 2"), Exit::data);
  folder.file("boolq_dev.jsonl", "{nonsense");
  EXPECT_EQ(exit_of([&] { load("boolq"); }, "line 1"), Exit::data);
  folder.file("boolq_dev.jsonl", "");
  EXPECT_EQ(exit_of([&] { load("boolq"); }, "no questions"), Exit::data);
  folder.file("race_h_test.jsonl",
              R"({"article": "", "questions": ["q"], "options": [["a"]], "answers": ["A"]})");
  EXPECT_EQ(exit_of([&] { load("race"); }, "no entry 1"), Exit::data);
  folder.file("webquestions_test.json", R"([{"qText": "q", "answers": []}])");
  EXPECT_EQ(exit_of([&] { load("webqs"); }, "question 1"), Exit::data);
}

TEST(Tasks, ReadTheWholeDataSets) {
  const std::vector<std::pair<std::string, size_t>> sizes = {
      {"lambada_openai", 5153}, {"piqa", 1838},     {"boolq", 3270},
      {"race", 1045},           {"triviaqa", 1000}, {"webqs", 2032}};
  for (const auto& [name, size] : sizes) {
    const Task& task = find_task(name);
    for (const std::string& file : task.files) PM_NEEDS_SHARED("eval/" + file);
    const std::vector<Question> questions = load_task(task, data::shared_path("eval"));
    EXPECT_EQ(questions.size(), size) << name;
    for (const Question& question : questions) {
      EXPECT_FALSE(question.context.empty()) << name;
      for (const std::string& text : question.continuations) {
        EXPECT_TRUE(text.size() > 1 && text[0] == ' ') << name;
      }
    }
  }
}

}  // namespace
}  // namespace pyramoe::infer
