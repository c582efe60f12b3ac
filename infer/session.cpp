// See session.h. The head runs on the rows whose logits are asked for and on no others: at batch 1
// it is a third of a small model's bytes, and in a prefill it would be most of the work.
#include "infer/session.h"

#include <algorithm>

namespace pyramoe::infer {

Tensor take_rows(const Tensor& x, std::span<const int64_t> index) {
  const auto n = static_cast<int64_t>(index.size());
  if (n == x.dim(0) && n == 1) return x;
  Shape shape = x.shape();
  shape[0] = n;
  Tensor y(shape, x.dtype(), x.device());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = index[static_cast<size_t>(i)];
    y.rows(i, i + 1).copy_from(x.rows(from, from + 1));
  }
  return y;
}

Session::Session(nn::Gpt& model, int64_t batch, int64_t t_max, Device device, int64_t vocab)
    : model_(model),
      head_(model, vocab),
      t_max_(t_max),
      device_(device),
      cache_(model.make_cache(batch, t_max)),
      lengths_(static_cast<size_t>(batch), 0),
      fed_(static_cast<size_t>(batch), 0) {
  PM_CHECK(batch >= 1, "Session: batch ", batch);
  PM_CHECK(t_max >= 1 && t_max <= model.options().context, "Session: t_max ", t_max,
           ", model.context ", model.options().context);
  context_.cache = &cache_;
}

void Session::set_lengths() {
  cache_.lengths.copy_from(Tensor::from(lengths_, {batch()}, device_));
}

Tensor Session::run(const Tensor& tokens) {
  const NoGrad no_grad;
  context_.keep_choices = keep_choices_;
  context_.stats.clear();
  nn::GptOut unused;
  return model_.features(tokens, context_, unused).value();
}

Tensor Session::prefill(const std::vector<Tokens>& texts) {
  PM_CHECK(static_cast<int64_t>(texts.size()) == batch(), "Session::prefill: ", texts.size(),
           " texts for ", batch(), " rows");
  size_t longest = 0;
  for (const Tokens& text : texts) {
    PM_CHECK(!text.empty() && static_cast<int64_t>(text.size()) <= t_max_,
             "Session::prefill: a text of ", text.size(), " tokens, expected 1 to ", t_max_);
    longest = std::max(longest, text.size());
  }
  width_ = static_cast<int64_t>(longest);
  std::fill(lengths_.begin(), lengths_.end(), 0);
  set_lengths();
  Tokens padded(texts.size() * longest, 0);
  std::vector<int64_t> last(texts.size());
  for (size_t b = 0; b < texts.size(); ++b) {
    std::copy(texts[b].begin(), texts[b].end(),
              padded.begin() + static_cast<ptrdiff_t>(b * longest));
    last[b] = static_cast<int64_t>(b * longest + texts[b].size()) - 1;
    lengths_[b] = static_cast<int32_t>(texts[b].size());
    fed_[b] = lengths_[b];
  }
  const Tensor x = run(Tensor::from(padded, {batch(), width_}, device_));
  set_lengths();
  return head_.logits(take_rows(x, last));
}

Tensor Session::step(std::span<const int32_t> tokens, const std::vector<bool>& active) {
  PM_CHECK(static_cast<int64_t>(tokens.size()) == batch(), "Session::step: ", tokens.size(),
           " tokens for ", batch(), " rows");
  const auto is_active = [&](size_t b) { return active.empty() || active[b]; };
  for (size_t b = 0; b < tokens.size(); ++b) {
    if (!is_active(b)) lengths_[b] = 0;  // it writes into its own row, which nobody reads again
    PM_CHECK(lengths_[b] < t_max_, "Session::step: row ", b, " is full at ", t_max_, " tokens");
  }
  if (!active.empty()) set_lengths();
  width_ = 1;
  if (!tokens_.defined()) tokens_ = Tensor({batch(), 1}, DType::i32, device_);
  device_copy(tokens_.raw(), device_, tokens.data(), kCpu, tokens_.bytes());
  step_on_device();
  for (size_t b = 0; b < tokens.size(); ++b) {
    fed_[b] = is_active(b) ? 1 : 0;
    if (is_active(b)) ++lengths_[b];
  }
  set_lengths();
  return logits_;
}

void Session::step_on_device() {
  const auto work = [this] { logits_ = head_.logits(run(tokens_)); };
  if (device_.type != DeviceType::cuda || capture_ != Capture::warm) {
    if (capture_ == Capture::cold) capture_ = Capture::warm;
    return work();
  }
  if (!graph_.captured()) {
    try {
      graph_.capture(device_, 0, work);
    } catch (const Error&) {
      capture_ = Capture::impossible;
      return work();
    }
  }
  graph_.replay();
}

void Session::keep_choices(bool keep) {
  if (keep != keep_choices_) graph_ = Graph();
  keep_choices_ = keep;
}

void Session::adopt(int64_t row, const Session& one) {
  PM_CHECK(one.batch() == 1 && one.t_max_ == t_max_, "Session::adopt: expected one row of ", t_max_,
           " tokens, got ", one.batch(), " of ", one.t_max_);
  for (size_t i = 0; i < cache_.layers.size(); ++i) {
    cache_.layers[i].rows(row, row + 1).copy_from(one.cache_.layers[i]);
  }
  lengths_.at(static_cast<size_t>(row)) = one.lengths_[0];
  set_lengths();
}

std::vector<std::vector<int32_t>> Session::choices(int64_t layer, int64_t row) const {
  std::vector<std::vector<int32_t>> all;
  for (const nn::LayerStat& stat : context_.stats) {
    if (stat.layer != layer || !stat.expert.defined()) continue;
    const Tensor expert = stat.expert.to(kCpu);  // (B * M, k)
    const int64_t k = expert.dim(1);
    const int32_t* data = expert.data<int32_t>() + row * width_ * k;
    for (int64_t t = 0; t < fed_.at(static_cast<size_t>(row)); ++t) {
      all.emplace_back(data + t * k, data + (t + 1) * k);
    }
  }
  return all;
}

}  // namespace pyramoe::infer
