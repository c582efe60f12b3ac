// See hf_config.h.
#include "infer/hf_config.h"

#include <cmath>

#include "core/config.h"
#include "moe/layer_plan.h"

namespace pyramoe::infer {
namespace {

constexpr double kLayerNormEps = 1e-5;  // of ops::layer_norm

template <class T>
T value_or(const Json& json, const char* key, T otherwise, const std::string& what) {
  if (!json.contains(key) || json[key].is_null()) return otherwise;
  return json_value<T>(json, key, what, Exit::checkpoint);
}

[[noreturn]] void refuse(const std::string& what, const char* key, const std::string& value,
                         const std::string& expected) {
  fail(Exit::checkpoint, what, ": ", key, " = ", value, ", but pyramoe computes ", expected,
       "; this model cannot be imported");
}

void refuse_true(const Json& json, const char* key, const std::string& what,
                 const std::string& expected) {
  if (value_or(json, key, false, what)) refuse(what, key, "true", expected);
}

// Everything in a GPT-2 config.json that changes the numbers and that we have in one form only.
void check_gpt2(const Json& json, const std::string& what) {
  const auto activation = value_or<std::string>(json, "activation_function", "gelu_new", what);
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh") {
    refuse(what, "activation_function", pyramoe::quoted(activation), "gelu_new (the tanh form)");
  }
  const double eps = value_or(json, "layer_norm_epsilon", kLayerNormEps, what);
  if (std::fabs(eps - kLayerNormEps) > 1e-12) {
    refuse(what, "layer_norm_epsilon", cat(eps), cat(kLayerNormEps));
  }
  if (!value_or(json, "scale_attn_weights", true, what)) {
    refuse(what, "scale_attn_weights", "false", "attention scaled by 1 / sqrt(head size)");
  }
  if (!value_or(json, "tie_word_embeddings", true, what)) {
    refuse(what, "tie_word_embeddings", "false", "a head tied to the token table");
  }
  refuse_true(json, "scale_attn_by_inverse_layer_idx", what, "the same scale in every layer");
  refuse_true(json, "add_cross_attention", what, "self-attention only");
}

moe::ModelConfig from_gpt2(const Json& json, const std::string& what) {
  check_gpt2(json, what);
  moe::ModelConfig config;
  const auto size = [&](const char* key) {
    const auto value = json_value<int64_t>(json, key, what, Exit::checkpoint);
    if (value < 1 || value > (int64_t{1} << 24)) {
      fail(Exit::checkpoint, what, ": ", key, " = ", value, ", expected 1 to ", int64_t{1} << 24);
    }
    return value;
  };
  config.layers = size("n_layer");
  config.dim = size("n_embd");
  config.heads = size("n_head");
  config.context = size("n_positions");
  config.vocab = size("vocab_size");
  const bool has_inner = json.contains("n_inner") && !json["n_inner"].is_null();
  config.hidden = has_inner ? size("n_inner") : 0;
  if (config.hidden == 4 * config.dim) config.hidden = 0;
  config.init_std = value_or(json, "initializer_range", 0.02, what);
  config.dropout = value_or(json, "resid_pdrop", 0.0, what);
  return config;
}

moe::ModelConfig from_pyramoe(const Json& json, const std::string& what) {
  const Json& settings = json_member(json, kHfPyramoe, what, Exit::checkpoint);
  if (!settings.is_object()) {
    fail_json_type(settings, kHfPyramoe, what, "an object of settings", Exit::checkpoint);
  }
  ConfigSource source;
  for (const auto& [key, value] : settings.items()) {
    ConfigItem item{.key = key, .value = false, .origin = what, .text = ""};
    if (value.is_boolean()) {
      item.value = value.get<bool>();
    } else if (value.is_number_integer()) {
      item.value = value.get<int64_t>();
    } else if (value.is_number()) {
      item.value = value.get<double>();
    } else if (value.is_string()) {
      item.value = value.get<std::string>();
    } else {
      fail_json_type(value, key, what, "a number, a string or true or false", Exit::checkpoint);
    }
    source.set(std::move(item));
  }
  moe::ModelConfig config;
  apply_config(source, config);
  return config;
}

Json settings_json(const moe::ModelConfig& config) {
  moe::ModelConfig copy = config;
  Json json = Json::object();
  const ConfigFields fields = config_fields(copy);
  for (const ConfigField& field : fields.all()) {
    std::visit(
        [&](const auto* value) {
          if constexpr (requires { Json(*value); }) json[field.key] = *value;
        },
        field.value);
  }
  return json;
}

}  // namespace

bool is_dense(const moe::ModelConfig& config) {
  for (const moe::LayerPlan& layer : moe::layer_plan(config)) {
    if (layer.kind != moe::FfnKind::dense) return false;
  }
  return true;
}

Json to_hf_config(const moe::ModelConfig& config, const std::string& dtype, int32_t eot) {
  const bool dense = is_dense(config);
  const Json token = eot >= 0 ? Json(eot) : Json();
  const bool plain = config.dense_hidden() == 4 * config.dim;
  Json json{{"activation_function", "gelu_new"},
            {"architectures", {dense ? "GPT2LMHeadModel" : "PyramoeForCausalLM"}},
            {"attn_pdrop", config.dropout},
            {"bos_token_id", token},
            {"embd_pdrop", config.dropout},
            {"eos_token_id", token},
            {"initializer_range", config.init_std},
            {"layer_norm_epsilon", kLayerNormEps},
            {"model_type", dense ? kHfGpt2 : kHfPyramoe},
            {"n_ctx", config.context},
            {"n_embd", config.dim},
            {"n_head", config.heads},
            {"n_inner", plain ? Json() : Json(config.dense_hidden())},
            {"n_layer", config.layers},
            {"n_positions", config.context},
            {"resid_pdrop", config.dropout},
            {"scale_attn_weights", true},
            {"tie_word_embeddings", true},
            {"torch_dtype", dtype},
            {"use_cache", true},
            {"vocab_size", config.vocab}};
  if (dense) return json;
  json["statement"] =
      "A mixture of experts trained by pyramoe. transformers has no class for it: load it with "
      "`pyramoe import`. Weights are stored (out, in), experts along axis 0; "
      "docs/import-export.md names every tensor.";
  Json counts = Json::array();
  for (const moe::LayerPlan& layer : moe::layer_plan(config)) counts.push_back(layer.experts);
  json["experts_per_layer"] = counts;
  json["num_experts_per_tok"] = config.top_k;
  json[kHfPyramoe] = settings_json(config);
  return json;
}

moe::ModelConfig from_hf_config(const Json& json, const std::string& what) {
  const auto type = json_value<std::string>(json, "model_type", what, Exit::checkpoint);
  moe::ModelConfig config;
  try {
    if (type == kHfGpt2) {
      config = from_gpt2(json, what);
    } else if (type == kHfPyramoe) {
      config = from_pyramoe(json, what);
    } else {
      refuse(what, "model_type", pyramoe::quoted(type), "\"gpt2\" (and its own \"pyramoe\")");
    }
    moe::layer_plan(config);
  } catch (const Error& error) {
    if (error.code() == Exit::checkpoint) throw;
    fail(Exit::checkpoint, what, " describes no model: ", error.what());
  }
  return config;
}

}  // namespace pyramoe::infer
