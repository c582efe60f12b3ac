// See generate.h. A row is one text; rows that are done stay in the batch, idle, so that the
// others' shapes do not change.
#include "infer/generate.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "data/utf8.h"

namespace pyramoe::infer {
namespace {

class Row {
 public:
  Row(const Tokens& prompt, const data::Tokenizer& tokenizer, const GenerateOptions& options)
      : tokenizer_(tokenizer), options_(options), position_(static_cast<int64_t>(prompt.size())) {}

  Generated out;
  bool done = false;
  bool told = false;  // the last token was read too, so its experts are known

  int64_t position() const { return position_; }
  int32_t last() const { return out.tokens.back(); }

  // Takes a chosen token; gives finished text to on_text.
  void add(int32_t token, int64_t number, const OnText& on_text) {
    ++position_;
    if (options_.stop_at_end_of_text && token == tokenizer_.eot()) {
      out.finish = Finish::end_of_text;
      done = true;
      told = true;  // it is not part of the text
    } else {
      out.tokens.push_back(token);
      const size_t before = out.text.size();
      out.text += tokenizer_.decode(std::span(&token, 1));
      cut_at_stop(before);
      if (static_cast<int64_t>(out.tokens.size()) == options_.tokens) done = true;
    }
    show(number, on_text);
  }

  // The newest `count` tokens of prompt and text.
  Tokens tail(int64_t count) const {
    Tokens all = out.prompt;
    all.insert(all.end(), out.tokens.begin(), out.tokens.end());
    all.erase(all.begin(), all.end() - count);
    return all;
  }

 private:
  // `before`: size of the text before its last token.
  void cut_at_stop(size_t before) {
    size_t first = std::string::npos;
    for (const std::string& stop : options_.stops) {
      const size_t from = before - std::min(before, stop.size() - 1);
      first = std::min(first, out.text.find(stop, from));
    }
    if (first == std::string::npos) return;
    out.text.resize(first);
    out.finish = Finish::stop;
    done = true;
  }

  void show(int64_t number, const OnText& on_text) {
    if (!on_text) return;
    size_t ready = out.text.size();
    if (!done) {
      ready -= possible_stop(out.text, options_.stops);
      ready = data::complete_prefix(std::string_view(out.text).substr(0, ready));
    }
    if (ready <= shown_) return;
    on_text(number, std::string_view(out.text).substr(shown_, ready - shown_));
    shown_ = ready;
  }

  const data::Tokenizer& tokenizer_;
  const GenerateOptions& options_;
  int64_t position_;  // tokens of the whole text, those before the window included
  size_t shown_ = 0;
};

void check(const GenerateOptions& options, const nn::Gpt& model) {
  if (options.tokens < 0) fail(Exit::config, "tokens: expected >= 0, got ", options.tokens);
  for (const std::string& stop : options.stops) {
    if (stop.empty()) fail(Exit::config, "stop: an empty stop string would end every text at once");
  }
  if (options.expert_layer >= model.options().layers) {
    fail(Exit::config, "show-experts: layer ", options.expert_layer,
         " of a model with layers 0 to ", model.options().layers - 1);
  }
}

// The rows of one call and the session that reads them.
class Batch {
 public:
  Batch(nn::Gpt& model, const data::Tokenizer& tokenizer, const std::vector<Tokens>& prompts,
        const GenerateOptions& options, Device device)
      : model_(model), options_(options), device_(device) {
    const int64_t context = model.options().context;
    std::vector<Tokens> texts;
    size_t longest = 1;
    for (const Tokens& given : prompts) {
      const Tokens prompt = given.empty() ? start_token(tokenizer) : given;
      rows_.emplace_back(prompt, tokenizer, options);
      const auto cut = std::min(prompt.size(), static_cast<size_t>(context));
      rows_.back().out.prompt.assign(prompt.end() - static_cast<ptrdiff_t>(cut), prompt.end());
      rows_.back().done = options.tokens == 0;
      rows_.back().told = rows_.back().done;
      longest = std::max(longest, cut);
      texts.push_back(rows_.back().out.prompt);
    }
    const int64_t t_max = std::min(context, static_cast<int64_t>(longest) + options.tokens);
    vocab_ = std::min(tokenizer.vocab_size(), model.options().vocab);
    session_.emplace(model, static_cast<int64_t>(rows_.size()), t_max, device, vocab_);
    session_->keep_choices(options.expert_layer >= 0);
    logits_ = session_->prefill(texts);
    for (size_t b = 0; b < rows_.size(); ++b) keep_experts(*session_, b, b);
  }

