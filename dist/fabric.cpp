#include "dist/fabric.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "dist/work.h"

namespace pyramoe::dist {

Fabric::Fabric(std::vector<int> node_of_rank, int rank)
    : node_(std::move(node_of_rank)),
      rank_(rank),
      flight_(rank, static_cast<int>(node_.size())),
      fault_(Fault::from_environment(rank)) {}

void Fabric::set_phase(const std::string& phase) {
  phase_ = phase;
  flight_.set_phase(phase.c_str());
}

void Fabric::set_node_size(int size) {
  PM_CHECK(size > 0, "set_node_size: ", size, ", expected at least 1");
  for (size_t r = 0; r < node_.size(); ++r) node_[r] = static_cast<int>(r) / size;
}

int Fabric::nodes() const {
  return static_cast<int>(std::set<int>(node_.begin(), node_.end()).size());
}

void Fabric::track(const std::shared_ptr<WorkState>& work) {
  std::erase_if(active_, [](const std::weak_ptr<WorkState>& w) {
    const auto state = w.lock();
    return !state || state->finished();
  });
  active_.push_back(work);
}

void Fabric::advance_others() {
  for (size_t i = 0; i < active_.size(); ++i) {
    const std::shared_ptr<WorkState> state = active_[i].lock();
    if (state && !state->finished()) state->advance();
  }
}

void Fabric::idle(int64_t turn) const {
  // Where ranks share cores, who yields may wait for a whole time slice of somebody else who
  // yields, while who sleeps is woken at once.
  if (!crowded_ && turn < 2000) return;
  if (!crowded_ && turn < 4000) {
    ::sched_yield();
    return;
  }
  const timespec rest{0, crowded_ ? 10'000 : 50'000};
  ::nanosleep(&rest, nullptr);
}

double Fabric::now() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace pyramoe::dist
