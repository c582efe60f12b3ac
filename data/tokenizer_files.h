// The file pyramoe_tokenizer.json: what kind a saved tokenizer is, and a char tokenizer's
// characters.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace pyramoe::data {

inline constexpr const char* kTokenizerFile = "pyramoe_tokenizer.json";

//   chars  of a char tokenizer, sorted; empty for other kinds
std::string tokenizer_json(const std::string& kind, int64_t vocab_size,
                           const std::vector<char32_t>& chars);

std::unique_ptr<Tokenizer> make_char_tokenizer(std::vector<char32_t> sorted_chars);

}  // namespace pyramoe::data
