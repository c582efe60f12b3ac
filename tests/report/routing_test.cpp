// The observatory: what training records, the numbers made from it, and a page of a run that was
// really trained.
#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>
#include <numeric>

#include "core/file.h"
#include "core/json.h"
#include "nn/checkpoint.h"
#include "report/png.h"
#include "report/routing.h"
#include "report/routing_math.h"
#include "report/routing_observe.h"
#include "report/routing_parts.h"
#include "tests/report/support.h"
#include "train/run.h"

namespace pyramoe {
namespace {

using report::Counts;
using train::RoutingLog;
using train::RoutingRecord;

// One step of two layers with 2 and 3 experts, 10 tokens; a choice of the second layer is dropped.
RoutingRecord step_record(int64_t step) {
  const int64_t a = step % 7, b = step % 5;
  RoutingRecord record;
  record.first = record.last = step;
  record.tokens = 10 * step;
  record.load = {{a, 10 - a}, {b, 3, 7 - b}};
  record.kept = {10, 9};
  return record;
}

int64_t sum_of(const std::vector<RoutingRecord>& records, size_t layer, size_t expert) {
  int64_t sum = 0;
  for (const RoutingRecord& record : records) sum += record.load[layer][expert];
  return sum;
}

TEST(RoutingLog, WindowsMissNoStep) {
  const TempFolder temp;
  RoutingLog log(temp.path(), 0, 10);
  for (int64_t step = 1; step <= 25; ++step) log.add(step_record(step));
  EXPECT_EQ(train::read_routing(temp.path()).size(), 2u);  // the third window is under way
  log.flush();
  const std::vector<RoutingRecord> records = train::read_routing(temp.path());
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].first, 11);
  EXPECT_EQ(records[2].last, 25);
  EXPECT_EQ(records[2].tokens, 250);
  int64_t expected = 0;
  for (int64_t step = 1; step <= 25; ++step) expected += step_record(step).load[1][0];
  EXPECT_EQ(sum_of(records, 1, 0), expected);
  EXPECT_EQ(records[0].kept, (std::vector<int64_t>{100, 90}));
}

TEST(RoutingLog, StaysSmallAndKeepsEveryChoice) {
  const TempFolder temp;
  RoutingLog log(temp.path(), 0, 1);
  int64_t expected = 0;
  for (int64_t step = 1; step <= 20000; ++step) {
    log.add(step_record(step));
    expected += step_record(step).load[0][1];
  }
  log.flush();
  const std::vector<RoutingRecord> records = train::read_routing(temp.path());
  EXPECT_LE(records.size(), 256u);
  EXPECT_GE(records.size(), 100u);
  EXPECT_EQ(sum_of(records, 0, 1), expected);
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].first, i == 0 ? 1 : records[i - 1].last + 1);
  }
  EXPECT_EQ(records.back().last, 20000);
}

TEST(RoutingLog, AResumedRunGoesOnWhereItsCheckpointIs) {
  const TempFolder temp;
  {
    RoutingLog log(temp.path(), 0, 10);
    for (int64_t step = 1; step <= 40; ++step) log.add(step_record(step));
  }
  // A line that a kill has cut, and one that is damaged.
  put_file(temp / "routing.jsonl", read_file(temp / "routing.jsonl") + "{\"first\":");
  RoutingLog log(temp.path(), 24, 10);  // back to step 24: the records of 21 to 40 do not count
  for (int64_t step = 25; step <= 40; ++step) log.add(step_record(step));
  const std::vector<RoutingRecord> records = train::read_routing(temp.path());
  ASSERT_EQ(records.size(), 4u);
  EXPECT_EQ(records[1].last, 20);
  EXPECT_EQ(records[2].first, 25);
  EXPECT_EQ(records[2].last, 30);
}

