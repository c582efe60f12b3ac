// Counting: each metric by hand, the table and the JSON, and a whole evaluation of a run on disk.
#include "infer/evaluate.h"

#include <cmath>

#include "infer/eval_report.h"
#include "tests/infer/support.h"

namespace pyramoe::infer {
namespace {

Score said(double log_likelihood, bool greedy = false) {
  return {log_likelihood, greedy, 1, false};
}

double value(const char* task, Metric metric, const Question& question,
             const std::vector<Score>& scores, const std::string& answer = "") {
  return question_value(find_task(task), metric, question, scores, answer);
}

TEST(Evaluate, AccTakesTheLikeliestChoice) {
  Question q;
  q.choices = {"no", "yes"};
  q.gold = {1};
  EXPECT_EQ(value("boolq", Metric::acc, q, {said(-3), said(-2)}), 1);
  EXPECT_EQ(value("boolq", Metric::acc, q, {said(-2), said(-2)}), 0);  // a tie: the first
}

TEST(Evaluate, AccNormDividesByCharacters) {
  Question q;
  q.choices = {"ab", "\xC3\xA4\xC3\xB6\xC3\xBC\xC3\xA4"};  // 2 and 4 characters, 2 and 8 bytes
  q.gold = {1};
  EXPECT_EQ(value("piqa", Metric::acc, q, {said(-3), said(-5)}), 0);
  EXPECT_EQ(value("piqa", Metric::acc_norm, q, {said(-3), said(-5)}), 1);    // -1.5, -1.25
  EXPECT_EQ(value("piqa", Metric::acc_norm, q, {said(-2), said(-4.5)}), 0);  // -1, -1.125
}

TEST(Evaluate, ExactMatchOfWebqsIsAnyGreedyAnswer) {
  Question q;
  q.choices = {"a", "b"};
  q.gold = {0, 1};
  EXPECT_EQ(value("webqs", Metric::exact_match, q, {said(-1), said(-9, true)}), 1);
  EXPECT_EQ(value("webqs", Metric::exact_match, q, {said(-1), said(-9)}), 0);
}

TEST(Evaluate, ExactMatchOfTriviaqaIgnoresCaseAndPunctuation) {
  Question q;
  q.answers = {"The U.S.", "America"};
  EXPECT_EQ(value("triviaqa", Metric::exact_match, q, {}, "the us"), 1);
  EXPECT_EQ(value("triviaqa", Metric::exact_match, q, {}, "us"), 0);
  EXPECT_EQ(value("triviaqa", Metric::exact_match, q, {}, "AMERICA!"), 1);
}

TEST(Evaluate, LambadaCountsGreedyWordsAndTheirLikelihood) {
  const Question q;
  EXPECT_EQ(value("lambada_openai", Metric::acc, q, {said(-2, true)}), 1);
  EXPECT_EQ(value("lambada_openai", Metric::perplexity, q, {said(-2, true)}), -2);
}

TEST(Evaluate, MeansAndTheirErrors) {
  const MetricValue acc = aggregate(Metric::acc, {1, 0, 1, 1});
  EXPECT_DOUBLE_EQ(acc.value, 0.75);
  EXPECT_DOUBLE_EQ(acc.stderr_, 0.25);  // sqrt(0.75 / 3 / 4)
  const MetricValue ppl = aggregate(Metric::perplexity, {-1, -3});
  EXPECT_DOUBLE_EQ(ppl.value, std::exp(2.0));
  EXPECT_DOUBLE_EQ(ppl.stderr_, std::exp(2.0));  // sd of the mean is 1
  EXPECT_TRUE(std::isnan(aggregate(Metric::acc, {1}).stderr_));
}

TEST(EvalReport, PrintsTheTableOfLmEval) {
  TaskResult lambada, boolq;
  lambada.task = &find_task("lambada_openai");
  lambada.metrics = {{Metric::perplexity, 40.05541, 1.4881}, {Metric::acc, 0.3256, 0.0065}};
  boolq.task = &find_task("boolq");
  boolq.metrics = {{Metric::acc, 1, std::nan("")}};
  EXPECT_EQ(results_table({lambada, boolq}),
            "|Tasks         |Version|Filter|n-shot|Metric    |   |  Value|   |Stderr|\n"
            "|--------------|------:|------|-----:|----------|---|------:|---|-----:|\n"
            "|lambada_openai|      1|none  |     0|perplexity|↓  |40.0554|±  |1.4881|\n"
            "|              |       |      |      |acc       |↑  | 0.3256|±  |0.0065|\n"
            "|boolq         |      2|none  |     0|acc       |↑  | 1.0000|±  |   N/A|\n");
}

// A run on disk with a byte tokenizer, and small files for three tasks.
class WholeRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto tokenizer = data::make_byte_tokenizer();
    save_run(folder_.path() + "/run", tiny_config(families()[3], 260), tokenizer.get());
    folder_.file("boolq_dev.jsonl",
                 R"({"question": "q", "answer": true, "passage": "It is."})"
                 "\n"
                 R"({"question": "another", "answer": false, "passage": "Not a longer one."})"
                 "\n"
                 R"({"question": "x", "answer": false, "passage": ""})"
                 "\n");
    folder_.file("lambada_openai_test.jsonl",
                 "{\"text\": \"one two three\"}\n{\"text\": \"a b\"}\n");
    folder_.file("triviaqa_unfiltered_1000.jsonl",
                 "{\"question\": \"why\", \"golden_answers\": [\"no\"]}\n");
  }
  std::vector<TaskResult> run(const EvalOptions& options) {
    LoadedRun loaded = load_run(folder_.path() + "/run");
    last_ = results_json(evaluate_tasks(loaded, parse_tasks("boolq,lambada_openai,triviaqa"),
                                        folder_.path(), options),
                         loaded, options);
    return evaluate_tasks(loaded, parse_tasks("boolq,lambada_openai,triviaqa"), folder_.path(),
                          options);
  }
  ScratchFolder folder_;
  Json last_;
};

