// RUN/routing.jsonl: who was chosen while the model trained, small enough to keep whole.
//
// A record is the sum over the steps of a window, so no step is missed between two records, and the
// numbers are those that every step brings to the host anyway. When there are too many records,
// neighbours are added up and windows are twice as long from then on: the file stays below a few
// hundred KB however long the run is. Rank 0 writes; loads and drops are those of all ranks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "train/metrics.h"
#include "train/router_probe.h"
#include "train/run_config.h"

namespace pyramoe::train {

class Trainer;

// Steps first to last, both included. Skipped steps count nothing.
struct RoutingRecord {
  int64_t first = 0, last = 0;
  int64_t tokens = 0;                      // seen by the run after step `last`
  std::vector<std::vector<int64_t>> load;  // choices per expert before drops, by layer of experts
  std::vector<int64_t> kept;               // choices that found room, by layer of experts
  int64_t probes = 0;
  RouterProbe probe;  // mean of them; empty where there were none
};

// Adds what happened next. Layers must be as many, with as many experts.
void add_record(RoutingRecord& sum, const RoutingRecord& next);
std::string routing_line(const RoutingRecord& record);
// The records of a run folder, in order; none where there is no file. A last line without its end
// is left out. Throws Error(data) with file and line on one that makes no sense.
std::vector<RoutingRecord> read_routing(const std::string& run_dir);

// The file of records.
class RoutingLog {
 public:
  //   every  steps of a window
  // Continues the file of a run folder: records beyond `step` are cut off.
  RoutingLog(const std::string& run_dir, int64_t step, int64_t every);
  void add(const RoutingRecord& step);
  // Writes the window that is under way, for a run that may end here.
  void flush();

 private:
  void start_window(const RoutingRecord& record);
  // Windows twice as long, until there are few enough.
  void shrink();

  std::string path_;
  int64_t every_;
  std::vector<RoutingRecord> records_;
  RoutingRecord window_;
  bool open_ = false;  // window_ holds steps
  std::unique_ptr<AppendLog> file_;
};

// What a run calls after each step.
class RoutingRecorder {
 public:
  explicit RoutingRecorder(const RunConfig& config);
  // On the rank that writes.
  void open(int64_t step);
  // All ranks together: some steps are followed by a probe.
  void step(const StepResult& result, Trainer& trainer);
  void flush();

 private:
  bool probes_at(int64_t step) const;

  std::string run_dir_;
  int64_t every_, steps_, interval_;
  std::unique_ptr<RoutingLog> log_;
};

}  // namespace pyramoe::train
