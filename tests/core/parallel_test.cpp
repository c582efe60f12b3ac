// The pool: every index once, at any thread count, nested, throwing, and from many threads.
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/error.h"

namespace pyramoe {
namespace {

class Parallel : public ::testing::Test {
 protected:
  ~Parallel() override { set_num_threads(before_); }

 private:
  int before_ = num_threads();
};

TEST_F(Parallel, VisitsEveryIndexOnceInAlignedChunks) {
  for (int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    for (int64_t n : {0, 1, 5, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 2000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_EQ(end, std::min(n, begin + grain));
          for (int64_t i = begin; i < end; ++i) visits[static_cast<size_t>(i)]++;
        });
        for (const auto& count : visits) EXPECT_EQ(count.load(), 1);
      }
    }
  }
}

TEST_F(Parallel, NestedCallsRunInPlace) {
  set_num_threads(3);
  std::atomic<int64_t> sum = 0;
  parallel_for(16, 1, [&](int64_t i, int64_t) {
    const std::thread::id self = std::this_thread::get_id();
    parallel_for(10, 2, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      for (int64_t j = begin; j < end; ++j) sum += i * 10 + j;
    });
  });
  EXPECT_EQ(sum.load(), 159 * 160 / 2);
}

TEST_F(Parallel, RethrowsAndGoesOn) {
  for (int threads : {1, 2, 4}) {
    set_num_threads(threads);
    EXPECT_THROW(parallel_for(100, 1,
                              [](int64_t i, int64_t) {
                                if (i == 37) throw std::runtime_error("no");
                              }),
                 std::runtime_error);
    std::atomic<int> count = 0;
    parallel_for(100, 1, [&](int64_t, int64_t) { ++count; });
    EXPECT_EQ(count.load(), 100);
  }
}

TEST_F(Parallel, UsesAllThreads) {
  set_num_threads(3);
  std::atomic<int> present = 0;
  parallel_for(3, 1, [&](int64_t, int64_t) {
    ++present;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (present.load() < 3 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(present.load(), 3);
}

TEST_F(Parallel, ManyShortJobsWithChangingThreadCounts) {
  std::atomic<int64_t> total = 0;
  for (int round = 0; round < 3000; ++round) {
    if (round % 500 == 0) set_num_threads(1 + round / 500 % 4);
    if (round % 700 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    parallel_for(8, 1, [&](int64_t, int64_t) { total.fetch_add(1, std::memory_order_relaxed); });
  }
  EXPECT_EQ(total.load(), 24000);
}

TEST_F(Parallel, CallersOnDifferentThreadsDoNotDisturbEachOther) {
  set_num_threads(2);
  std::vector<std::thread> callers;
  std::vector<int64_t> sums(4);
  for (size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 200; ++round) {
        std::vector<int64_t> values(64);
        parallel_for(64, 4, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] = i;
        });
        for (int64_t value : values) sums[c] += value;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 200 * 63 * 32);
}

TEST_F(Parallel, RefusesBadCounts) {
  EXPECT_THROW(set_num_threads(0), Error);
  EXPECT_THROW(parallel_for(4, 0, [](int64_t, int64_t) {}), Error);
}

}  // namespace
}  // namespace pyramoe
