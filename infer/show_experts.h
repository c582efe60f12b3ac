// A text with every token in the colour of the expert that read it.
//
// On a terminal: 256-colour background per expert. Elsewhere, or with NO_COLOR set: token[expert].
#pragma once

#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "infer/generate.h"
#include "moe/model_config.h"

namespace pyramoe::infer {

// Block `asked`, or the last block with experts for -1. Throws Error(config) if it has none, naming
// the blocks that do.
int64_t expert_layer(const moe::ModelConfig& config, int64_t asked);

// Entry of the 256-colour palette (the 6 x 6 x 6 cube); neighbours differ clearly.
int expert_colour(int32_t expert);

// Prompt and text. Tokens that share a character are shown together, in the first one's colour.
std::string text_with_experts(const Generated& text, const data::Tokenizer& tokenizer, bool colour);

// Which colour is which expert, and the share of tokens each took.
std::string expert_legend(const std::vector<Generated>& texts, int64_t layer, int64_t experts,
                          bool colour);

// True when colours may be written to this stream: a terminal, and NO_COLOR is not set.
bool may_colour(int file_descriptor);

}  // namespace pyramoe::infer
