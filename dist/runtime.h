// The process's part of a job: finds out whether a launcher started it, starts MPI only then, finds
// the nodes, and holds the world.
//
// Without a launcher the world has one rank and MPI is never touched. Under one, Runtime must live
// in the outermost scope: its end is a collective.
#pragma once

#include <memory>
#include <string>

#include "dist/process_group.h"
#include "dist/watchdog.h"

namespace pyramoe::dist {

struct RuntimeOptions {
  int64_t node_size = 0;        // ranks of a virtual node; 0 = the machines there are
  double deadline = 0;          // seconds a rank may wait for others; 0 = for ever
  std::string link_model = {};  // dist/link_model.h; empty = none
};

class Runtime {
 public:
  // Throws Error(config) when Slurm started several tasks that MPI cannot join.
  Runtime();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const ProcessGroup& world() const { return world_; }
  bool many() const { return world_.size() > 1; }
  // Once, before groups are made of the world.
  void configure(const RuntimeOptions& options);
  // Ends the whole job after an error on this rank; returns only when there is no other.
  void abort(int status) const;

 private:
  bool mpi_ = false;
  std::shared_ptr<Fabric> fabric_;
  std::unique_ptr<Watchdog> watchdog_;
  ProcessGroup world_;
};

}  // namespace pyramoe::dist
