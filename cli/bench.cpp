// pyramoe bench: how fast this machine trains, routes and decodes, beside what it could do at best
// in the same run.
#include <fmt/format.h>

#include <cmath>

#include "autograd/ops.h"
#include "cli/bench_limits.h"
#include "cli/commands.h"
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
  bool json = false, trace = false;
  // layer
  int64_t tokens = 4096, d = 384, experts = 32, top_k = 1, hidden = 0;
  double capacity = 0;
  std::string skew = "uniform", dtype = "f32";
  // decode
  int64_t batch = 1, context = 0;
};

DType dtype_named(const std::string& name) {
  if (name == "f64") return DType::f64;
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail(Exit::config, "--dtype ", name, ": expected f64, f32 or bf16");
}

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

void bench_train(const Options& options) {
  train::RunConfig config = train::load_run_config(options.config, options.overrides);
  if (config.data.sources.empty()) config.data.synthetic = true;
  const DType dtype = train::dtype_of(config);
  const Device device = parse_device(options.device);
  train::Trainer trainer(config, device);
  for (int64_t i = 0; i < options.warmup; ++i) trainer.step();
  reset_device_peak_bytes(kCpu);
  set_tracing(options.trace);
  clear_trace();
  std::vector<double> seconds;
  train::StepResult last;
  for (int64_t i = 0; i < options.steps; ++i) {
    last = trainer.step();
    seconds.push_back(last.seconds);
  }
  const int64_t resident = bench::peak_resident_bytes(), peak = device_peak_bytes(kCpu);
  set_tracing(false);
  const bench::Limits limits = bench::measure_limits(dtype);  // last: it has memory of its own
  const double middle = bench::median(seconds);
  const moe::ModelCost cost = moe::model_cost(config.model, dtype);
  const auto tokens = static_cast<double>(last.step_tokens);
  const double gemm_rate =
      static_cast<double>(gemm_flops_per_token(config, cost)) * tokens / middle;
  Json row;
  row["tokens_per_s"] = tokens / middle;
  row["step_ms"] = middle * 1e3;
  row["peak_bytes"] = peak;
  row["peak_resident_bytes"] = resident;
  row["gemm_gflops"] = gemm_rate * 1e-9;
  row["limit_gemm_gflops"] = limits.gemm_flops * 1e-9;
  row["share"] = gemm_rate / limits.gemm_flops;
  row["loss"] = last.loss;
  row["threads"] = num_threads();
  row["steps"] = options.steps;
  print(options, row);
  print_trace(options, static_cast<double>(options.steps));
}

// Router weights that send tokens where --skew says: tokens carry their expert in their features.
struct LayerBench {
  std::unique_ptr<nn::FeedForward> layer;
  Var x;
  nn::Context context;
};

