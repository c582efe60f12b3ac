#include "train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace pyramoe::train {
namespace {

constexpr int kBarWidth = 24;
constexpr double kRedrawSeconds = 0.1;

// Of the terminal; 80 where it does not say.
int columns() {
  struct winsize size {};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

std::string bar_line(double share, const std::string& text, int columns) {
  static const char* kEighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int room = std::max(columns - 1, 0);  // a full line would wrap
  const int width = std::clamp(room - static_cast<int>(text.size()), 0, kBarWidth);
  const auto eighths = static_cast<int>(share * width * 8);
  std::string line;
  for (int i = 0; i < width; ++i) {
    const int filled = std::clamp(eighths - i * 8, 0, 8);
    line += filled == 8 ? "█" : kEighths[filled];
  }
  return line + text.substr(0, static_cast<size_t>(room));
}

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

Progress::Progress(int64_t first_step, int64_t steps, int64_t log_every)
    : first_step_(first_step),
      steps_(steps),
      log_every_(log_every),
      terminal_(isatty(STDOUT_FILENO) != 0 && std::getenv("PYRAMOE_NO_PROGRESS") == nullptr) {}

Progress::~Progress() { clear_bar(); }

void Progress::clear_bar() {
  if (!bar_shown_) return;
  std::fputs("\r\033[K", stdout);
  std::fflush(stdout);
  bar_shown_ = false;
}

double Progress::eta(const StepResult& result) const {
  const double each = done_ > 0 ? seconds_ / static_cast<double>(done_) : 0;
  return each * static_cast<double>(steps_ - result.step);
}

void Progress::step(const StepResult& r) {
  seconds_ += r.seconds;
  ++done_;
  const double rate = r.seconds > 0 ? static_cast<double>(r.step_tokens) / r.seconds : 0;
  if (r.step % log_every_ == 0 || r.step == steps_ || r.skipped || r.step == first_step_ + 1) {
    std::string line = fmt::format("step {}/{} | loss {:.4f}", r.step, steps_, r.loss);
    if (r.distill_weight > 0) line += fmt::format(" | kd {:.4f}", r.distill_loss);
    if (!r.load.empty()) line += fmt::format(" | aux {:.4f}", r.balance_loss);
    line += fmt::format(" | lr {:.2e} | gnorm {:.2f}", r.learning_rate, r.grad_norm);
    if (!r.load.empty()) {
      line += fmt::format(" | drop {:.1f}% | bal {:.2f}", 100 * r.dropped, r.imbalance);
    }
    line += fmt::format(" | {:.1f} ms | {} tok/s | eta {}", r.seconds * 1e3,
                        with_commas(std::llround(rate)), duration(eta(r)));
    if (r.skipped) line += " | SKIPPED: loss or gradient is not finite";
    say(line);
  }
  if (!terminal_ || seconds_ - last_drawn_ < kRedrawSeconds) return;
  last_drawn_ = seconds_;
  const double share = static_cast<double>(r.step) / static_cast<double>(steps_);
  const std::string text = fmt::format(" {:3.0f}% | loss {:.4f} | {} tok/s | eta {}", 100 * share,
                                       r.loss, with_commas(std::llround(rate)), duration(eta(r)));
  std::fputs(("\r\033[K" + bar_line(share, text, columns())).c_str(), stdout);
  std::fflush(stdout);
  bar_shown_ = true;
}

void Progress::eval(const EvalResult& result, int64_t step) {
  std::string line = fmt::format("step {}: val loss {:.4f} (perplexity {:.2f})", step, result.loss,
                                 std::exp(result.loss));
  if (result.domains.size() > 1) {
    for (const auto& [name, part] : result.domains) {
      line += fmt::format(" | {} {:.4f}", name, part.loss);
    }
  }
  say(line);
}

void Progress::say(const std::string& line) {
  clear_bar();
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace pyramoe::train
