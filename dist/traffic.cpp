#include "dist/traffic.h"

namespace pyramoe::dist {

TrafficRow Traffic::total() const {
  TrafficRow sum;
  for (const auto& [name, row] : rows_) {
    for (size_t link = 0; link < 2; ++link) {
      sum.messages[link] += row.messages[link];
      sum.bytes[link] += row.bytes[link];
    }
    sum.seconds += row.seconds;
    sum.exposed += row.exposed;
    sum.calls += row.calls;
  }
  return sum;
}

}  // namespace pyramoe::dist
