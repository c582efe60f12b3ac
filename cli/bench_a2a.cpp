// Flat, hierarchical and coordinated exchanges of the same payload among the ranks there are,
// beside what an alpha-beta model predicts. Links slower than this machine's are modelled by
// dist/link_model.h; the processor's own cost of a message is measured without it and shown apart.
#include "cli/bench_a2a.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/json.h"
#include "dist/link_model.h"
#include "dist/mesh.h"
#include "dist/runtime.h"

namespace pyramoe {
namespace {

using dist::ProcessGroup;

struct Options {
  int64_t node_size = 0, tensor = 2, repeats = 20;
  std::string link_model = "20,10,500,1";
  std::vector<int64_t> bytes{1024, 8192, 65536, 524288};
  bool json = false;
};

// The groups of every way.
struct Ways {
  ProcessGroup world, inside, between, equal, tensor;
};

Ways make_ways(const ProcessGroup& world, int64_t tensor) {
  const dist::Fabric& fabric = *world.fabric();
  const int node = fabric.node(world.rank());
  Ways ways;
  ways.world = world;
  ways.inside = world.split(node, world.rank(), "inside");
  ways.between = world.split(ways.inside.rank(), world.rank(), "between");
  const auto t = static_cast<int>(tensor);
  ways.equal = world.split(world.rank() % t, world.rank(), "equal tensor ranks");
  ways.tensor = world.split(world.rank() / t, world.rank(), "tensor");
  return ways;
}

Tensor bytes_of(int64_t rows, int64_t bytes) { return Tensor::zeros({rows, bytes}, DType::u8); }

// Each exchange moves `payload` bytes from every rank.
void flat(const Ways& w, int64_t payload) {
  const int64_t p = w.world.size();
  const Tensor x = bytes_of(p, payload / p);
  Tensor y = bytes_of(p, payload / p);
  w.world.all_to_all(x, y);
}

void hierarchical(const Ways& w, int64_t payload) {
  for (const ProcessGroup* group : {&w.inside, &w.between}) {
    const int64_t n = group->size();
    const Tensor x = bytes_of(n, payload / n);
    Tensor y = bytes_of(n, payload / n);
    group->all_to_all(x, y);
  }
}

void coordinated(const Ways& w, int64_t payload) {
  const int64_t t = w.tensor.size(), n = w.equal.size();
  const Tensor x = bytes_of(n, payload / t / n);
  Tensor y = bytes_of(n, payload / t / n);
  w.equal.all_to_all(x, y);
  const Tensor own = bytes_of(1, payload / t);
  Tensor all = bytes_of(t, payload / t);
  w.tensor.all_gather(own, all);
}

// Seconds of one exchange: the slowest rank, the median of the repeats.
//   sync  a group whose own messages do not keep the links busy
double time_of(const ProcessGroup& sync, const Ways& w, void (*exchange)(const Ways&, int64_t),
               int64_t payload, int64_t repeats) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats; ++i) {
    sync.barrier();
    const double begin = dist::Fabric::now();
    exchange(w, payload);
    Tensor time = Tensor::scalar(dist::Fabric::now() - begin, DType::f64);
    sync.all_reduce(time, dist::Reduce::max);
    seconds.push_back(time.item());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[static_cast<size_t>(repeats / 2)];
}

// One round of messages of `bytes` to every other member: each link takes its own one at a time.
double predict(const dist::LinkModel& model, const ProcessGroup& group, double bytes) {
  double seconds[2] = {0, 0};
  const dist::Fabric& fabric = *group.fabric();
  for (const int member : group.members()) {
    if (member == fabric.rank()) continue;
    const auto link = static_cast<size_t>(fabric.link(fabric.rank(), member));
    const dist::LinkSpeed& speed = model.speed[link];
    seconds[link] += speed.alpha + (speed.beta > 0 ? bytes / speed.beta : 0);
  }
  return std::max(seconds[0], seconds[1]);
}

struct Way {
  const char* name;
  void (*exchange)(const Ways&, int64_t);
  double (*model)(const dist::LinkModel&, const Ways&, double);
};

const Way kWays[] = {
    {"flat", flat,
     [](const dist::LinkModel& m, const Ways& w, double s) {
       return predict(m, w.world, s / w.world.size());
     }},
    {"hierarchical", hierarchical,
     [](const dist::LinkModel& m, const Ways& w, double s) {
       return predict(m, w.inside, s / w.inside.size()) +
              predict(m, w.between, s / w.between.size());
     }},
    {"coordinated", coordinated,
     [](const dist::LinkModel& m, const Ways& w, double s) {
       const double slice = s / w.tensor.size();
       return predict(m, w.equal, slice / w.equal.size()) + predict(m, w.tensor, slice);
     }},
};

// Messages a rank sends in one exchange, by link.
dist::TrafficRow count(const Ways& w, void (*exchange)(const Ways&, int64_t), int64_t payload) {
  dist::Traffic& traffic = w.world.fabric()->traffic();
  traffic.clear();
  exchange(w, payload);
  return traffic.total();
}

void bench(const Options& options) {
  dist::Runtime runtime;
  if (!runtime.many()) {
    fail(Exit::config, "bench a2a measures several ranks: mpirun -np 8 pyramoe bench a2a");
  }
  const int p = runtime.world().size();
  if (p % options.tensor != 0 || (options.node_size > 0 && p % options.node_size != 0)) {
    fail(Exit::config, "--tensor ", options.tensor, " and --node-size ", options.node_size,
         " must divide the ", p, " ranks");
  }
  runtime.configure({options.node_size, 120, ""});
  const Ways bare = make_ways(runtime.world(), options.tensor);
  runtime.configure({options.node_size, 0, options.link_model});
  const Ways ways = make_ways(runtime.world(), options.tensor);
  const dist::LinkModel model = dist::parse_link_model(options.link_model);
  const bool main = runtime.world().rank() == 0;
  const int64_t smallest = 8 * p;
  if (main && !options.json) {
    fmt::print("{} ranks, nodes of {}, tensor degree {}; links {}\n", p, bare.inside.size(),
               options.tensor, options.link_model);
    fmt::print("{:<14} {:>10} {:>9} {:>9} {:>12} {:>12} {:>12}\n", "exchange", "bytes/rank",
               "inside", "between", "measured us", "model us", "cpu us");
  }
  for (const int64_t wanted : options.bytes) {
    const int64_t payload = std::max(smallest, wanted / smallest * smallest);
    for (const Way& way : kWays) {
      const double cpu = time_of(bare.world, bare, way.exchange, payload, options.repeats);
      const dist::TrafficRow sent = count(bare, way.exchange, payload);
      const double measured = time_of(bare.world, ways, way.exchange, payload, options.repeats);
      const double predicted = way.model(model, ways, static_cast<double>(payload));
      if (!main) continue;
      if (options.json) {
        Json row = {{"exchange", way.name},
                    {"bytes", payload},
                    {"inside", sent.messages[0]},
                    {"between", sent.messages[1]},
                    {"measured_us", measured * 1e6},
                    {"model_us", predicted * 1e6},
                    {"cpu_us", cpu * 1e6}};
        fmt::print("{}\n", row.dump());
      } else {
        fmt::print("{:<14} {:>10} {:>9} {:>9} {:>12.0f} {:>12.0f} {:>12.0f}\n", way.name, payload,
                   sent.messages[0], sent.messages[1], measured * 1e6, predicted * 1e6, cpu * 1e6);
      }
    }
  }
}

}  // namespace

void add_bench_a2a(CLI::App& bench_app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench_app.add_subcommand(
      "a2a", "Exchanges between ranks against message size: mpirun -np 8 pyramoe bench a2a");
  command->add_option("--node-size", options->node_size, "ranks of a virtual node");
  command->add_option("--tensor", options->tensor, "tensor degree of the coordinated exchange")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--link-model", options->link_model, "as parallel.link_model")
      ->capture_default_str();
  command->add_option("--bytes", options->bytes, "payloads of a rank")->capture_default_str();
  command->add_option("--repeats", options->repeats, "exchanges timed; the median counts")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object a row");
  command->callback([options] { bench(*options); });
}

}  // namespace pyramoe
