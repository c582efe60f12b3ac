// What all groups of a process share: which rank lies on which node, what travelled, the link
// model, the flight record and the watchdog. Groups carry a pointer to it; nothing is global.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dist/fault.h"
#include "dist/flight_record.h"
#include "dist/traffic.h"

namespace pyramoe::dist {

class WorkState;

class Fabric {
 public:
  explicit Fabric(std::vector<int> node_of_rank, int rank);

  int rank() const { return rank_; }
  int node(int world_rank) const { return node_.at(static_cast<size_t>(world_rank)); }
  Link link(int a, int b) const { return node(a) == node(b) ? Link::inside : Link::between; }
  // Virtual nodes of `size` consecutive ranks, to try what a cluster would do on one machine.
  void set_node_size(int size);
  int nodes() const;

  Traffic& traffic() { return traffic_; }
  FlightRecord& flight() { return flight_; }
  // What the program is doing, for flight records and injected faults.
  void set_phase(const std::string& phase);
  void begin_collective() { fault_.at(phase_); }

  // Collectives under way; whoever waits for one moves all of them on.
  void track(const std::shared_ptr<WorkState>& work);
  void advance_others();
  // One turn of a waiting loop: gives the core away, sooner where ranks outnumber cores.
  void idle(int64_t turn) const;
  void set_crowded(bool crowded) { crowded_ = crowded; }

  // Seconds of the clock that all ranks of a machine share.
  static double now();

 private:
  std::vector<int> node_;
  int rank_;
  Traffic traffic_;
  FlightRecord flight_;
  Fault fault_;
  std::string phase_ = "init";
  std::vector<std::weak_ptr<WorkState>> active_;
  bool crowded_ = false;
};

}  // namespace pyramoe::dist
