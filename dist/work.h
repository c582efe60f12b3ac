// A collective under way. It is a list of stages: the messages of one are done, its step runs (sums
// what came, sends on), until none is left. Nobody works on it between calls: whoever waits for any
// collective moves all of them on.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "dist/channel.h"
#include "dist/fabric.h"

namespace pyramoe::dist {

class WorkState {
 public:
  WorkState(Fabric& fabric, const char* op, const std::string& group, int64_t sequence,
            int64_t bytes, int ranks);
  WorkState(const WorkState&) = delete;
  WorkState& operator=(const WorkState&) = delete;

  // For the collectives: messages of the stage now being made, what follows it, what must live.
  void add(RequestPtr request) { pending_.push_back(std::move(request)); }
  void then(std::function<void(WorkState&)> step) { steps_.push_back(std::move(step)); }
  void keep(const Tensor& tensor) { kept_.push_back(tensor); }
  void count(Link link, int64_t bytes);

  bool finished() const { return finished_; }
  // Goes as far as it can without waiting; true when the collective is finished.
  bool advance();
  void wait();

 private:
  Fabric& fabric_;
  const char* op_;
  int64_t number_;
  double started_;
  std::vector<RequestPtr> pending_;
  std::vector<std::function<void(WorkState&)>> steps_;
  size_t next_step_ = 0;
  Tensors kept_;
  bool finished_ = false;
};

// A handle on it. A default one is finished: a group of one has nothing to do. Every handle must be
// waited for before the group goes.
class Work {
 public:
  Work() = default;
  explicit Work(std::shared_ptr<WorkState> state) : state_(std::move(state)) {}
  bool done() const { return !state_ || state_->advance(); }
  void wait() const {
    if (state_) state_->wait();
  }

 private:
  std::shared_ptr<WorkState> state_;
};

}  // namespace pyramoe::dist