TEST_F(WholeRun, ScoresDoNotDependOnTheBatch) {
  EvalOptions options;
  options.keep_samples = true;
  std::string first;
  for (const int64_t batch : {1, 2, 0}) {
    options.batch_size = batch;
    std::string all;
    for (const TaskResult& result : run(options)) all += samples_jsonl(result);
    if (batch == 1) first = all;
    EXPECT_EQ(all, first);
  }
  EXPECT_NE(first.find("\"is_greedy\""), std::string::npos);
}

// Every choice's score is that of its own question, asked alone among the tokenizer's tokens.
TEST_F(WholeRun, ScoresBelongToTheirQuestions) {
  folder_.file("lambada_openai_test.jsonl",
               "{\"text\": \"one two three\"}\n{\"text\": \"a " + std::string(40, 'b') + "\"}\n");
  LoadedRun loaded = load_run(folder_.path() + "/run");
  EvalOptions options;
  options.keep_samples = true;
  for (const TaskResult& result : run(options)) {
    double right = 0;
    for (const EvalSample& sample : result.samples) {
      const Question& question = *sample.question;
      right += sample.per_metric.back();
      ASSERT_EQ(sample.scores.size(), question.continuations.size());
      for (size_t j = 0; j < sample.scores.size(); ++j) {
        const ScoreRequest request =
            encode_request(*loaded.tokenizer, question.context, question.continuations[j]);
        const Score alone = score(*loaded.model, 257, {request})[0];
        EXPECT_EQ(sample.scores[j].log_likelihood, alone.log_likelihood) << result.task->name;
        EXPECT_EQ(sample.scores[j].greedy, alone.greedy);
      }
      // A byte is a token: half of the context of 24 is the most for an answer.
      EXPECT_LE(sample.answer.size(), 12u);
    }
    EXPECT_EQ(result.metrics.back().value, right / static_cast<double>(result.samples.size()));
    EXPECT_EQ(result.cut, result.task->name == "lambada_openai" ? 1 : 0) << result.task->name;
  }
}

TEST_F(WholeRun, JsonHasTheKeysOfLmEval) {
  EvalOptions options;
  options.limit = 2;
  run(options);
  for (const char* key : {"results", "configs", "versions", "n-shot", "higher_is_better",
                          "n-samples", "git_hash", "date", "protocol"}) {
    EXPECT_TRUE(last_.contains(key)) << key;
  }
  EXPECT_TRUE(last_["results"]["boolq"].contains("acc,none"));
  EXPECT_TRUE(last_["results"]["boolq"].contains("acc_stderr,none"));
  EXPECT_TRUE(last_["results"]["triviaqa"].contains("exact_match,remove_whitespace"));
  EXPECT_EQ(last_["results"]["triviaqa"]["exact_match_stderr,remove_whitespace"], "N/A");
  EXPECT_EQ(last_["n-samples"]["boolq"]["original"], 3);
  EXPECT_EQ(last_["n-samples"]["boolq"]["effective"], 2);
  EXPECT_EQ(last_["higher_is_better"]["lambada_openai"]["perplexity"], false);
  EXPECT_EQ(last_["versions"]["triviaqa"], 3.0);
}

TEST_F(WholeRun, RefusesBadLimits) {
  EvalOptions options;
  options.limit = -1;
  EXPECT_EQ(exit_of([&] { run(options); }, "--limit"), Exit::config);
  options = {};
  options.batch_size = -2;
  EXPECT_EQ(exit_of([&] { run(options); }, "--batch-size"), Exit::config);
}

}  // namespace
}  // namespace pyramoe::infer
