// A row is a kernel on the shapes of a training step: median time, the bytes and FLOPs it cannot
// avoid, and its share of the limit: the slower of copying those bytes and multiplying those FLOPs
// at the rates measured in the same run.
#include "cli/bench_ops.h"

#include <fmt/format.h>

#include <memory>

#include "autograd/ops.h"
#include "cli/bench_layer.h"
#include "cli/bench_limits.h"
#include "cli/bench_memory.h"
#include "core/json.h"
#include "core/kernels/attention.h"
#include "core/kernels/matmul.h"

namespace pyramoe::bench {
namespace {

struct OpsOptions {
  std::string device = "auto", dtype = "bf16";
  int64_t tokens = 16384, d = 1024, heads = 16, context = 1024, vocab = 50304;
  bool json = false;
};

struct Bench {
  OpsOptions o;
  Device device;
  DType dtype;
  Limits limits;
  Json rows = Json::array();
  uint32_t stream = 100;

  double size() const { return static_cast<double>(size_of(dtype)); }
  Tensor random(Shape shape, double std = 1) {
    Tensor x(std::move(shape), dtype, device);
    fill_random(x, std, stream++);
    return x;
  }
  Tensor wide(Shape shape) const { return Tensor::zeros(std::move(shape), DType::f32, device); }

