// Each rank's last collectives, in memory that outlives it: a small file mapped into the process,
// so that a rank that is killed leaves its last words without writing them.
//
// `pyramoe inspect RUN` prints the records, and so does the next start in the same folder when a
// rank did not end in order. Before a run folder is known the record is kept in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace pyramoe::dist {

// One collective of one rank. Plain bytes: the file is an array of these.
struct FlightEntry {
  int64_t number = 0;    // 1, 2, … in this process; 0 = unused
  int64_t sequence = 0;  // within its group, equal on all its ranks
  double started = 0;    // seconds since 1970
  double finished = 0;   // 0 = not yet
  int64_t bytes = 0;     // of this rank's tensor
  int32_t ranks = 0;
  char op[20] = {};
  char group[32] = {};
};

struct FlightFile {
  int32_t rank = 0, ranks = 0;
  int64_t process = 0;
  bool ended = false;                // in order
  bool told = false;                 // a signal asked it to end: somebody else failed
  double paused = 0;                 // seconds for which the process did not run at all
  double alive = 0;                  // when its watchdog last looked; 0 = it has none
  double patience = 0;               // silence of a watchdog that is no accident, seconds
  bool waiting = false;              // in its last collective
  std::string phase;                 // what the trainer was doing: init, forward, backward, …
  std::vector<FlightEntry> entries;  // oldest first
};

class FlightRecord {
 public:
  static constexpr int kEntries = 64;

  FlightRecord(int rank, int ranks);
  ~FlightRecord();
  FlightRecord(const FlightRecord&) = delete;
  FlightRecord& operator=(const FlightRecord&) = delete;

  // From now on in run_dir/flight/rank_NNNN, entries so far included.
  void open(const std::string& run_dir);
  // The process ends in order.
  void close();
  void set_phase(const char* phase);
  // Set to 1 by a signal handler when the process is told to end.
  volatile int32_t* told();
  // The watchdog's, at each look: it runs, and silence longer than `patience` seconds means that
  // the process does not.
  void set_alive(double patience);
  // The watchdog's: this process has been stopped for a while.
  void set_paused(double seconds);

  int64_t begin(const char* op, const std::string& group, int64_t sequence, int64_t bytes,
                int ranks);
  void end(int64_t number);
  FlightEntry entry(int64_t number) const;

  // For the watchdog: since when this rank waits, and in which collective (0 = it does not).
  void set_waiting(int64_t number);
  int64_t waiting(double& since) const;

  struct Page;  // what the file holds

 private:
  Page* page_ = nullptr;  // mapped, or on the heap
  bool mapped_ = false;
  int64_t next_ = 1;
  std::atomic<int64_t> waiting_{0};
  std::atomic<double> since_{0};
  std::mutex watched_;  // the watchdog's thread writes to a page that open() replaces
};

// The records in a run folder, by rank; none where there are none. Damaged files are skipped.
std::vector<FlightFile> read_flight(const std::string& run_dir);
// A few lines a person can read: who did not end in order, where each rank was, and which rank is
// furthest behind in the last collective of its group. Empty when all ended in order.
std::string describe_flight(const std::vector<FlightFile>& files);
// "all_to_all of expert 4, number 17, 8192 bytes, 2 ranks"
std::string describe(const FlightEntry& entry);

}  // namespace pyramoe::dist
