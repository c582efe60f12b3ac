// Tensor names and layouts of Hugging Face's GPT-2 against ours.
//
// Two differences: Conv1D stores a weight (in, out) where a linear layer here stores (out, in), and
// c_attn is our packed qkv (3, D, D) seen as one matrix of 3 D outputs. Transposing moves bits and
// changes none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "moe/model_config.h"

namespace pyramoe::infer {

struct HfName {
  std::string hf;    // without "transformer."
  std::string ours;  // parameter of nn::Gpt
  bool transposed = false;
};
// Every tensor of a dense GPT.
std::vector<HfName> gpt2_names(int64_t layers);

// The transpose of a matrix on the CPU.
Tensor transposed(const Tensor& matrix);

// The tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json
// lists. Names are given without a leading "transformer.".
class HfTensors {
 public:
  // Throws Error(checkpoint) if there are none, saying what the folder holds instead.
  explicit HfTensors(const std::string& folder);
  bool has(const std::string& name) const { return find(name) != nullptr; }
  // F16 becomes f32, exactly; others keep their type. Throws Error(checkpoint) naming the nearest.
  Tensor at(const std::string& name) const;
  std::vector<std::string> names() const;

 private:
  struct Entry {
    std::string name;  // without prefix
    const SafetensorsReader* file;
    const SafetensorsEntry* entry;
  };
  const Entry* find(const std::string& name) const;

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::vector<Entry> entries_;  // sorted by name
};

// Biases of old exports that are constants, not weights: h.N.attn.bias, h.N.attn.masked_bias.
bool is_mask_buffer(const std::string& name);

}  // namespace pyramoe::infer
