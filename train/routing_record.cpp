// See routing_record.h.
#include "train/routing_record.h"

#include <algorithm>
#include <cmath>

#include "core/json.h"
#include "moe/layer_plan.h"
#include "train/trainer.h"

namespace pyramoe::train {
namespace {

// A file has at most this many counts, of four to seven digits each, and this many records.
constexpr int64_t kMostNumbers = 50000;
constexpr int64_t kMostRecords = 256, kFewestRecords = 32;
constexpr double kMostCount = 9e18;  // fits an int64_t

std::string path_of(const std::string& run_dir) { return run_dir + "/routing.jsonl"; }

size_t most_records(const RoutingRecord& record) {
  int64_t numbers = 0;
  for (const auto& load : record.load) numbers += static_cast<int64_t>(load.size());
  const int64_t fit = kMostNumbers / std::max<int64_t>(1, numbers);
  return static_cast<size_t>(std::clamp(fit, kFewestRecords, kMostRecords));
}

bool same_shape(const RoutingRecord& a, const RoutingRecord& b) {
  return std::equal(a.load.begin(), a.load.end(), b.load.begin(), b.load.end(),
                    [](const auto& x, const auto& y) { return x.size() == y.size(); });
}

void add_mean(std::vector<double>& mean, int64_t count, const std::vector<double>& next,
              int64_t next_count) {
  if (mean.size() != next.size()) mean.assign(next.size(), 0.0);
  const auto all = static_cast<double>(count + next_count);
  for (size_t i = 0; i < mean.size(); ++i) {
    mean[i] =
        (mean[i] * static_cast<double>(count) + next[i] * static_cast<double>(next_count)) / all;
  }
}

bool has_experts(const RunConfig& config) {
  const std::vector<moe::LayerPlan> plan = moe::layer_plan(config.model);
  return std::any_of(plan.begin(), plan.end(), [](const auto& block) { return block.experts > 0; });
}

// ---- Reading

std::vector<int64_t> counts(const Json& list, const std::string& what) {
  if (!list.is_array()) fail(Exit::data, what, ": expected a list of counts");
  std::vector<int64_t> out;
  for (const Json& n : list) {
    if (!n.is_number_integer() || n.get<double>() < 0 || n.get<double>() > kMostCount) {
      fail(Exit::data, what, ": ", n.dump(), " is no count");
    }
    out.push_back(n.get<int64_t>());
  }
  return out;
}

std::vector<double> shares(const Json& row, const char* key, size_t layers,
                           const std::string& what) {
  const Json& list = json_member(row, key, what);
  std::vector<double> out;
  if (list.is_array()) {
    for (const Json& x : list) out.push_back(x.is_number() ? x.get<double>() : std::nan(""));
  }
  if (out.size() != layers) {
    fail(Exit::data, what, ": ", key, " needs a number for each of the ", layers,
         " layers of experts");
  }
  return out;
}

RoutingRecord parse_record(const Json& row, const std::string& what) {
  RoutingRecord record;
  record.first = json_value<int64_t>(row, "first", what);
  record.last = json_value<int64_t>(row, "last", what);
  record.tokens = json_value<int64_t>(row, "tokens", what);
  if (record.first < 1 || record.last < record.first || record.tokens < 0) {
    fail(Exit::data, what, ": expected 1 <= first <= last and tokens, got steps ", record.first,
         " to ", record.last, ", ", record.tokens, " tokens");
  }
  const Json& load = json_member(row, "load", what);
  if (!load.is_array()) fail_json_type(load, "load", what, "a list", Exit::data);
  for (const Json& layer : load) record.load.push_back(counts(layer, what));
  record.kept = counts(json_member(row, "kept", what), what);
  if (record.kept.size() != record.load.size()) {
    fail(Exit::data, what, ": kept has ", record.kept.size(), " layers, load ", record.load.size());
  }
  if (!row.contains("probes")) return record;
  record.probes = json_value<int64_t>(row, "probes", what);
  if (record.probes < 1) fail(Exit::data, what, ": probes = ", record.probes);
  record.probe.entropy = shares(row, "entropy", record.load.size(), what);
  record.probe.top = shares(row, "top", record.load.size(), what);
  return record;
}

}  // namespace

void add_record(RoutingRecord& sum, const RoutingRecord& next) {
  PM_CHECK(same_shape(sum, next), "add_record: records of different layers or experts");
  sum.last = next.last;
  sum.tokens = next.tokens;
  for (size_t l = 0; l < sum.load.size(); ++l) {
    for (size_t e = 0; e < sum.load[l].size(); ++e) sum.load[l][e] += next.load[l][e];
    sum.kept[l] += next.kept[l];
  }
  if (next.probes == 0) return;
  add_mean(sum.probe.entropy, sum.probes, next.probe.entropy, next.probes);
  add_mean(sum.probe.top, sum.probes, next.probe.top, next.probes);
  sum.probes += next.probes;
}

std::string routing_line(const RoutingRecord& record) {
  const auto rounded = [](const std::vector<double>& values) {
    Json list = Json::array();
    for (const double x : values) {
      list.push_back(std::isfinite(x) ? Json(std::round(x * 1e4) / 1e4) : Json(nullptr));
    }
    return list;
  };
  Json row;
  row["first"] = record.first;
  row["last"] = record.last;
  row["tokens"] = record.tokens;
  row["load"] = record.load;
  row["kept"] = record.kept;
  if (record.probes > 0) {
    row["probes"] = record.probes;
    row["entropy"] = rounded(record.probe.entropy);
    row["top"] = rounded(record.probe.top);
  }
  return row.dump();
}

std::vector<RoutingRecord> read_routing(const std::string& run_dir) {
  std::vector<RoutingRecord> records;
  const std::string path = path_of(run_dir);
  if (!path_exists(path)) return records;
  const std::string text = read_file(path);
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // being written, or cut by a kill
    const std::string what = cat(path, ", line ", line);
    records.push_back(
        parse_record(parse_json(std::string_view(text).substr(begin, end - begin), what), what));
    begin = end + 1;
  }
  return records;
}

