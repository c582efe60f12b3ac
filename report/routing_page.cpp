// See routing.h: reads a run and puts the page together.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/file.h"
#include "nn/checkpoint.h"
#include "report/axis.h"
#include "report/routing.h"
#include "report/routing_parts.h"
#include "report/run.h"
#include "report/table.h"
#include "train/progress.h"

namespace pyramoe::report {
namespace {

constexpr int64_t kMostColumns = 120;  // of a map over time

struct Material {
  RunReport run;
  std::vector<int64_t> blocks;  // those with experts
  std::vector<train::RoutingRecord> records;
  std::optional<Observation> seen;
  std::vector<std::string> missing;  // sentences
  Sharers who = Sharers::all;
};

int64_t experts_of(const Material& m, size_t layer) {
  return m.run.cost.layers[static_cast<size_t>(m.blocks[layer])].plan.experts;
}

std::string block_name(const Material& m, size_t layer) {
  return "block " + std::to_string(m.blocks[layer]);
}

void check_shape(const Material& m) {
  for (const train::RoutingRecord& record : m.records) {
    bool fits = record.load.size() == m.blocks.size();
    for (size_t l = 0; fits && l < m.blocks.size(); ++l) {
      fits = static_cast<int64_t>(record.load[l].size()) == experts_of(m, l);
    }
    if (!fits) {
      fail(Exit::data, m.run.folder, "/routing.jsonl: the record of steps ", record.first, " to ",
           record.last, " has not the layers and experts of ", m.run.folder, "/config.toml");
    }
  }
}

Material gather(const std::string& folder, const RoutingOptions& options) {
  Material m;
  m.run = read_run(folder);
  for (size_t b = 0; b < m.run.cost.layers.size(); ++b) {
    if (m.run.cost.layers[b].plan.experts > 0) m.blocks.push_back(static_cast<int64_t>(b));
  }
  if (m.blocks.empty()) {
    fail(Exit::config, "report --routing: ", folder,
         " is a dense model (moe.experts = ", quoted(m.run.config.model.experts),
         "), so nothing is routed; name a run with experts");
  }
  if (m.run.config.model.budget > 0) m.who = Sharers::busy;
  const int64_t steps = m.run.config.train.steps;
  if (m.run.step < steps) {
    m.missing.push_back(
        fmt::format("This run is at step {} of {}: what you see is what there is "
                    "so far.",
                    train::with_commas(m.run.step), train::with_commas(steps)));
  }
  m.records = train::read_routing(folder);
  check_shape(m);
  if (m.records.empty()) {
    m.missing.push_back(
        "There is no history of its training: <code>routing.jsonl</code> is missing or empty. "
        "Training writes it unless <code>train.record_routing</code> is 0.");
  }
  if (!nn::Checkpoint::exists(folder)) {
    m.missing.push_back(
        "There is no checkpoint, so nothing can be said about single tokens: "
        "who follows whom, and texts.");
    return m;
  }
  try {
    m.seen = observe(folder, m.run.config, options.tokens);
  } catch (const Error& error) {
    m.missing.push_back("Single tokens could not be looked at (who follows whom, texts): " +
                        html_escape(error.what()));
  }
  return m;
}

// ---- Top of the page

std::string tile(const std::string& value, const std::string& name, const std::string& meaning) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span><p>{}</p></div>\n", value, name,
                     meaning);
}

std::string tiles(const Material& m) {
  std::string out;
  if (!m.records.empty()) {
    const train::RoutingRecord& last = m.records.back();
    double busiest = 0, kept = 0, choices = 0;
    for (size_t l = 0; l < last.load.size(); ++l) {
      busiest += imbalance(last.load[l], m.who) / static_cast<double>(last.load.size());
      kept += static_cast<double>(last.kept[l]);
      for (const int64_t n : last.load[l]) choices += static_cast<double>(n);
    }
    if (choices > 0) {
      out += tile(fmt::format("{:.2f}×", busiest), "busiest expert",
                  "load of the busiest expert over an even share, mean of layers; 1 is balance");
      out += tile(fmt::format("{:.1f} %", 100 * (choices - kept) / choices), "dropped",
                  "choices that found their expert full at the end of training");
    }
  }
  if (!m.seen) return out;
  double entropy = 0, known = 0;
  const auto layers = static_cast<double>(m.seen->layers.size());
  for (const LayerObservation& layer : m.seen->layers) {
    entropy += layer.entropy / layers;
    known += shared_information(layer.by_domain) / layers;
  }
  out += tile(fmt::format("{:.2f}", entropy), "router entropy",
              "0: routers are sure of every token, 1: they have no preference");
  if (m.seen->domains.size() > 1) {
    out += tile(fmt::format("{:.3f}", known), "domains in the routing",
                "mutual information of domain and expert: 0 none, 1 each domain its own experts");
  }
  return out;
}

