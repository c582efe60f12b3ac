#include "train/memory_plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace pyramoe::train {

int64_t bytes_of(const std::string& text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || number < 0) return -1;
  std::string unit(rest, end);
  if (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  const char* const prefixes[] = {"", "K", "M", "G", "T"};
  double thousands = 1, binary = 1;
  for (const std::string prefix : prefixes) {
    double factor = 0;
    if (unit == prefix + "B" || (prefix.empty() && unit.empty())) factor = thousands;
    if (!prefix.empty() && unit == prefix + "iB") factor = binary;
    if (factor > 0) return number * factor < 0x1p62 ? std::llround(number * factor) : -1;
    thousands *= 1000, binary *= 1024;
  }
  return -1;
}

int64_t StepMemory::peak_at_loss(const std::vector<bool>& recomputed) const {
  int64_t more = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (!recomputed.at(i)) more += blocks[i].kept - blocks[i].recomputed;
  }
  return peak_of_loss + more;
}

int64_t StepMemory::peak(const std::vector<bool>& recomputed) const {
  int64_t more = 0, most = peak_at_loss(recomputed);
  for (size_t i = 0; i < blocks.size(); ++i) {
    most = std::max(most, blocks[i].peak + more);  // with what is kept in front of it
    if (!recomputed.at(i)) more += blocks[i].kept - blocks[i].recomputed;
  }
  return most;
}

std::vector<size_t> StepMemory::order() const {
  std::vector<size_t> all(blocks.size());
  std::iota(all.begin(), all.end(), size_t{0});
  std::stable_sort(all.begin(), all.end(), [this](size_t a, size_t b) {
    return blocks[a].kept - blocks[a].recomputed > blocks[b].kept - blocks[b].recomputed;
  });
  return all;
}

std::vector<bool> recompute_first(const StepMemory& memory, size_t count) {
  std::vector<bool> recomputed(memory.blocks.size(), false);
  const std::vector<size_t> order = memory.order();
  for (size_t i = 0; i < count; ++i) recomputed[order[i]] = true;
  return recomputed;
}

size_t fewest_recomputed(const StepMemory& memory, int64_t bytes, int64_t most) {
  const auto fits = [&](const std::vector<bool>& recomputed) {
    return memory.peak_at_loss(recomputed) <= bytes && memory.peak(recomputed) <= most;
  };
  size_t count = 0;
  while (count < memory.blocks.size() && !fits(recompute_first(memory, count))) ++count;
  return count;
}

}  // namespace pyramoe::train
