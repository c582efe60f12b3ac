// See routing_observe.h.
#include "report/routing_observe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "core/file.h"
#include "data/utf8.h"
#include "infer/run.h"
#include "train/open_data.h"
#include "train/router_probe.h"

namespace pyramoe::report {
namespace {

constexpr int64_t kTokensAtOnce = 2048;
constexpr int64_t kSampleTokens = 240;  // of each domain
constexpr size_t kFavourites = 8;
constexpr int64_t kFewestTimes = 3;  // that an expert must have read a favourite

// One layer's choices for the tokens of a forward pass, on the host.
struct Choices {
  int64_t top_k = 0, experts = 0;
  std::vector<double> expert, probability;  // (N, k), (N, E)

  int32_t first(int64_t n) const {
    return static_cast<int32_t>(expert[static_cast<size_t>(n * top_k)]);
  }
  int32_t at(int64_t n, int64_t k) const {
    return static_cast<int32_t>(expert[static_cast<size_t>(n * top_k + k)]);
  }
  const double* row(int64_t n) const { return probability.data() + n * experts; }
};

class Observer {
 public:
  Observer(const std::string& run, const train::RunConfig& config)
      : run_(infer::load_run(run, train::dtype_of(config) == DType::f64 ? DType::f64 : DType::f32)),
        data_(train::open_data(config)) {
    out_.step = run_.step;
    out_.domains = data_.corpus->names();
  }

  Observation look(int64_t tokens) {
    for (size_t d = 0; d < out_.domains.size(); ++d) {
      const auto id = static_cast<int64_t>(d);
      const int64_t begin = data_.validation->begin(id), end = data_.validation->end(id);
      const int64_t context = run_.model->options().context;
      const int64_t windows = std::min(end - begin, (tokens + context - 1) / context);
      const int64_t at_once = std::max<int64_t>(1, kTokensAtOnce / context);
      out_.samples.push_back({out_.domains[d], {}});
      for (int64_t i = 0; i < windows; i += at_once) {
        data::Batch batch;  // windows spread evenly over the domain's part
        for (int64_t j = i; j < std::min(windows, i + at_once); ++j) {
          append(batch, data_.validation->windows(begin + j * (end - begin) / windows, 1));
        }
        read(batch, id);
      }
    }
    if (out_.tokens == 0) {
      fail(Exit::data, "no domain has validation text (data.val_fraction and its sources)");
    }
    finish();
    return std::move(out_);
  }

 private:
  static void append(data::Batch& batch, const data::Batch& one) {
    batch.rows += one.rows;
    batch.context = one.context;
    batch.tokens.insert(batch.tokens.end(), one.tokens.begin(), one.tokens.end());
  }

  std::vector<Choices> forward(const data::Batch& batch) {
    const NoGrad no_grad;
    nn::Context context;
    context.keep_choices = context.keep_probabilities = true;
    nn::GptOut out;
    const Shape shape{batch.rows, batch.context};
    run_.model->features(Tensor::from(batch.tokens, shape, run_.device), context, out);
    std::vector<Choices> layers;
    for (const nn::LayerStat& stat : context.stats) {
      layers.push_back({stat.expert.dim(1), stat.probability.dim(1), stat.expert.to_vector(),
                        stat.probability.to_vector()});
    }
    if (out_.layers.empty()) lay_out(context.stats);
    return layers;
  }

  void lay_out(const std::vector<nn::LayerStat>& stats) {
    const auto domains = static_cast<int64_t>(out_.domains.size());
    for (size_t l = 0; l < stats.size(); ++l) {
      const int64_t experts = stats[l].load.numel();
      LayerObservation layer;
      layer.block = stats[l].layer;
      layer.experts = experts;
      layer.by_domain = Counts(domains, experts);
      if (stats[l].expert.dim(1) > 1) layer.together = Counts(experts, experts);
      if (l + 1 < stats.size()) layer.next = Counts(experts, stats[l + 1].load.numel());
      out_.layers.push_back(std::move(layer));
    }
    read_by_.resize(stats.size());
  }

  void read(const data::Batch& batch, int64_t domain) {
    const std::vector<Choices> layers = forward(batch);
    const int64_t count = batch.rows * batch.context;
    for (int64_t n = 0; n < count; ++n) {
      const int32_t token = batch.tokens[static_cast<size_t>(n)];
      ++seen_[token];
      for (size_t l = 0; l < layers.size(); ++l) {
        count_token(layers, l, n, domain);
        ++read_by_[l][{layers[l].first(n), token}];
      }
    }
    out_.tokens += count;
    add_sample(batch, layers, out_.samples[static_cast<size_t>(domain)].tokens);
  }