TEST(RoutingLog, ProbesAreAveraged) {
  RoutingRecord sum = step_record(1), next = step_record(2), last = step_record(3);
  sum.probes = 1;
  sum.probe = {{0.5, 1.0}, {0.2, 0.2}};
  last.probes = 2;
  last.probe = {{0.8, 0.4}, {0.5, 0.5}};
  add_record(sum, next);
  add_record(sum, last);
  EXPECT_EQ(sum.probes, 3);
  EXPECT_NEAR(sum.probe.entropy[0], 0.7, 1e-12);
  EXPECT_NEAR(sum.probe.entropy[1], 0.6, 1e-12);
  EXPECT_NEAR(sum.probe.top[0], 0.4, 1e-12);
}

TEST(RoutingLog, DamageIsRefusedWithFileAndLine) {
  const std::string good = routing_line(step_record(1)) + "\n";
  for (const std::string& bad :
       {std::string("[]"), std::string("{\"first\":2}"),
        std::string("{\"first\":3,\"last\":2,\"tokens\":5,\"load\":[],\"kept\":[]}"),
        std::string("{\"first\":2,\"last\":2,\"tokens\":5,\"load\":[[1]],\"kept\":[]}"),
        std::string("{\"first\":2,\"last\":2,\"tokens\":5,\"load\":[[-1]],\"kept\":[1]}"),
        std::string("{\"first\":2,\"last\":2,\"tokens\":5,\"load\":[[1]],\"kept\":[1],"
                    "\"probes\":1,\"entropy\":[],\"top\":[0.5]}")}) {
    const TempFolder temp;
    put_file(temp / "routing.jsonl", good + bad + "\n");
    try {
      train::read_routing(temp.path());
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find("routing.jsonl, line 2"), std::string::npos)
          << error.what();
    }
  }
}

TEST(RouterProbe, StaysFarBelowOnePercent) {
  for (const int64_t context : {16, 128, 1024, 2048}) {
    for (const int64_t batch : {1, 4, 16, 256}) {
      const auto interval = static_cast<double>(train::probe_interval(10, context, batch));
      const auto windows = static_cast<double>(train::probe_windows(context));
      EXPECT_LE(windows / 3, 0.0025 * interval * static_cast<double>(batch));
      EXPECT_GE(interval, 50);
    }
  }
  const std::vector<double> even(4, 0.25), sure = {0, 1, 0, 0};
  EXPECT_NEAR(train::relative_entropy(even.data(), 4), 1, 1e-12);
  EXPECT_EQ(train::relative_entropy(sure.data(), 4), 0);
}

// ---- Numbers

Counts counts_of(int64_t rows, int64_t columns, const std::vector<int64_t>& n) {
  Counts counts(rows, columns);
  counts.n = n;
  return counts;
}

TEST(RoutingMath, KnownCases) {
  EXPECT_NEAR(report::imbalance({30, 10, 10, 10}), 2, 1e-12);
  EXPECT_TRUE(std::isnan(report::imbalance({0, 0})));
  EXPECT_NEAR(report::evenness({5, 5, 5, 5}), 1, 1e-12);
  EXPECT_NEAR(report::evenness({8, 8, 0, 0}), 0.5, 1e-12);
  EXPECT_EQ(report::evenness({9, 0, 0}), 0);
  EXPECT_NEAR(report::evenness({8, 8, 0, 0}, report::Sharers::busy), 1, 1e-12);
  EXPECT_NEAR(report::imbalance({30, 10, 0, 0}, report::Sharers::busy), 1.5, 1e-12);

  const Counts bound = counts_of(2, 2, {50, 0, 0, 50}), free = counts_of(2, 2, {25, 25, 25, 25});
  EXPECT_NEAR(report::shared_information(bound), 1, 1e-12);
  EXPECT_NEAR(report::shared_information(free), 0, 1e-12);
  // H = ln 2 both, I = ln 2 - H(0.75): 1 - 0.811278 bits.
  EXPECT_NEAR(report::shared_information(counts_of(2, 2, {30, 10, 10, 30})), 0.188722, 1e-6);

  EXPECT_NEAR(report::against_chance(bound)[0], 51.0 / 26, 1e-12);
  EXPECT_NEAR(report::against_chance(bound)[1], 1.0 / 26, 1e-12);
  // Pairs of different experts, all equally often: nothing but chance.
  const Counts pairs = counts_of(3, 3, {0, 10, 10, 10, 0, 10, 10, 10, 0});
  const std::vector<double> met = report::against_chance(pairs, true);
  for (const size_t i : {1, 2, 3, 5, 6, 7}) EXPECT_NEAR(met[i], 1, 1e-12);
  // (2 - 1) (2 - 1) / (2 * 100) nats over ln 2.
  EXPECT_NEAR(report::chance_information(free), 0.005 / std::log(2.0), 1e-12);

  const std::vector<double> even = report::against_even(counts_of(2, 2, {3, 1, 0, 0}));
  EXPECT_NEAR(even[0], 1.5, 1e-12);
  EXPECT_NEAR(even[1], 0.5, 1e-12);
  EXPECT_TRUE(std::isnan(even[2]));
}

