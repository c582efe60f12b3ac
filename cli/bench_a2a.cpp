// Flat, hierarchical and coordinated exchanges of the same payload among the ranks there are,
// beside what an alpha-beta model predicts. Links slower than this machine's are modelled by
// dist/link_model.h; the processor's own cost of a message is measured without it and shown apart.
// With --real-links nothing is delayed: the links there are, beside a model of them.
#include "cli/bench_a2a.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

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
  std::vector<std::string> exchanges{"flat", "hierarchical", "coordinated"};
  bool real_links = false;  // the link model predicts and delays nothing
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

// What a rank sends in one exchange, by link.
dist::TrafficRow count(const Ways& w, void (*exchange)(const Ways&, int64_t), int64_t payload) {
  dist::Traffic& traffic = w.world.fabric()->traffic();
  traffic.clear();
  exchange(w, payload);
  return traffic.total();
}

struct Row {
  const char* exchange;
  int64_t payload;
  dist::TrafficRow sent;  // by one rank
  double measured, model;
  std::optional<double> cpu;  // without the link model; none where nothing is modelled
};

void print_head(const Options& options, const Ways& w) {
  if (options.json) return;
  fmt::print("{} ranks, nodes of {}, tensor degree {}; {} {}\n", w.world.size(), w.inside.size(),
             options.tensor, options.real_links ? "real links, predicted as" : "links",
             options.link_model);
  fmt::print("{:<14} {:>10} {:>9} {:>9} {:>12} {:>12}{}\n", "exchange", "bytes/rank", "inside",
             "between", "measured us", "model us", options.real_links ? "" : "       cpu us");
}

void print_row(const Options& options, const Row& row) {
  const dist::TrafficRow& sent = row.sent;
  if (!options.json) {
    fmt::print("{:<14} {:>10} {:>9} {:>9} {:>12.0f} {:>12.0f}", row.exchange, row.payload,
               sent.messages[0], sent.messages[1], row.measured * 1e6, row.model * 1e6);
    fmt::print("{}\n", row.cpu ? fmt::format(" {:>12.0f}", *row.cpu * 1e6) : "");
    return;
  }
  Json json = {{"exchange", row.exchange},          {"bytes", row.payload},
               {"inside", sent.messages[0]},        {"between", sent.messages[1]},
               {"bytes_inside", sent.bytes[0]},     {"bytes_between", sent.bytes[1]},
               {"measured_us", row.measured * 1e6}, {"model_us", row.model * 1e6}};
  if (row.cpu) json["cpu_us"] = *row.cpu * 1e6;
  fmt::print("{}\n", json.dump());
}

void check(const Options& options, const dist::Runtime& runtime) {
  if (!runtime.many()) {
    fail(Exit::config, "bench a2a measures several ranks: mpirun -np 8 pyramoe bench a2a");
  }
  const int p = runtime.world().size();
  if (p % options.tensor != 0 || (options.node_size > 0 && p % options.node_size != 0)) {
    fail(Exit::config, "--tensor ", options.tensor, " and --node-size ", options.node_size,
         " must divide the ", p, " ranks");
  }
}

void bench(const Options& options) {
  dist::Runtime runtime;
  check(options, runtime);
  runtime.configure({options.node_size, 120, ""});
  const Ways bare = make_ways(runtime.world(), options.tensor);
  if (!options.real_links) runtime.configure({options.node_size, 0, options.link_model});
  const Ways ways = make_ways(runtime.world(), options.tensor);
  const dist::LinkModel model = dist::parse_link_model(options.link_model);
  const bool main = runtime.world().rank() == 0;
  const int64_t smallest = 8 * runtime.world().size();
  if (main) print_head(options, ways);
  for (const int64_t wanted : options.bytes) {
    const int64_t payload = std::max(smallest, wanted / smallest * smallest);
    for (const Way& way : kWays) {
      if (std::count(options.exchanges.begin(), options.exchanges.end(), way.name) == 0) continue;
      const auto seconds = [&](const Ways& groups) {
        return time_of(bare.world, groups, way.exchange, payload, options.repeats);
      };
      Row row{way.name, payload, count(bare, way.exchange, payload), 0, 0, {}};
      if (!options.real_links) row.cpu = seconds(bare);
      row.measured = seconds(ways);
      row.model = way.model(model, ways, static_cast<double>(payload));
      if (main) print_row(options, row);
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
  command->add_flag("--real-links", options->real_links,
                    "time the links there are; --link-model only predicts");
  command->add_option("--exchange", options->exchanges, "which of them")
      ->check(CLI::IsMember({"flat", "hierarchical", "coordinated"}))
      ->capture_default_str();
  command->add_option("--bytes", options->bytes, "payloads of a rank")->capture_default_str();
  command->add_option("--repeats", options->repeats, "exchanges timed; the median counts")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object a row");
  command->callback([options] { bench(*options); });
}

}  // namespace pyramoe
