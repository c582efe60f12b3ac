// Tokenizer files in a Hugging Face model folder: reading and writing them.
#pragma once

#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace pyramoe::infer {

// vocab.json with merges.txt, the byte-level BPE inside tokenizer.json, or what export put into
// tokenizer/; nullptr if the folder has none of them. Throws Error(data) for a tokenizer of another
// kind.
std::unique_ptr<data::Tokenizer> read_hf_tokenizer(const std::string& folder);

// Writes vocab.json, merges.txt and tokenizer_config.json. A tokenizer that GPT-2's files cannot
// express (bytes, characters) goes into tokenizer/ as we save it, and the answer is false.
bool write_hf_tokenizer(const data::Tokenizer& tokenizer, int64_t context,
                        const std::string& folder);

}  // namespace pyramoe::infer