TEST(RoutingMath, LoadOverTimeIsResampledByTokens) {
  // Two windows of equal length, then one twice as long, into two columns of 20 tokens each.
  std::vector<RoutingRecord> records(3);
  records[0] = {1, 1, 10, {{10, 0}}, {10}, 0, {}};
  records[1] = {2, 2, 20, {{0, 10}}, {10}, 0, {}};
  records[2] = {3, 4, 40, {{20, 0}}, {20}, 0, {}};
  const report::LoadOverTime load = report::load_over_time(records, 0, 2);
  ASSERT_EQ(load.columns, 2);
  EXPECT_NEAR(load.ratio[0], 1, 1e-12);  // expert 0: half of the first, all of the second
  EXPECT_NEAR(load.ratio[1], 2, 1e-12);
  EXPECT_NEAR(load.ratio[2], 1, 1e-12);
  EXPECT_NEAR(load.ratio[3], 0, 1e-12);
  // A gap stays a gap: steps 2 and 3 were not recorded.
  records = {{1, 1, 10, {{10, 0}}, {10}, 0, {}}, {4, 4, 40, {{10, 0}}, {10}, 0, {}}};
  const report::LoadOverTime gap = report::load_over_time(records, 0, 4);
  EXPECT_EQ(gap.columns, 2);
  EXPECT_FALSE(std::isnan(gap.ratio[0]));
}

// ---- Pictures and text

TEST(RoutingPage, MapsSayNothingOfUnknownCells) {
  report::HeatMap map;
  map.rows = map.columns = 2;
  map.ratio = {std::nan(""), 1.5, 0.25, std::nan("")};
  const std::string html = report::draw_map(map);
  EXPECT_NE(html.find("data-values=\",150,25,\""), std::string::npos) << html;
}

TEST(RoutingPage, PngHoldsItsPixels) {
  EXPECT_EQ(report::base64("Man"), "TWFu");
  EXPECT_EQ(report::base64("Ma"), "TWE=");
  EXPECT_EQ(report::base64("M"), "TQ==");
  EXPECT_EQ(report::base64(""), "");
  report::Palette palette{};
  palette[2] = {9, 8, 7, 6};
  const std::string file = report::png(3, 2, {0, 1, 2, 2, 1, 0}, palette);
  EXPECT_EQ(file.substr(1, 3), "PNG");
  const size_t size = file.find("IDAT");
  ASSERT_NE(size, std::string::npos);
  std::string rows(8, '?');
  uLongf length = rows.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(rows.data()), &length,
                       reinterpret_cast<const Bytef*>(file.data() + size + 4),
                       static_cast<uLong>(file.size() - size - 4)),
            Z_OK);
  EXPECT_EQ(rows, std::string("\0\0\1\2\0\2\1\0", 8));
  EXPECT_EQ(file[file.find("PLTE") + 4 + 6], 9);
  EXPECT_EQ(file[file.find("tRNS") + 4 + 2], 6);
}

