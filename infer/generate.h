// Texts continued by a model: the loop of choose, look for a stop, read, with everything a user
// sees on the way.
//
// Longer than the context: when a text fills model.context, the newest context / 2 tokens are read
// again as a fresh window and the text goes on; what was before is forgotten. Read next: session.h
// (how tokens are read), sampler.h (how they are chosen).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "infer/sampler.h"
#include "infer/session.h"

namespace pyramoe::infer {

struct GenerateOptions {
  int64_t tokens = 500;  // new ones, at most
  SampleOptions sample;
  int64_t first_sample = 0;         // number of the first text, for its random numbers
  std::vector<std::string> stops;   // the text ends before the first of these
  bool stop_at_end_of_text = true;  // … and before the end-of-text token
  int64_t expert_layer = -1;        // keep which experts of this block every token chose
};

enum class Finish { length, stop, end_of_text };
const char* to_string(Finish finish);

struct Generated {
  Tokens prompt;     // what was read, cut to the context
  Tokens tokens;     // what was added, a stop string's tokens included
  std::string text;  // of the added tokens, without the stop string
  Finish finish = Finish::length;
  std::vector<std::vector<int32_t>> experts;  // per token of prompt and tokens, if asked for
};

// Called with the number of a prompt and more of its text: whole characters, never a part of a stop
// string.
using OnText = std::function<void(int64_t prompt, std::string_view text)>;

// Continues all prompts at once; each as it would be alone, bit for bit. Prompts longer than the
// context lose their beginning; an empty one starts from start_token().
// Throws Error(config) for options out of range, Error(non_finite) for a broken model.
std::vector<Generated> generate(nn::Gpt& model, const data::Tokenizer& tokenizer,
                                const std::vector<Tokens>& prompts, const GenerateOptions& options,
                                Device device = kCpu, const OnText& on_text = {});

// What a text without prompt begins with: the end-of-text token, else a newline, else token 0.
Tokens start_token(const data::Tokenizer& tokenizer);

// Bytes at the end of `text` that could be the beginning of a stop string.
size_t possible_stop(std::string_view text, const std::vector<std::string>& stops);

}  // namespace pyramoe::infer