// ---- Writing

RoutingLog::RoutingLog(const std::string& run_dir, int64_t step, int64_t every)
    : path_(path_of(run_dir)), every_(std::max<int64_t>(1, every)) {
  file_ = std::make_unique<AppendLog>(path_);
  file_->truncate_to([&](std::string_view line) {
    try {
      RoutingRecord record = parse_record(parse_json(line, path_), path_);
      if (record.last > step) return false;
      every_ = std::max(every_, record.last - record.first + 1);  // it may have grown
      records_.push_back(std::move(record));
      return true;
    } catch (const Error&) {  // damaged: it and what follows is cut, training goes on
      return false;
    }
  });
}

void RoutingLog::add(const RoutingRecord& step) {
  if (open_ && !same_shape(window_, step)) flush();
  if (open_) {
    add_record(window_, step);
  } else {
    window_ = step;
    open_ = true;
  }
  if (step.last % every_ == 0) flush();
}

void RoutingLog::flush() {
  if (!open_) return;
  open_ = false;
  records_.push_back(window_);
  if (records_.size() > most_records(window_)) return shrink();
  file_->append(routing_line(window_));
}

void RoutingLog::shrink() {
  const size_t most = most_records(window_);
  // Records whose first steps lie in the same window become one; whatever length they have.
  do {
    every_ *= 2;
    std::vector<RoutingRecord> fewer;
    for (const RoutingRecord& record : records_) {
      const bool together = !fewer.empty() && same_shape(fewer.back(), record) &&
                            (fewer.back().first - 1) / every_ == (record.first - 1) / every_;
      if (together) {
        add_record(fewer.back(), record);
      } else {
        fewer.push_back(record);
      }
    }
    records_ = std::move(fewer);
  } while (records_.size() > most && every_ < records_.back().last);
  std::string text;
  for (const RoutingRecord& record : records_) text += routing_line(record) + "\n";
  file_.reset();  // the new file takes the name of the one that is open
  write_file(path_, text);
  file_ = std::make_unique<AppendLog>(path_);
}

RoutingRecorder::RoutingRecorder(const RunConfig& config)
    : run_dir_(config.dir),
      every_(has_experts(config) ? config.train.record_routing : 0),
      steps_(config.train.steps),
      interval_(probe_interval(every_, config.model.context,
                               config.train.batch / std::max<int64_t>(1, config.data_ranks))) {}

void RoutingRecorder::open(int64_t step) {
  if (every_ > 0) log_ = std::make_unique<RoutingLog>(run_dir_, step, every_);
}

bool RoutingRecorder::probes_at(int64_t step) const {
  return step == 1 || step == steps_ || step % interval_ == 0;
}

void RoutingRecorder::step(const StepResult& result, Trainer& trainer) {
  if (every_ == 0 || result.load.empty()) return;
  RoutingRecord record{result.step, result.step, result.tokens, result.load, result.kept, 0, {}};
  if (result.skipped) {
    for (auto& load : record.load) std::fill(load.begin(), load.end(), 0);
    std::fill(record.kept.begin(), record.kept.end(), 0);
  }
  if (probes_at(result.step)) {
    record.probe = trainer.probe_router();
    record.probes = record.probe.entropy.empty() ? 0 : 1;
  }
  if (log_) log_->add(record);
}

void RoutingRecorder::flush() {
  if (log_) log_->flush();
}

}  // namespace pyramoe::train
