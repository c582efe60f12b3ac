// The worker pool behind parallel_for.
//
// One job at a time is published under a generation number; workers that notice it in time enter,
// claim chunks from one counter and leave; the caller claims too, closes the job when nothing is
// left to claim, and waits only for those inside. So a worker that sleeps too deep costs nothing.
// Workers spin for a short while between jobs (the next kernel usually follows at once), then
// sleep.
#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace pyramoe {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpinTime(60);

using Body = std::function<void(int64_t, int64_t)>;

thread_local bool inside_chunk = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Spins until done() or the time is over; says whether done() came true.
template <class Done>
bool spin(std::chrono::microseconds time, const Done& done) {
  const auto end = std::chrono::steady_clock::now() + time;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

int cores_allowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_threads() {
  const char* text = std::getenv("PYRAMOE_THREADS");
  if (text == nullptr || *text == '\0') return std::min(cores_allowed(), kMaxThreads);
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (*end != '\0' || n < 1 || n > kMaxThreads) {
    fail(Exit::config, "PYRAMOE_THREADS must be a number from 1 to ", kMaxThreads, ", got \"", text,
         "\"");
  }
  return static_cast<int>(n);
}

class Pool {
 public:
  ~Pool() { resize(1); }

  // Runs the job with up to `threads` threads. False when another thread is using the pool.
  bool run(int64_t n, int64_t grain, const Body& body, int threads) {
    const std::unique_lock owner(owner_, std::try_to_lock);
    if (!owner) return false;
    resize(threads);
    body_ = &body;
    n_ = n;
    grain_ = grain;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    const int64_t chunks = (n + grain - 1) / grain;
    helpers_.store(static_cast<int>(std::min<int64_t>(threads - 1, chunks - 1)),
                   std::memory_order_relaxed);
    const uint64_t job = ++last_job_;
    open_.store(job);
    wake();
    claim_chunks();
    open_.store(0);  // nobody enters from here on
    while (!spin(kSpinTime, [&] { return inside_.load() == 0; })) std::this_thread::yield();
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  void claim_chunks() {
    inside_chunk = true;
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= n_ || failed_.load(std::memory_order_relaxed)) break;
      try {
        (*body_)(begin, std::min(n_, begin + grain_));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        failed_.store(true, std::memory_order_relaxed);
      }
    }
    inside_chunk = false;
  }

  void wake() {
    if (sleepers_.load() == 0) return;
    {
      const std::lock_guard lock(mutex_);
    }  // whoever is about to sleep has seen the job, or sleeps
    condition_.notify_all();
  }

  void work(int id) {
    uint64_t seen = 0;
    const auto called = [&] {
      const uint64_t job = open_.load();
      return stop_.load() || (job != 0 && job != seen);
    };
    while (!stop_.load()) {
      if (!spin(kSpinTime, called)) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        condition_.wait(lock, called);
        sleepers_.fetch_sub(1);
      }
      if (stop_.load()) return;
      // Before the second look: the caller closes the job, then reads inside_.
      inside_.fetch_add(1);
      const uint64_t job = open_.load();
      if (job != 0 && job != seen) {
        seen = job;
        if (id < helpers_.load(std::memory_order_relaxed)) claim_chunks();
      }
      inside_.fetch_sub(1);
    }
  }

  void resize(int threads) {
    if (static_cast<int>(workers_.size()) == threads - 1) return;
    stop_.store(true);
    { const std::lock_guard lock(mutex_); }
    condition_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stop_.store(false);
    for (int id = 0; id < threads - 1; ++id) workers_.emplace_back([this, id] { work(id); });
  }

  std::mutex owner_;  // held by the thread whose job runs
  std::vector<std::thread> workers_;
  uint64_t last_job_ = 0;

  const Body* body_ = nullptr;  // the job, written by the owner before open_ is set
  int64_t n_ = 0, grain_ = 1;
  std::exception_ptr error_;
  alignas(64) std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  alignas(64) std::atomic<uint64_t> open_{0};  // the job that may be entered; 0 = none
  std::atomic<int> helpers_{0};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> inside_{0};

  std::mutex mutex_;  // guards sleeping and error_
  std::condition_variable condition_;
  std::atomic<int> sleepers_{0};
};

Pool& pool() {
  static Pool the_pool;
  return the_pool;
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count(default_threads());
  return count;
}

}  // namespace

int num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  PM_CHECK(n >= 1 && n <= kMaxThreads, "set_num_threads: expected 1 to ", kMaxThreads, ", got ", n);
  thread_count().store(n, std::memory_order_relaxed);
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& f) {
  PM_CHECK(grain >= 1, "parallel_for: grain must be at least 1, got ", grain);
  const int threads = num_threads();
  if (!inside_chunk && threads > 1 && n > grain && pool().run(n, grain, f, threads)) return;
  for (int64_t begin = 0; begin < n; begin += grain) f(begin, std::min(n, begin + grain));
}

}  // namespace pyramoe
