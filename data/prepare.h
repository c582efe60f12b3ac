// From text files to a token file, once, before training.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/text_reader.h"
#include "data/tokenizer.h"

namespace pyramoe::data {

struct PrepareOptions {
  TextOptions text;
  // Called now and then with bytes of input read (as they lie on disk) and in all.
  std::function<void(int64_t, int64_t)> progress;
};

struct PrepareResult {
  int64_t documents = 0;
  int64_t text_bytes = 0;
  int64_t tokens = 0;
};

// Encodes every document of the inputs, in order, into the token file `out`; the end-of-text token,
// where the tokenizer has one, closes each document. Documents are encoded on all threads; the
// result does not depend on how many. Throws Error(data); `out` is then as it was before.
PrepareResult prepare_dataset(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                              const std::string& out, const PrepareOptions& options = {});

}  // namespace pyramoe::data
