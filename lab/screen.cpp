#include "lab/screen.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/file.h"
#include "train/progress.h"

namespace pyramoe::lab {
namespace {

constexpr size_t kLogLines = 12;

// The last lines of a log, indented.
std::string tail_of(const std::string& path) {
  if (!path_exists(path)) return "";
  std::string text = read_file(path);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t begin = text.size();
  for (size_t lines = 0; lines < kLogLines && begin != std::string::npos && begin > 0; ++lines) {
    begin = text.rfind('\n', begin - 1);
  }
  std::string out = "    ";
  for (const char c : text.substr(begin == std::string::npos || begin == 0 ? 0 : begin + 1)) {
    out += c;
    if (c == '\n') out += "    ";
  }
  return out + "\n";
}

double metric(const RunResult& result, const char* name) {
  const auto found = result.metrics.find(name);
  return found == result.metrics.end() ? NAN : found->second;
}

}  // namespace

std::string time_text(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

Screen::Screen(const Queue& queue, int jobs)
    : queue_(queue), jobs_(jobs), terminal_(isatty(STDOUT_FILENO) == 1) {
  for (const Unit& unit : queue.units()) {
    name_width_ = std::max(name_width_, unit.run.arm.size());
  }
}

void Screen::say(const std::string& line) {
  std::printf("%s%s\n", terminal_ ? "\r\x1b[K" : "", line.c_str());
  std::fflush(stdout);
}

void Screen::finished(const Unit& unit, Stage stage, const RunResult& result, double seconds) {
  if (stage == Stage::train) {
    flops_done_ += unit.run.flops;
    seconds_done_ += seconds;
  }
  std::string numbers;
  if (stage == Stage::tasks) {
    numbers = "tasks done";
  } else {
    numbers = fmt::format("loss {:.4f}", metric(result, "loss"));
    if (stage == Stage::train) {
      numbers += fmt::format("   {:>9} tokens/s",
                             train::with_commas(std::llround(metric(result, "tokens_per_s"))));
    }
  }
  say(fmt::format("[{:>3}/{}]  {:<{}}  seed {}   {}   {}", queue_.count_done(),
                  queue_.units().size(), unit.run.arm, name_width_, unit.run.seed, numbers,
                  time_text(seconds)));
}

void Screen::failed(const Unit& unit, int status, const std::string& why) {
  const std::string log = unit.run.folder + "/log.txt";
  say(fmt::format("FAILED    {} ({}){}", name_of(unit.run),
                  status > 128 ? fmt::format("ended by signal {}", status - 128)
                               : fmt::format("status {}", status),
                  why.empty() ? fmt::format("; {} ends with", log) : ": " + why));
  if (why.empty()) say(tail_of(log));
}

double Screen::seconds_left() const {
  double flops = 0;
  for (const Unit& unit : queue_.units()) {
    if (!unit.trained && !unit.failed && unit.blocked_by.empty()) flops += unit.run.flops;
  }
  return flops_done_ > 0 ? flops * seconds_done_ / flops_done_ / jobs_ : NAN;
}

void Screen::status() {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < std::chrono::milliseconds(500)) return;
  last_ = now;
  std::string running;
  for (const Unit& unit : queue_.units()) {
    if (unit.running) running += (running.empty() ? "" : "; ") + name_of(unit.run);
  }
  const double left = seconds_left();
  const std::string eta =
      std::isfinite(left) ? "about " + time_text(left) + " left" : "time left not known yet";
  const std::string line = fmt::format("{} of {} done, {} | {}", queue_.count_done(),
                                       queue_.units().size(), eta, running);
  std::printf("\r\x1b[K%s", line.substr(0, 118).c_str());
  std::fflush(stdout);
}

void Screen::summary(double seconds) {
  int64_t failures = 0;
  for (const Unit& unit : queue_.units()) {
    failures += unit.failed != 0;
    if (!unit.blocked_by.empty()) {
      say(fmt::format("not run   {}: it needs {}", name_of(unit.run), unit.blocked_by));
    }
  }
  say(fmt::format("{} of {} runs done{} in {}", queue_.count_done(), queue_.units().size(),
                  failures > 0 ? fmt::format(", {} failed,", failures) : "", time_text(seconds)));
}

}  // namespace pyramoe::lab
