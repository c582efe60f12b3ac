// Ranks that talk: collectives on CPU tensors, made of point-to-point messages.
//
// Policy. Every rank of a group makes the same calls in the same order. A sum is a pairwise tree
// over the ranks in rank order, whatever the size of the tensor, so results depend neither on the
// transport nor on timing, and equal halves of a group add up like one rank of twice the work. The
// start_ forms return at once; the tensors must stay as they are until wait(). A group of one needs
// no transport: its collectives copy, or do nothing. Read next: dist/mesh.h, dist/collective_ops.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "dist/channel.h"
#include "dist/work.h"

namespace pyramoe::dist {

enum class Reduce { sum, max };
using Counts = std::vector<int64_t>;  // rows for, or from, each rank of a group

class ProcessGroup {
 public:
  ProcessGroup() = default;  // a group of one
  ProcessGroup(std::shared_ptr<Channel> channel, std::shared_ptr<Fabric> fabric, std::string name);

  int rank() const { return state_ ? state_->channel->rank() : 0; }
  int size() const { return state_ ? state_->channel->size() : 1; }
  // World ranks of the members, by rank in this group.
  const std::vector<int>& members() const;
  const std::string& name() const;
  // The ranks that gave the same color, ordered by key. All ranks of this group must call it.
  ProcessGroup split(int color, int key, const std::string& name) const;
  // Null for a group of one that was made without a transport.
  Fabric* fabric() const { return state_ ? state_->fabric.get() : nullptr; }
  std::shared_ptr<Channel> channel() const { return state_ ? state_->channel : nullptr; }

  void barrier() const;
  // x becomes the sum (or maximum) over the ranks; f64, f32, bf16 (added in f32), i64, i32.
  Work start_all_reduce(Tensor& x, Reduce how = Reduce::sum) const;
  void all_reduce(Tensor& x, Reduce how = Reduce::sum) const { start_all_reduce(x, how).wait(); }
  // y, size() times as long, is the x of every rank in rank order.
  Work start_all_gather(const Tensor& x, Tensor& y) const;
  void all_gather(const Tensor& x, Tensor& y) const { start_all_gather(x, y).wait(); }
  // The same with counts[r] rows of axis 0 from rank r.
  Work start_all_gather(const Tensor& x, Tensor& y, const Counts& counts) const;
  void all_gather(const Tensor& x, Tensor& y, const Counts& counts) const {
    start_all_gather(x, y, counts).wait();
  }
  // y, one part of x, is the sum over the ranks of that part: the parts are equal, or counts[r]
  // rows of axis 0 for rank r.
  Work start_reduce_scatter(const Tensor& x, Tensor& y) const;
  void reduce_scatter(const Tensor& x, Tensor& y) const { start_reduce_scatter(x, y).wait(); }
  Work start_reduce_scatter(const Tensor& x, Tensor& y, const Counts& counts) const;
  void reduce_scatter(const Tensor& x, Tensor& y, const Counts& counts) const {
    start_reduce_scatter(x, y, counts).wait();
  }
  Work start_broadcast(Tensor& x, int root) const;
  void broadcast(Tensor& x, int root) const { start_broadcast(x, root).wait(); }
  // send[r] rows of x, in rank order, go to rank r; recv[r] rows of y come from it. Zero is fine:
  // no message travels.
  Work start_all_to_all(const Tensor& x, const Counts& send, Tensor& y, const Counts& recv) const;
  void all_to_all(const Tensor& x, const Counts& send, Tensor& y, const Counts& recv) const {
    start_all_to_all(x, send, y, recv).wait();
  }
  // Equal parts. `label` names it in counts of traffic.
  Work start_all_to_all(const Tensor& x, Tensor& y, const char* label = "all_to_all") const;
  void all_to_all(const Tensor& x, Tensor& y, const char* label = "all_to_all") const {
    start_all_to_all(x, y, label).wait();
  }

 private:
  struct State {
    std::shared_ptr<Channel> channel;
    std::shared_ptr<Fabric> fabric;
    std::string name;
    int64_t sequence = 0;  // collectives so far, equal on all members
  };
  using Exchange = std::function<void(WorkState&)>;
  Work launch(const char* op, const Tensor& x, std::vector<Exchange> stages) const;
  Work exchange(const char* op, const Tensor& x, const Counts& send, Tensor& y,
                const Counts& recv) const;

  std::shared_ptr<State> state_;
};

// Throws Error(config) where x is not on the CPU: no transport carries it. `op` is who asks.
void check_travels(const char* op, const Tensor& x);

}  // namespace pyramoe::dist