std::string head(const Material& m) {
  const moe::ModelConfig& model = m.run.config.model;
  std::string out = fmt::format(
      "<header><p class=\"over\">pyramoe · routing observatory</p>\n<h1>{}</h1>\n"
      "<p class=\"facts\">{} blocks, experts <code>{}</code>, {} of them for each token · {} "
      "parameters, {} active · step {} of {} · {} training tokens{}</p></header>\n",
      html_escape(m.run.name), model.layers, html_escape(model.experts), model.top_k,
      short_count(static_cast<double>(m.run.cost.params_total)),
      short_count(static_cast<double>(m.run.cost.params_active)), train::with_commas(m.run.step),
      train::with_commas(m.run.config.train.steps), short_count(static_cast<double>(m.run.tokens)),
      std::isfinite(m.run.loss) ? fmt::format(" · validation loss {:.4f}", m.run.loss) : "");
  if (!m.missing.empty()) {
    out += "<div class=\"missing\" role=\"note\">";
    for (const std::string& sentence : m.missing) out += "<p>" + sentence + "</p>";
    out += "</div>\n";
  }
  return out + "<div class=\"tiles\">\n" + tiles(m) + "</div>\n";
}

std::string section(const std::string& id, const std::string& title, const std::string& sentence,
                    const std::string& body) {
  return fmt::format("<section id=\"{}\"><h2>{}</h2>\n<p class=\"lede\">{}</p>\n{}</section>\n", id,
                     title, sentence, body);
}

// ---- Over time

std::string load_maps(const Material& m) {
  std::string out = map_legend("a quarter or less", "an even share", "four times or more");
  out += m.blocks.size() > 4 ? "<div class=\"times many\">\n" : "<div class=\"times\">\n";
  if (m.who == Sharers::busy) {
    out +=
        "<p class=\"note\">Experts come and go in this run (<code>moe.budget</code>): an even "
        "share "
        "is of those that had tokens, and a place without an expert is blue.</p>\n";
  }
  for (size_t l = 0; l < m.blocks.size(); ++l) {
    const LoadOverTime load = load_over_time(m.records, l, kMostColumns, m.who);
    HeatMap map;
    map.caption = fmt::format("Block {} <small>{} experts</small>", m.blocks[l], load.experts);
    map.alt =
        fmt::format("Load of the {} experts of block {} over training", load.experts, m.blocks[l]);
    map.rows = load.experts;
    map.columns = load.columns;
    map.ratio = load.ratio;
    map.row_names = expert_names(load.experts);
    map.row_labels = even_labels(map.row_names, load.experts > 24 ? 12 : 24);
    for (std::string& name : map.row_names) name = "expert " + name;
    const Axis axis(0, load.tokens, 0, 1);
    const Unit unit = unit_for(load.tokens);
    for (const Tick& tick : axis.ticks(5, unit.value)) {
      map.column_labels.push_back({axis.at(tick.value), tick.label});
    }
    for (int64_t c = 0; c < load.columns; ++c) {
      const double end =
          load.tokens * static_cast<double>(c + 1) / static_cast<double>(load.columns);
      map.column_names.push_back(short_count(end) + " tokens");
    }
    map.unit = "× an even share";
    map.wide = true;
    map.note = "tokens of training" + (unit.name.empty() ? "" : ", " + unit.name);
    out += draw_map(map);
  }
  return out + "</div>\n";
}

template <class Value>
LineChart chart_of(const Material& m, const std::string& title, const std::string& note,
                   const Value& value) {
  LineChart chart{title, note, {}, 0, 1, false, "No records yet."};
  for (size_t l = 0; l < m.blocks.size(); ++l) {
    Line line{block_name(m, l), layer_colour(l, m.blocks.size()), {}};
    for (const train::RoutingRecord& record : m.records) {
      const std::optional<double> y = value(record, l);
      if (y) line.points.emplace_back(static_cast<double>(record.tokens), *y);
    }
    chart.lines.push_back(std::move(line));
  }
  return chart;
}