TEST(RoutingPage, TextIsMadeSafe) {
  EXPECT_EQ(report::html_escape("<b a=\"1\">&\n"), "&lt;b a=&quot;1&quot;&gt;&amp;\n");
  EXPECT_EQ(report::html_escape("a\x01\xff"
                                "é"),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "é");
}

// ---- A run

train::RunConfig small_run(const std::string& dir) {
  train::RunConfig config;
  config.dir = dir;
  config.model.layers = 3;
  config.model.dim = 16;
  config.model.heads = 2;
  config.model.context = 16;
  config.model.vocab = 64;
  config.model.experts = "4 0 3";
  config.model.top_k = 2;
  config.model.capacity_factor = 1.0;
  config.model.min_capacity = 1;
  config.data.synthetic = true;
  config.train.batch = 4;
  config.train.steps = 25;
  config.train.log_every = 1;
  config.train.eval_sequences = 8;
  config.train.record_routing = 5;
  return config;
}

class TrainedRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    temp_ = new TempFolder;
    train::run_training(small_run(*temp_ / "run"), kCpu, nullptr);
  }
  static void TearDownTestSuite() {
    delete temp_;
    temp_ = nullptr;
  }
  static std::string run() { return *temp_ / "run"; }
  static TempFolder* temp_;
};
TempFolder* TrainedRun::temp_ = nullptr;

// The same sums from two files that were written by different code.
TEST_F(TrainedRun, RecordsAgreeWithTheMetricsOfEveryStep) {
  const std::vector<RoutingRecord> records = train::read_routing(run());
  ASSERT_EQ(records.size(), 5u);
  std::vector<int64_t> sums(7, 0);
  double dropped = 0;
  const std::string metrics = read_file(run() + "/metrics.jsonl");
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    const Json row = Json::parse(line);
    if (!row.contains("load")) continue;
    size_t i = 0;
    for (const Json& layer : row["load"]) {
      for (const Json& n : layer) sums[i++] += n.get<int64_t>();
    }
    dropped += row["dropped"].get<double>();
  }
  for (size_t e = 0; e < 4; ++e) EXPECT_EQ(sum_of(records, 0, e), sums[e]);
  for (size_t e = 0; e < 3; ++e) EXPECT_EQ(sum_of(records, 1, e), sums[4 + e]);
  int64_t kept = 0;
  for (const RoutingRecord& record : records) kept += record.kept[0] + record.kept[1];
  const double choices = static_cast<double>(std::accumulate(sums.begin(), sums.end(), int64_t{0}));
  EXPECT_GT(dropped, 0);
  EXPECT_NEAR(dropped / 25, 1 - static_cast<double>(kept) / choices, 1e-12);
  EXPECT_EQ(records[0].probes, 1);                                                // after step 1
  EXPECT_EQ(records[4].probes, 1);                                                // after the last
  for (const double entropy : records[0].probe.entropy) EXPECT_GT(entropy, 0.9);  // untrained
}

TEST_F(TrainedRun, RecordingDoesNotTouchTheModel) {
  train::RunConfig config = small_run(*temp_ / "silent");
  config.train.record_routing = 0;
  train::run_training(config, kCpu, nullptr);
  EXPECT_FALSE(path_exists(config.dir + "/routing.jsonl"));
  const auto weights = [](const std::string& dir) {
    return read_file(nn::Checkpoint::newest(dir).folder() + "/model.safetensors");
  };
  EXPECT_TRUE(weights(run()) == weights(config.dir));
}

