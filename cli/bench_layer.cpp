#include "cli/bench_layer.h"

#include <fmt/format.h>

#include <cmath>

#include "autograd/ops.h"
#include "cli/bench_limits.h"
#include "core/graph.h"
#include "core/json.h"
#include "core/kernel.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/moe.h"
#include "moe/build_model.h"

namespace pyramoe::bench {
namespace {

using Options = LayerOptions;

DType dtype_named(const std::string& name) {
  if (name == "f64") return DType::f64;
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail(Exit::config, "--dtype ", name, ": expected f64, f32 or bf16");
}

struct Bench {
  Device device;
  DType dtype;
  std::unique_ptr<nn::FeedForward> layer;
  Tensor x;  // (N, D)
  Tensor router;
  nn::Context context;
};

void check(const Options& o) {
  if (o.skew == "uniform" || o.skew == "even") return;
  if (o.skew != "one" && o.skew != "zipf") {
    fail(Exit::config, "--skew ", o.skew, ": expected uniform, even, zipf or one");
  }
  if (o.experts < 1 || o.experts > o.d) {
    fail(Exit::config, "--skew ", o.skew, " marks a token's expert by a feature: expected ",
         "--experts from 1 to --d = ", o.d, ", got ", o.experts);
  }
}

// Expert e's router row reads feature e; a token raises the feature of the expert it wants.
void steer(const Options& o, Tensor& x, const Tensor& router) {
  double total = 0;
  for (int64_t e = 0; e < o.experts; ++e) total += 1.0 / static_cast<double>(e + 1);
  for (int64_t n = 0; n < o.tokens; ++n) {
    int64_t want = 0;
    double left = static_cast<double>(random_uniform({2, RngPurpose::test, 0, 0}, n)) * total;
    while (o.skew == "zipf" && want + 1 < o.experts && left > 1.0 / static_cast<double>(want + 1)) {
      left -= 1.0 / static_cast<double>(++want);
    }
    x.data<double>()[n * o.d + want] += 50;
  }
  Tensor eye = Tensor::zeros(router.shape(), DType::f64);
  for (int64_t e = 0; e < o.experts; ++e) eye.data<double>()[e * o.d + e] = 1;
  router.copy_from(eye.to(router.dtype()).to(router.device()));
}

void make_parameters(Bench& bench) {
  uint32_t stream = 1;
  if (bench.device.type == DeviceType::cpu) bench.layer->initialise(1);
  for (nn::Parameter* p : bench.layer->parameters()) {
    if (bench.device.type != DeviceType::cpu) fill_random(p->var.value(), 0.02, stream++);
    p->var.place_grad(empty_like(p->var.value()));
    if (p->name.find("router.weight") != std::string::npos) bench.router = p->var.value();
  }
}

Bench make_bench(const Options& o) {
  moe::ModelConfig config;
  config.layers = 1;
  config.dim = o.d;
  config.heads = 1;
  config.hidden = config.expert_hidden = o.hidden;
  config.experts = std::to_string(o.experts);
  config.top_k = o.top_k;
  config.capacity_factor = o.capacity;
  config.force_balance = o.skew == "even";
  config.context = o.tokens;
  Bench bench{parse_device(o.device), dtype_named(o.dtype), {}, {}, {}, {}};
  nn::Build build{bench.dtype, bench.device, false};
  build.bias = false;  // as the peers' layers
  bench.layer = moe::build_feed_forward(config, moe::layer_plan(config).at(0), build);
  if (auto* moe = dynamic_cast<moe::MoeLayer*>(bench.layer.get())) {
    moe->router().allow_fused(!o.plain_router);
  }
  make_parameters(bench);
  Tensor x({o.tokens, o.d}, DType::f64);
  const RngKey key{1, RngPurpose::test, 0, 0};
  for (int64_t i = 0; i < x.numel(); ++i) {  // uniform, of variance 1
    x.data<double>()[i] =
        (static_cast<double>(random_uniform(key, static_cast<uint64_t>(i))) - 0.5) * 3.4641016;
  }
  if (o.skew == "one" || o.skew == "zipf") steer(o, x, bench.router);
  bench.x = x.to(bench.dtype).to(bench.device);
  bench.context.training = true;
  bench.context.batch = 1;
  bench.context.length = o.tokens;
  return bench;
}

// The tokens as an op's result, not a leaf: their gradient is computed and dropped.
Var as_result(const Tensor& x) {
  static const Var leaf(Tensor::zeros({1}, DType::f32), true);
  return record("tokens", {x}, {leaf},
                [](const Grads&, const GradInto&) -> Grads { return {Tensor()}; })[0];
}

// FLOPs of the products, and the bytes nobody can save: weights read twice and their gradients
// written, five passes over the hidden activations, six over the tokens.
double limit_seconds(const Options& o, const Limits& limits, DType dtype) {
  const auto rows = static_cast<double>(o.tokens * o.top_k), d = static_cast<double>(o.d);
  const auto f = static_cast<double>(o.hidden_size());
  const double flops = 12 * rows * d * f;
  const double bytes = static_cast<double>(size_of(dtype)) *
                       (3 * 2 * static_cast<double>(std::max<int64_t>(o.experts, 1)) * d * f +
                        5 * rows * f + 6 * static_cast<double>(o.tokens) * d);
  return std::max(flops / limits.gemm_flops, bytes / limits.copy_bytes);
}

void print(const Options& o, const Json& row) {
  if (o.json) {
    fmt::print("{}\n", row.dump());
    return;
  }
  for (const auto& [key, value] : row.items()) {
    if (key == "kernels") continue;
    fmt::print("{:<22} {:>22}\n", key,
               value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump());
  }
  if (!row.contains("kernels")) return;
  fmt::print("\n{:<28} {:>9} {:>9} {:>9} {:>7}\n", "kernel", "ms", "GB", "GFLOP", "share");
  for (const Json& k : row["kernels"]) {
    fmt::print("{:<28} {:>9.4f} {:>9.3f} {:>9.1f} {:>7.2f}\n", k["name"].get<std::string>(),
               k["median_ms"].get<double>(), k["bytes"].get<double>() * 1e-9,
               k["flops"].get<double>() * 1e-9, k["share"].get<double>());
  }
}

void run(const Options& o) {
  check(o);
  Bench bench = make_bench(o);
  const auto forward = [&] {
    bench.context.stats.clear();
    return bench.layer->forward(as_result(bench.x), bench.context);
  };
  const auto forward_only = [&] {
    const NoGrad no_grad;
    forward();
  };
  const Tensor seed = Tensor::full(bench.x.shape(), bench.dtype, 1e-3, bench.device);
  const bool with_loss = o.experts > 0;
  const Tensor loss_seed =
      Tensor::full({1}, bench.dtype == DType::f64 ? DType::f64 : DType::f32, 0.01, bench.device);
  const auto both = [&] {
    for (nn::Parameter* p : bench.layer->parameters()) p->var.reset_grad();
    const nn::FfnOut out = forward();
    if (with_loss) {
      backward({out.y, out.balance_loss}, {seed, loss_seed});
    } else {
      backward(out.y, seed);
    }
  };
  const bool gpu = bench.device.type == DeviceType::cuda;
  const auto timed = [&](const std::function<void()>& call) {
    return median(time_runs(o.warmup, o.steps,
                            [&] {
                              call();
                              device_synchronize(bench.device);
                            })) *
           1e3;
  };
  Json row;
  row["skew"] = o.skew;
  row["d"] = o.d;
  row["experts"] = o.experts;
  row["capacity"] = o.capacity;
  if (gpu) {  // replays first, as the peers' scripts do: a card grows slower while it grows warm
    row["fwd_ms"] = replay_seconds(bench.device, 1, o.steps, forward_only) * 1e3;
    row["fwd_bwd_ms"] = replay_seconds(bench.device, 1, o.steps, both) * 1e3;
  }
  row[gpu ? "eager_fwd_ms" : "fwd_ms"] = timed(forward_only);
  row[gpu ? "eager_fwd_bwd_ms" : "fwd_bwd_ms"] = timed(both);
  const Limits limits = measure_limits(bench.dtype, bench.device);
  const double limit = limit_seconds(o, limits, bench.dtype);
  row["median_ms"] = row["fwd_bwd_ms"];
  row["limit_ms"] = limit * 1e3;
  row["share"] = limit * 1e3 / row["fwd_bwd_ms"].get<double>();
  row["limit_gemm_gflops"] = limits.gemm_flops * 1e-9;
  row["limit_copy_gb_s"] = limits.copy_bytes * 1e-9;
  if (gpu && with_loss && o.kernels) {
    for (const KernelTime& k :
         time_layer_kernels(o, bench.device, bench.dtype, bench.x, bench.router)) {
      const double best = std::max(k.bytes / limits.copy_bytes, k.flops / limits.gemm_flops);
      row["kernels"].push_back({{"name", k.name},
                                {"median_ms", k.seconds * 1e3},
                                {"bytes", k.bytes},
                                {"flops", k.flops},
                                {"limit_ms", best * 1e3},
                                {"share", best / k.seconds}});
    }
  }
  print(o, row);
}

}  // namespace

double replay_seconds(Device device, int64_t calls, int64_t replays,
                      const std::function<void()>& call) {
  device_synchronize(device);
  reset_device_peak_bytes(device);
  const int64_t before = device_bytes(device);
  call();
  const int64_t need = device_peak_bytes(device) - before;
  Graph graph;
  graph.capture(device, need, [&] {
    for (int64_t i = 0; i < calls; ++i) call();
  });
  const std::vector<double> seconds = time_runs(device, 2, replays, [&] { graph.replay(); });
  return median(seconds) / static_cast<double>(calls);
}

// Gumbel noise, because it is drawn on every device: mean 0.5772, standard deviation 1.2825.
void fill_random(Tensor y, double std, uint32_t stream) {
  kernels::fill(-0.5772156649, y);
  kernels::add_gumbel(y, {stream, RngPurpose::test, 0, 0}, 0, y);
  kernels::scale(y, std / 1.2825498302, y);
}

void add_layer_bench(CLI::App& bench) {
  constexpr int64_t kMost = int64_t{1} << 40;
  auto o = std::make_shared<Options>();
  CLI::App* layer = bench.add_subcommand("layer", "One layer of experts, forward and backward");
  layer->add_option("--device", o->device, "cpu, cuda or auto")->capture_default_str();
  layer->add_option("--tokens", o->tokens, "tokens")
      ->check(CLI::Range(int64_t{1}, kMost))
      ->capture_default_str();
  layer->add_option("--d", o->d, "features")
      ->check(CLI::Range(int64_t{1}, kMost))
      ->capture_default_str();
  layer->add_option("--experts", o->experts, "experts; 0 = a dense MLP")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  layer->add_option("--top-k", o->top_k, "experts a token")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  layer->add_option("--hidden", o->hidden, "hidden size; 0 = 4 d")
      ->check(CLI::Range(int64_t{0}, kMost));
  layer->add_option("--capacity", o->capacity, "capacity factor; 0 = dropless")
      ->check(CLI::Range(0.0, 1e6));
  layer
      ->add_option("--skew", o->skew,
                   "uniform (random tokens and router), even (round robin), zipf or one")
      ->capture_default_str();
  layer->add_option("--dtype", o->dtype, "f64, f32 or bf16")->capture_default_str();
  layer->add_option("--steps", o->steps, "timed runs; medians are printed")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  layer->add_option("--warmup", o->warmup, "runs before the timed ones")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  layer->add_flag("--plain-router", o->plain_router, "route op by op, not by the fused kernel");
  layer->add_flag("!--no-kernels", o->kernels, "leave out the table of single kernels (GPU)");
  layer->add_flag("--json", o->json, "one JSON object");
  layer->callback([o] { run(*o); });
}

}  // namespace pyramoe::bench
