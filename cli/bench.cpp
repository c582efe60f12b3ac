// pyramoe bench: how fast this machine trains, routes and decodes, beside what it could do at best
// in the same run.
#include <fmt/format.h>

#include <cmath>

#include "autograd/ops.h"
#include "cli/bench_a2a.h"
#include "cli/bench_layer.h"
#include "cli/bench_limits.h"
#include "cli/bench_ops.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "core/json.h"
#include "core/kernel.h"
#include "core/parallel.h"
#include "infer/session.h"
#include "moe/build_model.h"
#include "moe/model_cost.h"
#include "train/progress.h"
#include "train/trainer.h"

namespace pyramoe {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string device = "auto";
  int64_t steps = 10, warmup = 2;
  bool json = false, trace = false, no_limits = false;
  // decode
  int64_t batch = 1, context = 0;
};

void print(const Options& options, const Json& row) {
  if (options.json) {
    fmt::print("{}\n", row.dump(1));
    return;
  }
  for (const auto& [key, value] : row.items()) {
    if (value.is_number_integer()) {
      fmt::print("{:<22} {:>22}\n", key, train::with_commas(value.get<int64_t>()));
    } else if (value.is_number()) {
      fmt::print("{:<22} {:>22.4g}\n", key, value.get<double>());
    } else {
      fmt::print("{:<22} {:>22}\n", key, value.dump());
    }
  }
}

void print_trace(const Options& options, double steps) {
  if (!options.trace) return;
  fmt::print("\n{:<32} {:>10} {:>12}\n", "kernel", "calls/step", "ms/step");
  for (const TraceRow& row : trace_rows()) {
    fmt::print("{:<32} {:>10.1f} {:>12.3f}\n", row.name, static_cast<double>(row.calls) / steps,
               row.seconds * 1e3 / steps);
  }
}

// FLOPs of matrix products in a forward and backward pass over one token: without attention scores.
int64_t gemm_flops_per_token(const train::RunConfig& config, const moe::ModelCost& cost) {
  return cost.flops_per_token - 6 * config.model.dim * config.model.context * config.model.layers;
}

// What the timed steps sent and waited for, of one rank, as means over the steps.
class TrafficMeans {
 public:
  void add(const std::map<std::string, dist::TrafficRow>& step) {
    for (const auto& [op, row] : step) {
      dist::TrafficRow& sum = rows_[op];
      sum.calls += row.calls;
      for (size_t link = 0; link < 2; ++link) {
        sum.messages[link] += row.messages[link];
        sum.bytes[link] += row.bytes[link];
      }
      sum.seconds += row.seconds;
      sum.exposed += row.exposed;
    }
    ++steps_;
  }

  Json json() const {
    const double n = static_cast<double>(std::max<int64_t>(steps_, 1));
    const auto mean = [n](int64_t sum) { return static_cast<double>(sum) / n; };
    Json all;
    for (const auto& [op, row] : rows_) {
      all[op] = {{"calls", mean(row.calls)},
                 {"messages_inside", mean(row.messages[0])},
                 {"messages_between", mean(row.messages[1])},
                 {"bytes_inside", mean(row.bytes[0])},
                 {"bytes_between", mean(row.bytes[1])},
                 {"ms", row.seconds * 1e3 / n},
                 {"exposed_ms", row.exposed * 1e3 / n}};
    }
    return all;
  }

  void print() const {
    fmt::print("\na step of rank 0:\n{:<16} {:>8} {:>10} {:>10} {:>14} {:>14} {:>10} {:>11}\n",
               "collective", "calls", "msg inside", "between", "bytes inside", "between", "ms",
               "exposed ms");
    const Json means = json();
    for (const auto& [op, row] : means.items()) {
      fmt::print("{:<16} {:>8.1f} {:>10.1f} {:>10.1f} {:>14.0f} {:>14.0f} {:>10.3f} {:>11.3f}\n",
                 op, row["calls"].get<double>(), row["messages_inside"].get<double>(),
                 row["messages_between"].get<double>(), row["bytes_inside"].get<double>(),
                 row["bytes_between"].get<double>(), row["ms"].get<double>(),
                 row["exposed_ms"].get<double>());
    }
  }

 private:
  std::map<std::string, dist::TrafficRow> rows_;
  int64_t steps_ = 0;
};

// The products' rate, beside the machine's. Both are of one process: many ranks go without.
void add_rates(const Options& options, const train::RunConfig& config, Device device, double tokens,
               Json& row) {
  const DType dtype = train::dtype_of(config);
  const moe::ModelCost cost = moe::model_cost(config.model, dtype);
  const double ms = row["step_ms"].get<double>();
  const double rate = static_cast<double>(gemm_flops_per_token(config, cost)) * tokens / ms * 1e3;
  row["gemm_gflops"] = rate * 1e-9;
  if (options.no_limits) return;
  const bench::Limits limits = bench::measure_limits(dtype, device);  // needs memory of its own
  row["limit_ms"] = rate / limits.gemm_flops * ms;
  row["limit_gemm_gflops"] = limits.gemm_flops * 1e-9;
  row["share"] = rate / limits.gemm_flops;
}

