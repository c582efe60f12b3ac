// Every rank runs every test; rank 0 prints, the others speak only when something is wrong. A rank
// that leaves a test early would leave the others waiting: the watchdog ends that.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/dist/world.h"

namespace pyramoe::test {
namespace {

dist::Runtime* runtime = nullptr;

class Quiet : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", runtime->world().rank(),
                 result.file_name() ? result.file_name() : "", result.line_number(),
                 result.summary());
  }
};

}  // namespace

const dist::ProcessGroup& world() { return runtime->world(); }

}  // namespace pyramoe::test

int main(int argc, char** argv) {
  pyramoe::dist::Runtime runtime;
  pyramoe::test::runtime = &runtime;
  runtime.configure({.deadline = 60});
  testing::InitGoogleTest(&argc, argv);
  if (runtime.world().rank() > 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new pyramoe::test::Quiet);
  }
  return RUN_ALL_TESTS();
}
