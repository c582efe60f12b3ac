// Models to and from Hugging Face's folders: config.json, model.safetensors, tokenizer files.
//
// Both ways move bits and change none: import then export gives every tensor back as it was, export
// then import then export gives the same files, byte for byte. Read next: hf_tensors.h (names and
// layouts), hf_config.h (what can be expressed), docs/import-export.md.
#pragma once

#include <string>

#include "core/dtype.h"

namespace pyramoe::infer {

struct HfReport {
  std::string model_type;    // "gpt2" or "pyramoe"
  int64_t tensors = 0;       // written or read
  int64_t vocab = 0;         // of the model written
  int64_t model_vocab = 0;   // of the model read, padding included
  DType dtype = DType::f32;  // of the weights
  bool has_tokenizer = false;
  bool own_tokenizer = false;  // written to tokenizer/, which transformers does not know
  std::string checkpoint;      // read or written
};

// Writes the newest checkpoint of a run (or the checkpoint named) into `folder`, each tensor with
// the type it is stored in. Padding of the vocabulary beyond the tokenizer's is cut.
// Throws Error(checkpoint); Error(config) where import would take another model's tokenizer files,
// left in `folder`, for this one's.
HfReport export_hf(const std::string& run, const std::string& folder);

// Makes a run of a model folder.
//   run        must hold no checkpoint yet
//   pad_vocab  pads the token table with zero rows to a multiple of this; 0 and 1 = no padding
// Throws Error(checkpoint) for what cannot be expressed, Error(config) if `run` is taken.
HfReport import_hf(const std::string& folder, const std::string& run, int64_t pad_vocab = 0);

}  // namespace pyramoe::infer
