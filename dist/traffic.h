// What travelled: messages, bytes and waiting time per collective and link class. One table a
// process; the trainer takes the difference of two readings for a step.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

namespace pyramoe::dist {

enum class Link : int { inside = 0, between = 1 };  // one node, or two

struct TrafficRow {
  std::array<int64_t, 2> messages{};  // sent by this rank, by Link; none to itself
  std::array<int64_t, 2> bytes{};
  double seconds = 0;  // from start to end of the collectives
  double exposed = 0;  // of these, waited for with nothing else to do
  int64_t calls = 0;
};

class Traffic {
 public:
  TrafficRow& row(const std::string& op) { return rows_[op]; }
  const std::map<std::string, TrafficRow>& rows() const { return rows_; }
  TrafficRow total() const;
  void clear() { rows_.clear(); }

 private:
  std::map<std::string, TrafficRow> rows_;  // by name of the collective
};

}  // namespace pyramoe::dist
