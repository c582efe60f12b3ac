// Suggestions for unknown keys: foreign names first, then the same word in another section, then
// the smallest number of typing errors.
#include "core/config_suggest.h"

#include <algorithm>
#include <string_view>
#include <tuple>
#include <utility>

namespace pyramoe {
namespace {

constexpr size_t kLongestKey = 100;  // longer ones are no typing errors

// What others call our settings. Suggested, never accepted: their defaults and units may differ.
constexpr std::pair<std::string_view, std::string_view> kForeignNames[] = {
    {"n_layer", "model.layers"},
    {"n_layers", "model.layers"},
    {"num_layers", "model.layers"},
    {"num_hidden_layers", "model.layers"},
    {"depth", "model.layers"},
    {"n_head", "model.heads"},
    {"n_heads", "model.heads"},
    {"num_heads", "model.heads"},
    {"num_attention_heads", "model.heads"},
    {"n_embd", "model.dim"},
    {"d_model", "model.dim"},
    {"hidden_size", "model.dim"},
    {"n_ctx", "model.context"},
    {"n_positions", "model.context"},
    {"block_size", "model.context"},
    {"seq_length", "model.context"},
    {"seq_len", "model.context"},
    {"sequence_length", "model.context"},
    {"max_position_embeddings", "model.context"},
    {"vocab_size", "model.vocab"},
    {"padded_vocab_size", "model.vocab"},
    {"ffn_hidden_size", "model.hidden"},
    {"n_inner", "model.hidden"},
    {"d_ff", "model.hidden"},
    {"hidden_dropout", "model.dropout"},
    {"attention_dropout", "model.dropout"},
    {"resid_pdrop", "model.dropout"},
    {"init_method_std", "model.init_std"},
    {"initializer_range", "model.init_std"},
    {"num_experts", "moe.experts"},
    {"n_experts", "moe.experts"},
    {"num_local_experts", "moe.experts"},
    {"n_routed_experts", "moe.experts"},
    {"k", "moe.top_k"},
    {"topk", "moe.top_k"},
    {"moe_router_topk", "moe.top_k"},
    {"num_experts_per_tok", "moe.top_k"},
    {"moe_ffn_hidden_size", "moe.hidden"},
    {"moe_intermediate_size", "moe.hidden"},
    {"capacity", "moe.capacity_factor"},
    {"moe_expert_capacity_factor", "moe.capacity_factor"},
    {"moe_train_capacity_factor", "moe.capacity_factor"},
    {"moe_min_capacity", "moe.min_capacity"},
    {"noisy_gate_policy", "moe.noise"},
    {"use_residual", "moe.residual"},
    {"mlp_type", "moe.residual"},
    {"aux_loss_coef", "moe.balance_coef"},
    {"moe_aux_loss_coeff", "moe.balance_coef"},
    {"moe_loss_coeff", "moe.balance_coef"},
    {"router_aux_loss_coef", "moe.balance_coef"},
    {"moe_z_loss_coeff", "moe.z_coef"},
    {"max_iters", "train.steps"},
    {"train_iters", "train.steps"},
    {"max_steps", "train.steps"},
    {"iterations", "train.steps"},
    {"learning_rate", "train.lr"},
    {"min_learning_rate", "train.min_lr"},
    {"lr_decay_style", "train.schedule"},
    {"lr_decay_iters", "train.decay_tokens"},
    {"warmup_iters", "train.warmup_tokens"},
    {"warmup_steps", "train.warmup_tokens"},
    {"lr_warmup_iters", "train.warmup_tokens"},
    {"batch_size", "train.batch"},
    {"global_batch_size", "train.batch"},
    {"train_batch_size", "train.batch"},
    {"micro_batch_size", "train.micro_batch"},
    {"train_micro_batch_size_per_gpu", "train.micro_batch"},
    {"gradient_accumulation_steps", "train.micro_batch"},
    {"grad_clip", "train.clip"},
    {"clip_grad", "train.clip"},
    {"gradient_clipping", "train.clip"},
    {"adam_beta1", "train.beta1"},
    {"adam_beta2", "train.beta2"},
    {"adam_eps", "train.eps"},
    {"random_seed", "train.seed"},
    {"precision", "train.dtype"},
    {"eval_interval", "train.eval_every"},
    {"log_interval", "train.log_every"},
    {"save_interval", "train.save_every"},
    {"out_dir", "run.dir"},
    {"output_dir", "run.dir"},
    {"save", "run.dir"},
    {"dataset", "data.sources"},
    {"data_path", "data.sources"},
    {"kd_alpha", "distill.beta"},
    {"kd_temp", "distill.temperature"},
    {"tensor_model_parallel_size", "parallel.tensor"},
    {"expert_model_parallel_size", "parallel.expert"},
    {"ep_size", "parallel.expert"},
};

std::string_view last_segment(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? key : key.substr(dot + 1);
}

std::string normal_form(std::string_view key) {
  std::string result;
  for (const char c : key) {
    const bool upper = c >= 'A' && c <= 'Z';
    result += c == '-' ? '_' : upper ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

// Inserted, left out, wrong or swapped letters between two short words.
int64_t typing_errors(std::string_view a, std::string_view b) {
  std::vector<int64_t> before_last(b.size() + 1);
  std::vector<int64_t> last(b.size() + 1);
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::vector<std::string> suggest_keys(const std::string& unknown,
                                      const std::vector<std::string>& known) {
  if (unknown.size() > kLongestKey) return {};
  const std::string key = normal_form(unknown);
  const std::string_view word = last_segment(key);
  std::vector<std::tuple<int64_t, std::string>> ranked;  // smaller is likelier
  for (const std::string& candidate : known) {
    for (const auto& [foreign, ours] : kForeignNames)
      if (word == foreign && candidate == ours) ranked.emplace_back(0, candidate);
    if (last_segment(candidate) == word) ranked.emplace_back(1, candidate);
    const auto allowed = static_cast<int64_t>(std::max<size_t>(1, candidate.size() / 4));
    const int64_t whole = typing_errors(key, candidate);
    if (whole <= allowed) ranked.emplace_back(1 + whole, candidate);
    // A key without its section, misspelt: "laers".
    const auto word_allowed = static_cast<int64_t>(last_segment(candidate).size() / 3);
    const int64_t part = typing_errors(word, last_segment(candidate));
    if (part <= word_allowed) ranked.emplace_back(2 + part, candidate);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::string> best;
  for (const auto& [rank, candidate] : ranked) {
    if (best.size() == 3) break;
    if (std::find(best.begin(), best.end(), candidate) == best.end()) best.push_back(candidate);
  }
  return best;
}

}  // namespace pyramoe
