#include "train/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "core/file.h"
#include "core/json.h"

namespace pyramoe::train {
namespace {

constexpr const char* kCsvHeader =
    "step,tokens,loss,val_loss,balance_loss,distill_loss,lr,grad_norm,dropped,imbalance,"
    "tokens_per_s";

// JSON has no NaN: a value that is not finite becomes null.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

double per_second(const StepResult& r) {
  return r.seconds > 0 ? static_cast<double>(r.step_tokens) / r.seconds : 0;
}

// Messages and bytes inside and between nodes, time from start to end, and of it the time that this
// rank had nothing else to do; and what it waited for slower ranks, where counts are exchanged.
Json traffic_json(const std::map<std::string, dist::TrafficRow>& traffic) {
  Json all = Json::object();
  double seconds = 0, exposed = 0;
  for (const auto& [op, row] : traffic) {
    all["by_op"][op] = {{"calls", row.calls},
                        {"messages", row.messages},
                        {"bytes", row.bytes},
                        {"ms", row.seconds * 1e3},
                        {"exposed_ms", row.exposed * 1e3}};
    seconds += row.seconds;
    exposed += row.exposed;
  }
  all["exposed_ms"] = exposed * 1e3;
  all["hidden_ms"] = std::max(0.0, seconds - exposed) * 1e3;
  const auto counts = traffic.find("counts");
  all["imbalance_wait_ms"] = counts == traffic.end() ? 0 : counts->second.exposed * 1e3;
  return all;
}

Json move_json(const ExpertMove& move) {
  return {{"merged", {move.merged_block, move.kept, move.freed}},
          {"cost", number(move.cost)},
          {"split", {move.split_block, move.split, move.born}},
          {"importance", number(move.importance)}};
}

// A row with its step; null when the line is none.
Json row_of(std::string_view line) {
  Json row = Json::parse(line, nullptr, false);
  const bool good = row.is_object() && row.contains("step") && row["step"].is_number_integer();
  return good ? row : Json();
}

double number_at(const Json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? row[key].get<double>() : 0;
}

// A validation's row has no training loss, the third column.
bool is_csv_validation(std::string_view line) {
  const size_t tokens = line.find(',');
  const size_t loss = line.find(',', tokens + 1);
  return loss != std::string_view::npos && line.substr(loss + 1, 1) == ",";
}

}  // namespace

Metrics::Metrics(const std::string& run_dir, int64_t step, bool ended)
    : json_(run_dir + "/metrics.jsonl"), csv_(run_dir + "/metrics.csv"), events_(run_dir) {
  json_.truncate_to([&](std::string_view line) {
    const Json row = row_of(line);
    if (row.is_null()) {
      std::fprintf(stderr, "%s/metrics.jsonl: a line is damaged; it and those after it are cut\n",
                   run_dir.c_str());
      return false;
    }
    const auto at = row["step"].get<int64_t>();
    if (at > step || (ended && at == step && row.contains("val_loss"))) return false;
    validated_ |= at == step && row.contains("val_loss");
    if (at == step && row.contains("loss")) {
      before_.dropped = number_at(row, "dropped");
      before_.imbalance = number_at(row, "imbalance");
    }
    return true;
  });
  csv_.truncate_to([&](std::string_view line) {
    if (line == kCsvHeader) return true;
    const int64_t at = std::atoll(std::string(line).c_str());
    return at < step || (at == step && !(ended && is_csv_validation(line)));
  });
  if (csv_.size() == 0) csv_.append(kCsvHeader);
}

void Metrics::write(const StepResult& r, bool with_load) {
  Json row;
  row["step"] = r.step;
  row["loss"] = number(r.loss);
  row["tokens"] = r.tokens;
  row["tokens_per_s"] = number(per_second(r));
  row["grad_norm"] = number(r.grad_norm);
  row["lr"] = r.learning_rate;
  row["step_ms"] = r.seconds * 1e3;
  if (r.skipped) row["skipped"] = true;
  if (!r.load.empty()) {
    row["balance_loss"] = number(r.balance_loss);
    if (r.z_loss != 0) row["z_loss"] = number(r.z_loss);
    row["dropped"] = r.dropped;
    row["imbalance"] = r.imbalance;
    if (with_load) row["load"] = r.load;
    if (with_load && !r.live.empty()) row["live"] = r.live;
    for (const ExpertMove& move : r.moves) row["moves"].push_back(move_json(move));
  }
  if (!r.traffic.empty()) row["communication"] = traffic_json(r.traffic);
  if (r.distill_weight > 0) {
    row["distill_loss"] = number(r.distill_loss);
    row["distill_weight"] = r.distill_weight;
  }
  if (std::isfinite(r.distill_cosine)) row["distill_cosine"] = r.distill_cosine;
  if (r.distill_stopped >= 0) {
    row["distill_weight"] = 0;
    row["distill_stopped"] = r.distill_stopped;
  }
  json_.append(row.dump());
  csv_.append(cat(r.step, ",", r.tokens, ",", r.loss, ",,", r.balance_loss, ",", r.distill_loss,
                  ",", r.learning_rate, ",", r.grad_norm, ",", r.dropped, ",", r.imbalance, ",",
                  per_second(r)));
  if (!with_load) return;  // TensorBoard gets the steps that are logged
  events_.add_scalar("train/loss", r.step, r.loss);
  events_.add_scalar("train/grad_norm", r.step, r.grad_norm);
  events_.add_scalar("train/lr", r.step, r.learning_rate);
  events_.add_scalar("train/tokens_per_s", r.step, per_second(r));
  if (!r.load.empty()) {
    events_.add_scalar("moe/load_balancing_loss", r.step, r.balance_loss);
    events_.add_scalar("moe/drop_fraction", r.step, r.dropped);
    events_.add_scalar("moe/imbalance", r.step, r.imbalance);
  }
  if (r.distill_weight > 0) events_.add_scalar("train/distill_loss", r.step, r.distill_loss);
}

void Metrics::write(const EvalResult& result, int64_t step, int64_t tokens) {
  Json row;
  row["step"] = step;
  row["tokens"] = tokens;
  row["val_loss"] = number(result.loss);
  row["val_tokens"] = result.tokens;
  for (const auto& [name, part] : result.domains) row["val"][name] = number(part.loss);
  json_.append(row.dump());
  csv_.append(cat(step, ",", tokens, ",,", result.loss, ",,,,,,,"));
  events_.add_scalar("val/loss", step, result.loss);
  events_.add_scalar("val/ppl", step, std::exp(result.loss));
  for (const auto& [name, part] : result.domains) {
    events_.add_scalar("val/" + name, step, part.loss);
  }
}

}  // namespace pyramoe::train
