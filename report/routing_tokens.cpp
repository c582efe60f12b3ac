// Maps of single tokens: which experts follow which, which are chosen together, which domain uses
// which.
#include <fmt/format.h>

#include <cmath>

#include "report/routing_parts.h"

namespace pyramoe::report {
namespace {

HeatMap map_of(const Counts& counts, const std::string& caption, const std::string& alt) {
  HeatMap map;
  map.caption = caption;
  map.alt = alt;
  map.rows = counts.rows;
  map.columns = counts.columns;
  map.row_names = expert_names(counts.rows);
  map.column_names = expert_names(counts.columns);
  map.row_labels = even_labels(map.row_names, counts.rows > 28 ? 12 : 28);
  map.column_labels = even_labels(map.column_names, counts.columns > 16 ? 8 : 16);
  return map;
}

std::string information_note(const Counts& counts) {
  const double chance = chance_information(counts);
  return fmt::format("shared information {:.3f} of 1; chance alone gives {}",
                     shared_information(counts),
                     chance < 0.001 ? "less than 0.001" : fmt::format("{:.3f}", chance));
}

}  // namespace

std::string draw_company(const Observation& seen) {
  std::string out = map_legend("a quarter as often", "as chance has it", "four times as often");
  out += "<div class=\"maps\">\n";
  for (size_t l = 0; l < seen.layers.size(); ++l) {
    const LayerObservation& layer = seen.layers[l];
    if (layer.next.rows > 0) {
      const int64_t after = seen.layers[l + 1].block;
      HeatMap map = map_of(
          layer.next, fmt::format("Block {} ↓ then block {} →", layer.block, after),
          fmt::format("Which experts of block {} follow which of block {}", after, layer.block));
      map.ratio = against_chance(layer.next);
      for (std::string& name : map.row_names)
        name = fmt::format("block {} expert {}", layer.block, name);
      for (std::string& name : map.column_names)
        name = fmt::format("block {} expert {}", after, name);
      map.unit = "× chance";
      map.note = information_note(layer.next);
      out += draw_map(map);
    }
    if (layer.together.rows > 0) {
      HeatMap map =
          map_of(layer.together, fmt::format("Block {}: chosen together", layer.block),
                 fmt::format("Which experts of block {} one token chooses together", layer.block));
      map.ratio = against_chance(layer.together, true);
      for (int64_t e = 0; e < layer.experts; ++e) {  // nobody is chosen twice
        map.ratio[static_cast<size_t>(e * layer.experts + e)] = std::nan("");
      }
      for (std::string& name : map.row_names) name = "expert " + name;
      for (std::string& name : map.column_names) name = "expert " + name;
      map.unit = "× chance";
      out += draw_map(map);
    }
  }
  return out + "</div>\n";
}

std::string draw_domains(const std::vector<DomainUse>& layers, Sharers who) {
  std::string out = map_legend("a quarter or less", "an even share", "four times or more");
  out += "<div class=\"maps\">\n";
  for (const DomainUse& layer : layers) {
    HeatMap map = map_of(
        layer.choices,
        fmt::format("Block {} <small>{} experts</small>", layer.block, layer.choices.columns),
        fmt::format("Which domains use which experts of block {}", layer.block));
    map.row_names = layer.domains;
    map.row_labels = even_labels(layer.domains, 40);
    for (std::string& name : map.column_names) name = "expert " + name;
    map.ratio = against_even(layer.choices, who);
    map.unit = "× an even share of the domain";
    map.note = information_note(layer.choices);
    out += draw_map(map);
  }
  return out + "</div>\n";
}

}  // namespace pyramoe::report