  void count_token(const std::vector<Choices>& layers, size_t l, int64_t n, int64_t domain) {
    const Choices& here = layers[l];
    LayerObservation& layer = out_.layers[l];
    for (int64_t a = 0; a < here.top_k; ++a) {
      ++layer.by_domain.at(domain, here.at(n, a));
      for (int64_t b = 0; b < here.top_k; ++b) {
        if (a != b) ++layer.together.at(here.at(n, a), here.at(n, b));
      }
      if (l + 1 == layers.size()) continue;
      for (int64_t b = 0; b < layers[l + 1].top_k; ++b) {
        ++layer.next.at(here.at(n, a), layers[l + 1].at(n, b));
      }
    }
    layer.entropy += train::relative_entropy(here.row(n), here.experts);
    layer.probability += *std::max_element(here.row(n), here.row(n) + here.experts);
  }

  std::string text_of(int32_t token) const {
    // Ids of generated data are no text.
    return run_.has_tokenizer ? run_.tokenizer->token(token) : std::to_string(token) + " ";
  }

  // Windows until the sample is long enough; they come from different places of the domain.
  void add_sample(const data::Batch& batch, const std::vector<Choices>& layers,
                  std::vector<ReadToken>& sample) const {
    for (int64_t row = 0; row < batch.rows; ++row) {
      const auto left = kSampleTokens - static_cast<int64_t>(sample.size());
      if (left < std::min<int64_t>(batch.context, kSampleTokens / 4)) return;
      if (!sample.empty()) sample.push_back({"\n\n", {}});
      std::string held;
      for (int64_t i = 0; i < std::min(batch.context, left); ++i) {
        const int64_t n = row * batch.context + i;
        if (held.empty()) sample.push_back({"", choices_of(layers, n)});
        held += text_of(batch.tokens[static_cast<size_t>(n)]);
        sample.back().text = held;
        if (data::complete_prefix(held) == held.size()) held.clear();
      }
    }
  }

  static std::vector<ReadToken::Choice> choices_of(const std::vector<Choices>& layers, int64_t n) {
    std::vector<ReadToken::Choice> out;
    for (const Choices& layer : layers) {
      out.push_back({layer.first(n), layer.row(n)[layer.first(n)]});
    }
    return out;
  }

  void finish() {
    const auto tokens = static_cast<double>(out_.tokens);
    for (size_t l = 0; l < out_.layers.size(); ++l) {
      LayerObservation& layer = out_.layers[l];
      layer.entropy /= tokens;
      layer.probability /= tokens;
      layer.favourites.resize(static_cast<size_t>(layer.experts));
      std::vector<int64_t> all(static_cast<size_t>(layer.experts), 0);
      for (const auto& [key, count] : read_by_[l]) all[static_cast<size_t>(key.first)] += count;
      for (const auto& [key, count] : read_by_[l]) {
        if (count < kFewestTimes) continue;
        const double here =
            static_cast<double>(count) / static_cast<double>(all[static_cast<size_t>(key.first)]);
        const double times = here * tokens / static_cast<double>(seen_.at(key.second));
        if (times < 1.2) continue;
        layer.favourites[static_cast<size_t>(key.first)].push_back(
            {text_of(key.second), count, times});
      }
      for (std::vector<Favourite>& list : layer.favourites) keep_best(list);
    }
  }

  // Those that tell this expert from others best: often read, and more often than elsewhere.
  static void keep_best(std::vector<Favourite>& list) {
    const auto weight = [](const Favourite& f) {
      return static_cast<double>(f.count) * std::log(f.times);
    };
    std::stable_sort(list.begin(), list.end(),
                     [&](const Favourite& a, const Favourite& b) { return weight(a) > weight(b); });
    if (list.size() > kFavourites) list.resize(kFavourites);
  }

  infer::LoadedRun run_;
  train::OpenData data_;
  Observation out_;
  std::map<int32_t, int64_t> seen_;                                      // by token
  std::vector<std::map<std::pair<int32_t, int32_t>, int64_t>> read_by_;  // by layer; expert, token
};

}  // namespace

Observation observe(const std::string& run, const train::RunConfig& config, int64_t tokens) {
  train::RunConfig own = config;
  if (is_folder(run + "/tokenizer")) own.data.tokenizer = run + "/tokenizer";
  return Observer(run, own).look(tokens);
}

}  // namespace pyramoe::report