TEST_F(TrainedRun, ObservationCountsEveryChoiceOnce) {
  const report::Observation seen = report::observe(run(), small_run(run()), 100);
  EXPECT_EQ(seen.step, 25);
  EXPECT_EQ(seen.tokens, 112);  // seven windows of 16
  ASSERT_EQ(seen.layers.size(), 2u);
  EXPECT_EQ(seen.layers[0].block, 0);
  EXPECT_EQ(seen.layers[1].block, 2);
  for (const report::LayerObservation& layer : seen.layers) {
    EXPECT_EQ(layer.by_domain.total(), 2 * 112);
    EXPECT_EQ(layer.together.total(), 2 * 112);
    for (int64_t e = 0; e < layer.experts; ++e) EXPECT_EQ(layer.together.at(e, e), 0);
    EXPECT_EQ(layer.together.row_sums(), layer.by_domain.column_sums());
    EXPECT_GT(layer.entropy, 0);
    EXPECT_LE(layer.entropy, 1);
    EXPECT_GE(layer.probability, 1.0 / static_cast<double>(layer.experts));
  }
  const Counts& next = seen.layers[0].next;
  EXPECT_EQ(next.total(), 4 * 112);
  std::vector<int64_t> rows = seen.layers[0].by_domain.column_sums();
  std::vector<int64_t> columns = seen.layers[1].by_domain.column_sums();
  for (int64_t& n : rows) n *= 2;
  for (int64_t& n : columns) n *= 2;
  EXPECT_EQ(next.row_sums(), rows);
  EXPECT_EQ(next.column_sums(), columns);
  ASSERT_EQ(seen.samples.size(), 1u);
  for (const report::ReadToken& token : seen.samples[0].tokens) {
    if (token.layers.empty()) continue;
    ASSERT_EQ(token.layers.size(), 2u);
    EXPECT_GE(token.layers[0].probability, 0.25);  // it was the best of four
  }
}

TEST_F(TrainedRun, PageHasAllPartsAndNeedsNothingElse) {
  const std::string page = report::routing_page(run(), {256});
  for (const char* part :
       {"id=\"load\"", "id=\"curves\"", "id=\"company\"", "id=\"domains\"", "id=\"texts\"",
        "Block 0", "Block 2", "data:image/png;base64,", "chosen together", "then block 2"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  for (const char* outside : {"http://", "https://", "src=\"/", "@import", "class=\"missing\""}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page, report::routing_page(run(), {256}));
}

TEST_F(TrainedRun, PageSaysWhatIsMissing) {
  const TempFolder temp;
  const std::string copy = temp / "copy";
  std::filesystem::copy(run(), copy, std::filesystem::copy_options::recursive);
  std::filesystem::remove(copy + "/routing.jsonl");
  const std::string young = report::routing_page(copy, {64});
  EXPECT_NE(young.find("train.record_routing"), std::string::npos);
  EXPECT_EQ(young.find("id=\"load\""), std::string::npos);
  EXPECT_NE(young.find("id=\"texts\""), std::string::npos);

  std::filesystem::remove_all(copy + "/checkpoints");
  const std::string config = read_file(copy + "/config.toml");
  const std::string more = std::string(config).replace(config.find("steps = 25"), 10, "steps = 99");
  put_file(copy + "/config.toml", more);
  const std::string bare = report::routing_page(copy);
  EXPECT_NE(bare.find("There is no checkpoint"), std::string::npos);
  EXPECT_NE(bare.find("at step 25 of 99"), std::string::npos);
  EXPECT_NE(bare.find("id=\"domains\""), std::string::npos);  // eval.json still has them
  EXPECT_EQ(bare.find("id=\"texts\""), std::string::npos);
}

TEST_F(TrainedRun, PageRefusesWhatIsNoRunWithExperts) {
  const RunFolders runs;
  try {
    report::routing_page(runs.dense);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::config);
    EXPECT_NE(std::string(error.what()).find("dense model"), std::string::npos);
  }
  // Records of another model.
  put_file(runs.moe + "/routing.jsonl", routing_line(step_record(1)) + "\n");
  EXPECT_THROW(report::routing_page(runs.moe), Error);
  EXPECT_THROW(report::routing_page(runs.temp / "nowhere"), Error);
}

}  // namespace
}  // namespace pyramoe
