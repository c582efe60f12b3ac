// How tokens travel to their experts and back.
//
// A dispatcher only moves rows: send and send_back start a journey, receive and receive_back end
// it, and whatever is recorded between them overlaps with the journey. On one device a journey is
// a copy; the einsum form is the paper's dense baseline and the reference for every other.
#pragma once

#include <memory>
#include <string>

#include "dist/collective_ops.h"
#include "dist/mesh.h"
#include "moe/routing.h"

namespace pyramoe::moe {

// Rows under way.
struct Pending {
  Var x = {};                   // on one device
  Tensor offsets = {};          // (E + 1) i32, on the way out
  dist::PendingRows rows = {};  // between ranks
  std::shared_ptr<const Route> route = nullptr;
  Var weight = {};  // (N, k), on the way home
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  // Tokens x (N, D) leave for their experts; receive gives the rows of this rank's experts.
  virtual Pending send(const Var& x, const Routing& routing) const = 0;
  virtual Segments receive(Pending& pending) const = 0;
  // The experts' results y (R, D) leave for home; receive_back gives each token the weighted sum
  // of its choices, added in order, (N, D).
  virtual Pending send_back(const Segments& y, const Routing& routing) const = 0;
  virtual Var receive_back(Pending& pending) const = 0;
};

// By the name in moe.dispatch. Throws Error(config).
std::unique_ptr<Dispatcher> make_dispatcher(const std::string& name);
// By the name in parallel.dispatcher, for experts on several ranks.
std::unique_ptr<Dispatcher> make_rank_dispatcher(const dist::ParallelConfig& config,
                                                 const dist::ExpertGroups& groups);

}  // namespace pyramoe::moe
