#include "dist/work.h"

#include <algorithm>

namespace pyramoe::dist {

WorkState::WorkState(Fabric& fabric, const char* op, const std::string& group, int64_t sequence,
                     int64_t bytes, int ranks)
    : fabric_(fabric),
      op_(op),
      number_(fabric.flight().begin(op, group, sequence, bytes, ranks)),
      started_(Fabric::now()) {
  fabric_.begin_collective();
  ++fabric_.traffic().row(op_).calls;
}

void WorkState::count(Link link, int64_t bytes) {
  TrafficRow& row = fabric_.traffic().row(op_);
  ++row.messages[static_cast<size_t>(link)];
  row.bytes[static_cast<size_t>(link)] += bytes;
}

bool WorkState::advance() {
  while (!finished_) {
    std::erase_if(pending_, [](const RequestPtr& request) { return request->done(); });
    if (!pending_.empty()) return false;
    if (next_step_ < steps_.size()) {
      const std::function<void(WorkState&)> step = std::move(steps_[next_step_++]);
      step(*this);
      continue;
    }
    finished_ = true;
    kept_.clear();
    fabric_.flight().end(number_);
    fabric_.traffic().row(op_).seconds += Fabric::now() - started_;
  }
  return true;
}

void WorkState::wait() {
  if (advance()) return;
  const double begin = Fabric::now();
  fabric_.flight().set_waiting(number_);
  for (int64_t turn = 0; !advance(); ++turn) {
    fabric_.advance_others();
    fabric_.idle(turn);
  }
  fabric_.flight().set_waiting(0);
  fabric_.traffic().row(op_).exposed += Fabric::now() - begin;
}

}  // namespace pyramoe::dist