  void row(const std::string& name, double bytes, double flops, const std::function<void()>& call) {
    add(name, bytes, flops, replay_seconds(device, 5, 9, call));
  }
  void add(const std::string& name, double bytes, double flops, double seconds) {
    const double limit = std::max(bytes / limits.copy_bytes, flops / limits.gemm_flops);
    rows.push_back({{"name", name},
                    {"median_ms", seconds * 1e3},
                    {"limit_ms", limit * 1e3},
                    {"share", limit / seconds},
                    {"bytes", bytes},
                    {"flops", flops}});
    if (o.json) return;
    fmt::print(
        "{:<44} {:>9.4f} ms  limit {:>9.4f}  share {:>4.0f} %  {:>7.0f} GB/s {:>6.0f} TFLOP/s\n",
        name, seconds * 1e3, limit * 1e3, 100 * limit / seconds, bytes / seconds * 1e-9,
        flops / seconds * 1e-12);
  }
};

void products(Bench& b) {
  const int64_t n = b.o.tokens, d = b.o.d;
  struct Size {
    const char* name;
    int64_t in, out;
  };
  for (const Size& s : {Size{"qkv", d, 3 * d}, Size{"out", d, d}, Size{"up", d, 4 * d},
                        Size{"down", 4 * d, d}, Size{"head", d, b.o.vocab}}) {
    const Tensor x = b.random({n, s.in}), w = b.random({s.out, s.in}, 0.02);
    const Tensor bias = b.random({s.out}, 0.02);
    Tensor y({n, s.out}, b.dtype, b.device), dx = empty_like(x), dw = b.wide({s.out, s.in});
    const auto rows = static_cast<double>(n), in = static_cast<double>(s.in),
               out = static_cast<double>(s.out);
    const double flops = 2 * rows * in * out, bytes = b.size() * (rows * (in + out) + in * out);
    const std::string size = fmt::format(" {} x {} x {}", n, s.in, s.out);
    b.row(s.name + size, bytes, flops, [&] { kernels::linear_forward(x, w, bias, y); });
    if (std::string(s.name) == "up") {
      Tensor pre = empty_like(y);
      b.row(s.name + size + " with gelu", bytes + b.size() * rows * out, flops,
            [&] { kernels::linear_gelu_forward(x, w, bias, pre, y); });
    }
    b.row(s.name + size + " dx", bytes, flops,
          [&] { kernels::matmul(y, false, w, false, false, dx); });
    b.row(s.name + size + " dw added in f32", bytes + (8 - b.size()) * in * out, flops,
          [&] { kernels::matmul(y, true, x, false, true, dw); });
  }
}

// The head with its losses up to the gradient of the logits, as a step has it: without and with a
// teacher of the same width. The two products behind that gradient have rows of their own.
void head_losses(Bench& b) {
  const int64_t n = b.o.tokens, d = b.o.d, v = b.o.vocab;
  const Var x(b.random({n, d}), true), w(b.random({v, d}, 0.02), true);
  const ops::Teacher teacher{b.random({n, d}), b.random({v, d}, 0.02), 1,
                             Tensor::from(std::vector<double>{1, 1}, {2}, b.device)};
  const Tensor target = Tensor::zeros({n}, DType::i32, b.device);
  const auto nd = static_cast<double>(n * d), vd = static_cast<double>(v * d),
             nv = static_cast<double>(n * v);
  const double flops = 2 * nd * static_cast<double>(v);
  const std::string size = fmt::format(" {} x {} x {}", n, d, v);
  b.row("head and loss" + size, b.size() * (nd + vd + 3 * nv), flops,
        [&] { ops::head_loss(x, w, target); });
  b.row("head and loss with a teacher" + size, b.size() * (2 * (nd + vd) + 5 * nv), 2 * flops,
        [&] { ops::head_distill_loss(x, w, target, teacher); });
}

void memory_bound(Bench& b) {
  MemoryOptions options;
  options.d = b.o.d, options.loss_tokens = b.o.tokens, options.vocab = b.o.vocab;
  for (const KernelTime& t : time_memory_kernels(options, b.device, b.dtype)) {
    b.add(t.name, t.bytes, t.flops, t.seconds);
  }
}

// FLOPs of the causal half.
void attention(Bench& b) {
  const int64_t t = b.o.context, batch = std::max<int64_t>(1, b.o.tokens / t), h = b.o.heads;
  const int64_t dh = b.o.d / h;
  const Tensor qkv = b.random({batch, t, 3, h, dh});
  Tensor y({batch, t, h * dh}, b.dtype, b.device), lse = b.wide({batch, h, t});
  const Tensor dy = b.random({batch, t, h * dh});
  Tensor dqkv = empty_like(qkv);
  const double flops = 2 * static_cast<double>(batch * h * dh) * static_cast<double>(t * t);
  const double bytes = static_cast<double>(qkv.bytes() + y.bytes());
  const std::string size = fmt::format(" B {} T {} H {} D {}", batch, t, h, dh);
  b.row("attention forward" + size, bytes, flops,
        [&] { kernels::attention_forward(qkv, {}, y, lse); });
  b.row("attention backward" + size, 2 * bytes, 2.5 * flops,
        [&] { kernels::attention_backward(dy, qkv, y, lse, {}, dqkv); });
  const kernels::AttentionDropout tenth{0.1, {1, RngPurpose::attention_dropout}};
  b.row("attention forward, dropout" + size, bytes, flops,
        [&] { kernels::attention_forward(qkv, tenth, y, lse); });
  b.row("attention backward, dropout" + size, 2 * bytes, 2.5 * flops,
        [&] { kernels::attention_backward(dy, qkv, y, lse, tenth, dqkv); });
}

void bench_ops(const OpsOptions& options) {
  const Device device = parse_device(options.device);
  if (device == kCpu) {
    fail(Exit::config, "bench ops times the kernels of a GPU; this build or machine has none. ",
         "Kernels on the CPU: pyramoe bench train CONFIG --trace");
  }
  if (options.dtype != "f32" && options.dtype != "bf16") {
    fail(Exit::config, "--dtype ", options.dtype, ": expected f32 or bf16");
  }
  const DType dtype = options.dtype == "f32" ? DType::f32 : DType::bf16;
  Bench b{options, device, dtype, measure_limits(dtype, device)};
  if (!options.json) {
    fmt::print("limits: copy {:.2f} TB/s, read {:.2f} TB/s, product {:.0f} TFLOP/s\n",
               b.limits.copy_bytes * 1e-12, b.limits.read_bytes * 1e-12,
               b.limits.gemm_flops * 1e-12);
  }
  products(b);
  head_losses(b);
  attention(b);
  memory_bound(b);
  if (!options.json) return;
  const Json out = {{"limit_copy_gb_s", b.limits.copy_bytes * 1e-9},
                    {"limit_read_gb_s", b.limits.read_bytes * 1e-9},
                    {"limit_gemm_gflops", b.limits.gemm_flops * 1e-9},
                    {"rows", b.rows}};
  fmt::print("{}\n", out.dump(1));
}

}  // namespace

void add_ops_bench(CLI::App& bench) {
  constexpr int64_t kMost = int64_t{1} << 30;
  auto o = std::make_shared<OpsOptions>();
  CLI::App* command = bench.add_subcommand("ops", "The kernels of a dense transformer on a GPU");
  const auto number = [&](const char* name, int64_t& value, const char* what) {
    command->add_option(name, value, what)
        ->check(CLI::Range(int64_t{1}, kMost))
        ->capture_default_str();
  };
  number("--tokens", o->tokens, "tokens of a micro-batch");
  number("--d", o->d, "features");
  number("--heads", o->heads, "attention heads");
  number("--context", o->context, "tokens of a sequence");
  number("--vocab", o->vocab, "vocabulary");
  command->add_option("--dtype", o->dtype, "f32 or bf16")->capture_default_str();
  command->add_option("--device", o->device, "cuda or auto");
  command->add_flag("--json", o->json, "one JSON object");
  command->callback([o] { bench_ops(*o); });
}

}  // namespace pyramoe::bench