  std::vector<Generated> run(const OnText& on_text) {
    Sampler sampler(options_.sample);
    for (;;) {
      const Tensor logits = logits_.to(kCpu);
      for (size_t b = 0; b < rows_.size(); ++b) {
        if (rows_[b].done) continue;
        const auto i = static_cast<int64_t>(b);
        const int32_t token = sampler.choose(logits.rows(i, i + 1), vocab_,
                                             options_.first_sample + i, rows_[b].position());
        rows_[b].add(token, i, on_text);
      }
      if (!read()) break;
    }
    std::vector<Generated> all;
    for (Row& row : rows_) all.push_back(std::move(row.out));
    return all;
  }

 private:
  bool wants(const Row& row) const {
    return !row.done || (options_.expert_layer >= 0 && !row.told);
  }

  // Reads the tokens just chosen. False when no row needs it.
  bool read() {
    std::vector<bool> active(rows_.size(), false);
    Tokens next(rows_.size(), 0);
    std::vector<size_t> slide;
    bool any = false;
    for (size_t b = 0; b < rows_.size(); ++b) {
      if (!wants(rows_[b])) continue;
      if (session_->full(static_cast<int64_t>(b))) {
        slide.push_back(b);
      } else {
        active[b] = any = true;
        next[b] = rows_[b].last();
      }
    }
    // Rows at rest lose their place in a step, so those that slide are put in after it.
    if (any) {
      const bool all = std::find(active.begin(), active.end(), false) == active.end();
      logits_ = session_->step(next, all ? std::vector<bool>{} : active);
      for (size_t b = 0; b < rows_.size(); ++b) {
        if (active[b]) keep_experts(*session_, b, b);
      }
    }
    for (const size_t b : slide) slide_window(b);
    for (Row& row : rows_) row.told = row.done;
    return any || !slide.empty();
  }

  void slide_window(size_t b) {
    Session window(model_, 1, session_->t_max(), device_, vocab_);
    window.keep_choices(options_.expert_layer >= 0);
    const int64_t keep = std::max<int64_t>(1, session_->t_max() / 2);
    const Tensor logits = window.prefill({rows_[b].tail(keep)});
    const auto i = static_cast<int64_t>(b);
    session_->adopt(i, window);
    logits_.rows(i, i + 1).copy_from(logits);
    if (options_.expert_layer >= 0) {
      auto chosen = window.choices(options_.expert_layer, 0);
      if (!chosen.empty()) rows_[b].out.experts.push_back(chosen.back());
    }
  }

  void keep_experts(const Session& session, size_t b, size_t row) {
    if (options_.expert_layer < 0) return;
    auto chosen = session.choices(options_.expert_layer, static_cast<int64_t>(row));
    std::move(chosen.begin(), chosen.end(), std::back_inserter(rows_[b].out.experts));
  }

  nn::Gpt& model_;
  const GenerateOptions& options_;
  Device device_;
  int64_t vocab_ = 0;
  std::vector<Row> rows_;
  std::optional<Session> session_;
  Tensor logits_;  // (B, V)
};

}  // namespace

const char* to_string(Finish finish) {
  switch (finish) {
    case Finish::length:
      return "length";
    case Finish::stop:
      return "stop";
    case Finish::end_of_text:
      return "end_of_text";
  }
  return "?";
}

Tokens start_token(const data::Tokenizer& tokenizer) {
  if (tokenizer.eot() >= 0) return {tokenizer.eot()};
  try {
    const Tokens newline = tokenizer.encode("\n");
    if (!newline.empty()) return newline;
  } catch (const Error&) {
    // A character tokenizer that has never seen a newline.
  }
  return {0};
}

size_t possible_stop(std::string_view text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > held; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

std::vector<Generated> generate(nn::Gpt& model, const data::Tokenizer& tokenizer,
                                const std::vector<Tokens>& prompts, const GenerateOptions& options,
                                Device device, const OnText& on_text) {
  check(options, model);
  const Sampler checked(options.sample);
  if (prompts.empty()) return {};
  return Batch(model, tokenizer, prompts, options, device).run(on_text);
}

}  // namespace pyramoe::infer
