// Model settings as Hugging Face's config.json says them, and back.
//
// Dense models are GPT-2 to the letter. Models with experts have no class there: they carry the
// model_type "pyramoe", all our settings and one expert count per layer. What a config.json asks
// for and our GPT does not compute is refused, never ignored.
#pragma once

#include <string>

#include "core/json.h"
#include "moe/model_config.h"

namespace pyramoe::infer {

inline constexpr const char* kHfGpt2 = "gpt2";
inline constexpr const char* kHfPyramoe = "pyramoe";

// True when the model has only dense blocks, so that GPT-2 can express it.
bool is_dense(const moe::ModelConfig& config);

//   dtype  of the weights, as transformers names it: float32, bfloat16, float64
//   eot    end-of-text token, -1 = none
Json to_hf_config(const moe::ModelConfig& config, const std::string& dtype, int32_t eot);

// `what` names the file in errors. Throws Error(checkpoint) naming the key that cannot be
// expressed, its value and what would do.
moe::ModelConfig from_hf_config(const Json& json, const std::string& what);

}  // namespace pyramoe::infer
