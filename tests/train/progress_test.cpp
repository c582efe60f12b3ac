// The line with the bar: as wide as the terminal allows, and no wider.
#include "train/progress.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pyramoe::train {
namespace {

// Characters, not bytes: those of a bar have three.
int64_t width(const std::string& line) {
  return std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

TEST(Progress, BarFitsTheTerminal) {
  const std::string text = "  50% | loss 2.5000 | 10,000 tok/s | eta 1m00s";
  for (const int columns : {0, 1, 2, 20, 40, 46, 47, 48, 60, 71, 80, 200}) {
    const std::string line = bar_line(0.5, text, columns);
    EXPECT_LT(width(line), std::max(columns, 1)) << line;
    EXPECT_EQ(line.find(text) != std::string::npos, columns > 46) << columns << ": " << line;
  }
  EXPECT_EQ(width(bar_line(0.5, text, 200)), 24 + width(text));
  EXPECT_EQ(bar_line(0.5, "", 5), "██  ");
  EXPECT_EQ(bar_line(0.25, "x", 6), "█   x");
  EXPECT_EQ(bar_line(1, "", 3), "██");
}

TEST(Progress, NumbersForPeople) {
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-100), "-100");
  EXPECT_EQ(duration(83), "1m23s");
}

}  // namespace
}  // namespace pyramoe::train