LayerBench make_layer(const Options& o) {
  moe::ModelConfig config;
  config.layers = 1;
  config.dim = o.d;
  config.heads = 1;
  config.expert_hidden = o.hidden;
  config.experts = std::to_string(o.experts);
  config.top_k = o.top_k;
  config.capacity_factor = o.capacity;
  config.force_balance = o.skew == "uniform";
  config.context = o.tokens;
  const moe::LayerPlan plan = moe::layer_plan(config).at(0);
  LayerBench bench;
  const nn::Build build{dtype_named(o.dtype), kCpu};
  bench.layer = moe::build_feed_forward(config, plan, build);
  bench.layer->initialise(1);
  Tensor x({o.tokens, o.d}, DType::f64);
  const RngKey key{1, RngPurpose::test, 0, 0};
  for (int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = random_normal(key, i);
  if (o.skew == "one" || o.skew == "zipf") {
    // Expert e's router row reads feature e; a token raises the feature of the expert it wants.
    double total = 0;
    for (int64_t e = 0; e < o.experts; ++e) total += 1.0 / static_cast<double>(e + 1);
    for (int64_t n = 0; n < o.tokens; ++n) {
      int64_t want = 0;
      double left = static_cast<double>(random_uniform({2, RngPurpose::test, 0, 0}, n)) * total;
      while (o.skew == "zipf" && want + 1 < o.experts &&
             left > 1.0 / static_cast<double>(want + 1)) {
        left -= 1.0 / static_cast<double>(++want);
      }
      x.data<double>()[n * o.d + want] += 50;
    }
    for (nn::Parameter* p : bench.layer->parameters()) {
      if (p->name.find("router.weight") == std::string::npos) continue;
      Tensor eye = Tensor::zeros(p->var.shape(), DType::f64);
      for (int64_t e = 0; e < o.experts; ++e) eye.data<double>()[e * o.d + e] = 1;
      p->var.value().copy_from(eye.to(p->var.dtype()));
    }
  }
  bench.x = Var(x.to(build.dtype), true);
  bench.context.training = true;
  bench.context.batch = 1;
  bench.context.length = o.tokens;
  return bench;
}

void check_layer(const Options& o) {
  if (o.skew == "uniform") return;
  if (o.skew != "one" && o.skew != "zipf") {
    fail(Exit::config, "--skew ", o.skew, ": expected uniform, zipf or one");
  }
  if (o.experts < 1 || o.experts > o.d) {
    fail(Exit::config, "--skew ", o.skew, " marks a token's expert by a feature: expected ",
         "--experts from 1 to --d = ", o.d, ", got ", o.experts);
  }
}

void bench_layer(const Options& options) {
  check_layer(options);
  const bench::Limits limits = bench::measure_limits(dtype_named(options.dtype));
  LayerBench layer = make_layer(options);
  const auto forward = [&] {
    layer.context.stats.clear();
    return layer.layer->forward(layer.x, layer.context).y;
  };
  const Tensor seed = Tensor::full(layer.x.shape(), layer.x.dtype(), 1e-3);
  const std::vector<double> fwd = bench::time_runs(options.warmup, options.steps, [&] {
    const NoGrad no_grad;
    forward();
  });
  const std::vector<double> both = bench::time_runs(options.warmup, options.steps, [&] {
    for (nn::Parameter* p : layer.layer->parameters()) p->var.reset_grad();
    layer.x.reset_grad();
    backward(forward(), seed);
  });
  const auto hidden = static_cast<double>(options.hidden > 0 ? options.hidden : 4 * options.d);
  const double flops =
      12 * static_cast<double>(options.tokens * options.top_k * options.d) * hidden;
  Json row;
  row["fwd_ms"] = bench::median(fwd) * 1e3;
  row["fwd_bwd_ms"] = bench::median(both) * 1e3;
  row["median_ms"] = bench::median(both) * 1e3;
  row["limit_ms"] = flops / limits.gemm_flops * 1e3;
  row["share"] = flops / limits.gemm_flops / bench::median(both);
  print(options, row);
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
  const bench::Limits limits = bench::measure_limits(dtype);
  const auto model = moe::build_model(config.model, {dtype, kCpu}, false);
  model->initialise(1);
  const int64_t steps = std::min(options.steps, context / 2);
  infer::Session session(*model, options.batch, context);
  std::vector<infer::Tokens> texts(static_cast<size_t>(options.batch));
  for (infer::Tokens& text : texts) text.assign(static_cast<size_t>(context - steps), 1);
  session.prefill(texts);
  const std::vector<int32_t> next(static_cast<size_t>(options.batch), 2);
  set_tracing(options.trace);
  clear_trace();
  const std::vector<double> seconds = bench::time_runs(0, steps, [&] { session.step(next); });
  const moe::ModelCost cost = moe::model_cost(config.model, dtype);
  // What one token must read: its active weights and the cache (position rows excepted).
  const auto bytes =
      static_cast<double>((cost.params_active - config.model.context * config.model.dim) *
                          size_of(dtype)) +
      static_cast<double>(session.cache_bytes());
  const double limit = bytes / limits.read_bytes;
  Json row;
  row["ms_per_token"] = bench::median(seconds) * 1e3;
  row["median_ms"] = bench::median(seconds) * 1e3;
  row["limit_ms"] = limit * 1e3;
  row["share"] = limit / bench::median(seconds);
  row["bytes"] = bytes;
  row["limit_read_gb_s"] = limits.read_bytes * 1e-9;
  print(options, row);
  print_trace(options, static_cast<double>(steps));
}

}  // namespace

void add_bench(CLI::App& app) {
  constexpr int64_t kMost = int64_t{1} << 40;
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
  };
  auto train_options = std::make_shared<Options>();
  CLI::App* train = command->add_subcommand("train", "Whole steps of a config");
  train->add_option("config", train_options->config, "TOML config")->required();
  train->add_option("overrides", train_options->overrides, "settings as key=value");
  train->add_option("--device", train_options->device, "cpu, cuda or auto");
  common(train, train_options);
  train->callback([train_options] { bench_train(*train_options); });

  auto layer_options = std::make_shared<Options>();
  CLI::App* layer = command->add_subcommand("layer", "One layer of experts, forward and backward");
  layer->add_option("--tokens", layer_options->tokens, "tokens")
      ->check(CLI::Range(int64_t{1}, kMost))
      ->capture_default_str();
  layer->add_option("--d", layer_options->d, "features")
      ->check(CLI::Range(int64_t{1}, kMost))
      ->capture_default_str();
  layer->add_option("--experts", layer_options->experts, "experts; 0 = a dense MLP")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  layer->add_option("--top-k", layer_options->top_k, "experts a token")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  layer->add_option("--hidden", layer_options->hidden, "hidden size; 0 = 4 d")
      ->check(CLI::Range(int64_t{0}, kMost));
  layer->add_option("--capacity", layer_options->capacity, "capacity factor; 0 = dropless")
      ->check(CLI::Range(0.0, 1e6));
  layer->add_option("--skew", layer_options->skew, "uniform, zipf or one")->capture_default_str();
  layer->add_option("--dtype", layer_options->dtype, "f64, f32 or bf16")->capture_default_str();
  common(layer, layer_options);
  layer->callback([layer_options] { bench_layer(*layer_options); });

  auto decode_options = std::make_shared<Options>();
  decode_options->steps = 32;
  CLI::App* decode = command->add_subcommand("decode", "One token a time with a cache");
  decode->add_option("config", decode_options->config, "TOML config")->required();
  decode->add_option("overrides", decode_options->overrides, "settings as key=value");
  decode->add_option("--batch", decode_options->batch, "texts at once")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  decode->add_option("--context", decode_options->context, "tokens in the cache");
  common(decode, decode_options);
  decode->callback([decode_options] { bench_decode(*decode_options); });
}

}  // namespace pyramoe
