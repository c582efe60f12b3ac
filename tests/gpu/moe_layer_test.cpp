// A whole MoE layer on CUDA: equal to the CPU's in f32, fused routing equal to routing op by op,
// and captured as a graph (which any wait of the host would break) equal to running it, bit for
// bit.
#include "core/graph.h"
#include "moe/build_model.h"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

struct Settings {
  const char* name;
  int64_t experts, top_k;
  double capacity;
  const char* drop_by;
  bool renormalize;
};
const Settings kSettings[] = {{"top-1", 8, 1, 0, "position", false},
                              {"top-1, capacity 1", 8, 1, 1, "position", false},
                              {"top-2, random drops", 5, 2, 1.25, "random", true},
                              {"top-2, probability", 16, 2, 0.5, "probability", true}};

constexpr int64_t kSequences = 4, kLength = 64, kDim = 64;

moe::ModelConfig config_of(const Settings& s) {
  moe::ModelConfig config;
  config.layers = 1;
  config.dim = kDim;
  config.heads = 1;
  config.context = kLength;
  config.experts = std::to_string(s.experts);
  config.top_k = s.top_k;
  config.capacity_factor = s.capacity;
  config.drop_by = s.drop_by;
  config.renormalize = s.renormalize;
  config.z_coef = 1e-3;
  config.init_std = 0.1;
  return config;
}

// A layer with its input; run() leaves the output and all gradients.
struct Layer {
  std::unique_ptr<moe::MoeLayer> layer;
  Var x;
  Tensor seed, loss_seed, z_seed;
  nn::Context context;
  Tensor y, balance, z;

  Layer(const Settings& s, DType type, Device device, bool fused) {
    const moe::ModelConfig config = config_of(s);
    const auto plan = moe::layer_plan(config).at(0);
    layer = std::make_unique<moe::MoeLayer>(config, plan, nn::Build{type, device});
    layer->initialise(3);
    layer->router().allow_fused(fused);
    const Shape shape{kSequences * kLength, kDim};
    x = Var(normal(shape, type).to(device), true);
    seed = normal(shape, type, 0.1, 5).to(device);
    loss_seed = Tensor::full({1}, DType::f32, 0.5, device);
    z_seed = Tensor::full({1}, DType::f32, 0.01, device);
    context.training = true;
    context.batch = kSequences;
    context.length = kLength;
    x.place_grad(empty_like(x.value()));
    for (nn::Parameter* p : layer->parameters()) p->var.place_grad(empty_like(p->var.value()));
  }
  void run() {
    context.stats.clear();
    x.reset_grad();
    for (nn::Parameter* p : layer->parameters()) p->var.reset_grad();
    const nn::FfnOut out = layer->forward(x, context);
    y = out.y.value(), balance = out.balance_loss.value(), z = out.z_loss.value();
    backward({out.y, out.balance_loss, out.z_loss}, {seed, loss_seed, z_seed});
  }
  std::vector<std::pair<std::string, Tensor>> results() {
    std::vector<std::pair<std::string, Tensor>> all{
        {"y", y}, {"balance", balance}, {"z", z}, {"dx", x.grad()}};
    for (nn::Parameter* p : layer->parameters()) all.emplace_back("d " + p->name, p->var.grad());
    return all;
  }
};

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}
// How far b is from a, relative to a's norm.
double distance(const Tensor& a, const Tensor& b) {
  std::vector<double> x = a.to_vector();
  const std::vector<double> y = b.to_vector();
  const double size = norm(x);
  for (size_t i = 0; i < x.size(); ++i) x[i] -= y[i];
  return norm(x) / std::max(size, 1e-30);
}

TEST(MoeLayerGpu, IsTheCpusInF32) {
  SKIP_WITHOUT_GPU();
  for (const Settings& s : kSettings) {
    for (const bool fused : {false, true}) {
      Layer cpu(s, DType::f32, kCpu, false), gpu(s, DType::f32, kGpu, fused);
      cpu.run();
      gpu.run();
      const auto want = cpu.results(), got = gpu.results();
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_LT(distance(want[i].second, got[i].second), 1e-5)
            << s.name << (fused ? ", fused: " : ": ") << want[i].first;
      }
    }
  }
}

// In bf16 a choice that the rounding of x decides is the same on both paths: both see the same x.
TEST(MoeLayerGpu, FusedRoutingIsRoutingOpByOp) {
  SKIP_WITHOUT_GPU();
  for (const Settings& s : kSettings) {
    Layer plain(s, DType::bf16, kGpu, false), fused(s, DType::bf16, kGpu, true);
    plain.run();
    fused.run();
    const auto want = plain.results(), got = fused.results();
    for (size_t i = 0; i < want.size(); ++i) {
      // dx is rounded once more op by op; the experts' part is the same numbers.
      EXPECT_LT(distance(want[i].second, got[i].second), 6e-3) << s.name << ": " << want[i].first;
    }
  }
}

TEST(MoeLayerGpu, AGraphReplaysWhatRunningItGives) {
  SKIP_WITHOUT_GPU();
  for (const Settings& s : kSettings) {
    for (const DType type : {DType::f32, DType::bf16}) {
      Layer eager(s, type, kGpu, true), replayed(s, type, kGpu, true);
      eager.run();
      replayed.run();
      const auto want = eager.results();
      Graph graph;
      graph.capture(kGpu, int64_t{64} << 20, [&] { replayed.run(); });
      for (auto& [name, tensor] : replayed.results()) poison(tensor);
      graph.replay();
      graph.replay();
      const auto got = replayed.results();
      for (size_t i = 0; i < want.size(); ++i) {
        expect_same_bits(want[i].second, got[i].second, cat(s.name, ": ", want[i].first));
      }
    }
  }
}

}  // namespace
}  // namespace pyramoe::gputest