std::string curves(const Material& m) {
  using Record = train::RoutingRecord;
  LineChart dropped = chart_of(
      m, "Dropped choices", "An expert that is full passes further tokens by; they skip the layer.",
      [](const Record& r, size_t l) -> std::optional<double> {
        double choices = 0;
        for (const int64_t n : r.load[l]) choices += static_cast<double>(n);
        if (choices == 0) return std::nullopt;
        return 1 - static_cast<double>(r.kept[l]) / choices;
      });
  dropped.percent = true;
  dropped.high = 0.01;
  if (m.run.config.model.capacity_factor <= 0) {
    dropped.lines.clear();
    dropped.nothing = "Nothing is ever dropped here: <code>moe.capacity_factor</code> is 0.";
  }
  LineChart busiest =
      chart_of(m, "Busiest expert", "Its load over an even share: 1 is perfect balance.",
               [&](const Record& r, size_t l) -> std::optional<double> {
                 return imbalance(r.load[l], m.who);
               });
  busiest.low = 1;
  busiest.high = 1.5;
  LineChart even =
      chart_of(m, "Evenness of the load",
               "Entropy of the loads: 1 = all experts equally busy, 0 = one does it all.",
               [&](const Record& r, size_t l) -> std::optional<double> {
                 return evenness(r.load[l], m.who);
               });
  even.low = 0.9;
  LineChart sure = chart_of(
      m, "Router entropy",
      "How undecided a router is about a single token: 1 = every expert as good, 0 = sure.",
      [](const Record& r, size_t l) -> std::optional<double> {
        if (r.probes == 0) return std::nullopt;
        return r.probe.entropy[l];
      });
  sure.nothing = "No probes of the routers yet.";
  std::string keys;
  for (size_t l = 0; l < m.blocks.size(); ++l) {
    keys += fmt::format("<span><i style=\"--c:{}\"></i>{}</span>", layer_colour(l, m.blocks.size()),
                        block_name(m, l));
  }
  return "<p class=\"keys\">" + keys + "</p>\n<div class=\"charts\">\n" + draw_lines(dropped) +
         draw_lines(busiest) + draw_lines(even) + draw_lines(sure) + "</div>\n";
}

// ---- The end

// From the checkpoint, or from the last validation where there is none.
std::vector<DomainUse> domain_use(const Material& m) {
  std::vector<DomainUse> out;
  if (m.seen) {
    for (const LayerObservation& layer : m.seen->layers) {
      out.push_back({layer.block, m.seen->domains, layer.by_domain});
    }
    return out;
  }
  for (size_t l = 0; l < m.run.moe_layers.size(); ++l) {
    DomainUse use{m.run.moe_layers[l], {}, {}};
    for (const DomainLoss& domain : m.run.domains) {
      if (domain.load.empty()) continue;
      use.domains.push_back(domain.name);
      use.choices.n.insert(use.choices.n.end(), domain.load[l].begin(), domain.load[l].end());
      use.choices.columns = static_cast<int64_t>(domain.load[l].size());
      ++use.choices.rows;
    }
    if (use.choices.rows > 0) out.push_back(std::move(use));
  }
  return out;
}

std::string foot(const Material& m) {
  std::string out = "<footer><h2>Where the numbers come from</h2>\n";
  if (!m.records.empty()) {
    out += fmt::format(
        "<p>Load, drops and their curves: sums over every training step, of all ranks, kept in "
        "<code>routing.jsonl</code> ({} records). Router entropy over time: the same few "
        "validation "
        "tokens every now and then, rank 0's.</p>\n",
        m.records.size());
  }
  if (m.seen) {
    out += fmt::format(
        "<p>Everything about single tokens: the checkpoint of step {} on {} validation tokens, "
        "spread evenly over each domain, without noise and drops.</p>\n",
        train::with_commas(m.seen->step), train::with_commas(m.seen->tokens));
  } else if (!domain_use(m).empty()) {
    out += "<p>Domains: the last validation of the run (<code>eval.json</code>).</p>\n";
  }
  return out + "<p>Colours are logarithmic and full at four times and at a quarter.</p></footer>\n";
}

}  // namespace

std::string routing_page(const std::string& run, const RoutingOptions& options) {
  const Material m = gather(run, options);
  std::string body = head(m);
  if (!m.records.empty()) {
    body += section("load", "Who is busy",
                    "Each row is an expert and time runs to the right: orange where it gets more "
                    "tokens than an even share, blue where it gets fewer.",
                    load_maps(m));
    body += section("curves", "How routing settles",
                    "Balance, drops and certainty while the model learned, one line for each layer "
                    "of experts.",
                    curves(m));
  }
  if (m.seen) {
    body += section("company", "Who follows whom",
                    "Tokens that leave one expert (row) meet some experts of the next layer "
                    "(column) more often than chance would have it: paths through the model.",
                    draw_company(*m.seen));
  }
  const std::vector<DomainUse> use = domain_use(m);
  if (!use.empty()) {
    body +=
        section("domains", "Who serves which domain",
                "Each row shows how the tokens of one kind of text are spread over the experts.",
                draw_domains(use, m.who));
  }
  if (m.seen) {
    body += section("texts", "Text by expert",
                    "Validation text in the colours of the experts that read it; the stronger the "
                    "colour, the surer the router was.",
                    draw_texts(*m.seen));
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Routing of {}</title>\n<style>\n{}</style></head>\n<body><main>\n{}{}</main>\n"
      "<script>\n{}</script>\n</body></html>\n",
      html_escape(m.run.name), kRoutingStyle, body, foot(m), kRoutingScript);
}

}  // namespace pyramoe::report
