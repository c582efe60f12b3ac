// Whom the flight records of a job that died name: the rank that failed first, not one that waited
// for it or was ended because of it.
#include "dist/flight_record.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace pyramoe::dist {
namespace {

// Rank `rank` in its collective `number`; each watchdog looked at second 100, with 2 s of patience.
FlightFile rank_in(int rank, int64_t number) {
  FlightFile file;
  file.rank = rank;
  file.ranks = 3;
  file.phase = "save";
  file.waiting = true;
  file.alive = 100;
  file.patience = 2;
  file.entries.resize(1);
  file.entries[0].number = number;
  return file;
}

testing::AssertionResult names(const std::vector<FlightFile>& files, int rank) {
  const std::string text = describe_flight(files);
  if (text.find(cat("first to fall silent: rank ", rank, ",")) != std::string::npos) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << text;
}

TEST(FlightRecord, NamesTheRankThatBeganTheFewestCollectives) {
  EXPECT_TRUE(names({rank_in(0, 7), rank_in(1, 6), rank_in(2, 7)}, 1));
}

TEST(FlightRecord, NamesTheRankThatDidNotWait) {
  std::vector<FlightFile> files{rank_in(0, 7), rank_in(1, 7), rank_in(2, 7)};
  files[2].waiting = false;
  EXPECT_TRUE(names(files, 2));
}

TEST(FlightRecord, NamesTheRankThatNobodyToldToEnd) {
  std::vector<FlightFile> files{rank_in(0, 6), rank_in(1, 7), rank_in(2, 6)};
  files[0].told = files[2].told = true;
  EXPECT_TRUE(names(files, 1));
}

// A stopped rank may be set going once more before it is killed, and get further than those that
// waited for it: its own watchdog says so if it had the time to look, else the others' do.
TEST(FlightRecord, NamesTheRankThatStoodStill) {
  std::vector<FlightFile> files{rank_in(0, 13), rank_in(1, 14), rank_in(2, 14)};
  files[1].paused = 3;
  EXPECT_TRUE(names(files, 1));
  files[1].paused = 0;
  EXPECT_TRUE(names(files, 0));
  files[1].alive = 97;
  EXPECT_TRUE(names(files, 1));
  files[1].alive = 98.5;  // late, but not beyond patience
  EXPECT_TRUE(names(files, 0));
  // A watchdog that was held up for less long does not make its rank the first.
  files[1].alive = 95.5;
  files[0].paused = 2.1;
  EXPECT_TRUE(names(files, 1));
  files[0].paused = 4.4;  // nobody can tell: as if neither had
  EXPECT_TRUE(names(files, 0));
}

TEST(FlightRecord, SaysNothingOfARunThatEndedInOrder) {
  std::vector<FlightFile> files{rank_in(0, 6), rank_in(1, 7)};
  files[0].ended = files[1].ended = true;
  EXPECT_EQ(describe_flight(files), "");
}

}  // namespace
}  // namespace pyramoe::dist
