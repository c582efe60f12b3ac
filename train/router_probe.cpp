// See router_probe.h.
#include "train/router_probe.h"

#include <algorithm>
#include <cmath>

namespace pyramoe::train {
namespace {

constexpr int64_t kTokens = 512;      // through the model
constexpr int64_t kTokensRead = 256;  // whose probabilities the host looks at

// Windows spread evenly over the set, so that every domain of some size is among them.
data::Batch spread(const data::ValidationSet& set, int64_t count) {
  data::Batch batch;
  for (int64_t i = 0; i < count; ++i) {
    const data::Batch one = set.windows((2 * i + 1) * set.size() / (2 * count), 1);
    batch.rows += 1;
    batch.context = one.context;
    batch.tokens.insert(batch.tokens.end(), one.tokens.begin(), one.tokens.end());
  }
  return batch;
}

}  // namespace

int64_t probe_windows(int64_t context) { return std::max<int64_t>(1, kTokens / context); }

// A forward pass is about a third of a step's work on the same tokens: one sequence in a hundred
// and fifty costs a quarter of a percent. Small steps on a GPU are launches, not work: hence five
// records.
int64_t probe_interval(int64_t record_every, int64_t context, int64_t batch) {
  const int64_t by_work = (150 * probe_windows(context) + batch - 1) / std::max<int64_t>(1, batch);
  return std::max(5 * record_every, by_work);
}

double relative_entropy(const double* probability, int64_t experts) {
  if (experts < 2) return 0;
  double entropy = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (probability[e] > 0) entropy -= probability[e] * std::log(probability[e]);
  }
  return entropy / std::log(static_cast<double>(experts));
}

RouterProbe probe_router(nn::Gpt& model, const data::ValidationSet& set, Device device) {
  RouterProbe probe;
  const int64_t windows = std::min(set.size(), probe_windows(model.options().context));
  if (windows == 0) return probe;
  const NoGrad no_grad;
  const data::Batch batch = spread(set, windows);
  nn::Context context;
  context.keep_probabilities = true;
  nn::GptOut out;
  model.features(Tensor::from(batch.tokens, {batch.rows, batch.context}, device), context, out);
  for (const nn::LayerStat& stat : context.stats) {
    const int64_t tokens = stat.probability.dim(0), experts = stat.probability.dim(1);
    const std::vector<double> p = stat.probability.to_vector();
    const int64_t stride = (tokens + kTokensRead - 1) / kTokensRead;
    double entropy = 0, top = 0, count = 0;
    for (int64_t n = 0; n < tokens; n += stride, ++count) {
      const double* row = p.data() + n * experts;
      entropy += relative_entropy(row, experts);
      top += *std::max_element(row, row + experts);
    }
    probe.entropy.push_back(entropy / count);
    probe.top.push_back(top / count);
  }
  return probe;
}

}  // namespace pyramoe::train