void time_training(const Options& options, dist::Runtime& runtime, train::RunConfig& config) {
  const Device device = parse_device(options.device);
  const dist::Mesh mesh = start_mesh(runtime, config);
  auto trainer = std::make_unique<train::Trainer>(config, device, &mesh);
  reset_device_peak_bytes(device);
  for (int64_t i = 0; i < options.warmup; ++i) trainer->step();
  set_tracing(options.trace);
  clear_trace();
  std::vector<double> seconds;
  train::StepResult last;
  TrafficMeans traffic;
  for (int64_t i = 0; i < options.steps; ++i) {
    last = trainer->step();
    seconds.push_back(last.seconds);
    traffic.add(last.traffic);
  }
  set_tracing(false);
  Json row;
  const double middle = bench::median(seconds);
  const auto tokens = static_cast<double>(last.step_tokens);
  row["tokens_per_s"] = tokens / middle;
  row["step_ms"] = middle * 1e3;
  row["median_ms"] = middle * 1e3;
  row["device"] = to_string(device);
  row["peak_bytes"] = device_peak_bytes(device);
  row["peak_resident_bytes"] = bench::peak_resident_bytes();
  row["loss"] = last.loss;
  row["threads"] = num_threads();
  row["steps"] = options.steps;
  if (runtime.world().rank() > 0) return;
  trainer.reset();
  if (!runtime.many()) {
    add_rates(options, config, device, tokens, row);
    print(options, row);
  } else {
    row["ranks"] = runtime.world().size();
    if (options.json) row["communication"] = traffic.json();
    print(options, row);
    if (!options.json) traffic.print();
  }
  print_trace(options, static_cast<double>(options.steps));
}

void bench_train(const Options& options) {
  train::RunConfig config = train::load_run_config(options.config, options.overrides);
  if (config.data.sources.empty()) config.data.synthetic = true;
  if (options.trace) config.train.graph = false;  // a replay has no kernels to time
  on_all_ranks([&](dist::Runtime& runtime) { time_training(options, runtime, config); });
}

void bench_decode(const Options& options) {
  const NoGrad no_grad;
  const train::RunConfig config = train::load_run_config(options.config, options.overrides);
  const DType dtype = train::dtype_of(config);
  const int64_t context = options.context > 0 ? options.context : config.model.context - 1;
  if (context < 2 || context > config.model.context) {
    fail(Exit::config, "bench decode: ", context, " tokens in the cache; expected 2 to ",
         "model.context = ", config.model.context);
  }
  const Device device = parse_device(options.device);
  const auto model = moe::build_model(config.model, {dtype, device}, false);
  model->initialise(1);
  const int64_t steps = std::min(options.steps, context / 2);
  const int64_t warmup = std::min(options.warmup, context - steps - 1);
  infer::Session session(*model, options.batch, context, device);
  std::vector<infer::Tokens> texts(static_cast<size_t>(options.batch));
  for (infer::Tokens& text : texts) text.assign(static_cast<size_t>(context - steps - warmup), 1);
  session.prefill(texts);
  const std::vector<int32_t> next(static_cast<size_t>(options.batch), 2);
  set_tracing(options.trace);
  clear_trace();
  const std::vector<double> seconds = bench::time_runs(warmup, steps, [&] {
    session.step(next);
    device_synchronize(device);
  });
  const moe::ModelCost cost = moe::model_cost(config.model, dtype);
  // What one token must read: its active weights and the cache (position rows excepted).
  const auto bytes =
      static_cast<double>((cost.params_active - config.model.context * config.model.dim) *
                          size_of(dtype)) +
      static_cast<double>(session.cache_bytes());
  const double ms = bench::median(seconds) * 1e3;
  Json row;
  row["ms_per_token"] = ms;
  row["median_ms"] = ms;
  row["bytes"] = bytes;
  if (!options.no_limits) {
    const bench::Limits limits = bench::measure_limits(dtype, device);
    const double limit_ms = bytes / limits.read_bytes * 1e3;
    row["limit_ms"] = limit_ms;
    row["share"] = limit_ms / ms;
    row["limit_read_gb_s"] = limits.read_bytes * 1e-9;
  }
  print(options, row);
  print_trace(options, static_cast<double>(steps));
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "bench", "Time training, a layer of experts or decoding, beside this machine's limits");
  command->require_subcommand(1);
  const auto common = [](CLI::App* sub, const std::shared_ptr<Options>& o) {
    sub->add_option("--steps", o->steps, "timed runs; medians are printed")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    sub->add_option("--warmup", o->warmup, "runs before the timed ones")
        ->check(CLI::Range(0, 1000))
        ->capture_default_str();
    sub->add_flag("--json", o->json, "one JSON object");
    sub->add_flag("--trace", o->trace, "time every kernel too (slower)");
    sub->add_flag("--no-limits", o->no_limits,
                  "without the machine's limits, which take seconds to measure");
  };
  auto train_options = std::make_shared<Options>();
  add_bench_a2a(*command);
  CLI::App* train = command->add_subcommand("train", "Whole steps of a config");
  train->add_option("config", train_options->config, "TOML config")->required();
  train->add_option("overrides", train_options->overrides, "settings as key=value");
  train->add_option("--device", train_options->device, "cpu, cuda or auto");
  common(train, train_options);
  train->callback([train_options] { bench_train(*train_options); });

  bench::add_layer_bench(*command);
  bench::add_ops_bench(*command);

  auto decode_options = std::make_shared<Options>();
  decode_options->steps = 32;
  CLI::App* decode = command->add_subcommand("decode", "One token a time with a cache");
  decode->add_option("config", decode_options->config, "TOML config")->required();
  decode->add_option("overrides", decode_options->overrides, "settings as key=value");
  decode->add_option("--batch", decode_options->batch, "texts at once")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  decode->add_option("--context", decode_options->context, "tokens in the cache");
  decode->add_option("--device", decode_options->device, "cpu, cuda or auto");
  common(decode, decode_options);
  decode->callback([decode_options] { bench_decode(*decode_options); });
}

}  // namespace pyramoe
