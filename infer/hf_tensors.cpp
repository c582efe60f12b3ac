// See hf_tensors.h.
#include "infer/hf_tensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/file.h"
#include "core/json.h"
#include "core/parallel.h"

namespace pyramoe::infer {
namespace {

constexpr std::string_view kPrefix = "transformer.";

template <class T>
void transpose_bits(const void* from, void* to, int64_t rows, int64_t columns) {
  constexpr int64_t kTile = 32;
  parallel_for(rows, kTile, [&](int64_t begin, int64_t end) {
    const T* in = static_cast<const T*>(from);
    T* out = static_cast<T*>(to);
    for (int64_t first = 0; first < columns; first += kTile) {
      const int64_t last = std::min(columns, first + kTile);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = first; j < last; ++j) out[j * rows + i] = in[i * columns + j];
      }
    }
  });
}

std::vector<std::string> shard_names(const std::string& folder) {
  const std::string index = folder + "/model.safetensors.index.json";
  if (path_exists(folder + "/model.safetensors")) return {"model.safetensors"};
  if (path_exists(index)) {
    std::set<std::string> shards;
    const Json json = read_json(index, Exit::checkpoint);
    const Json& map = json_member(json, "weight_map", index, Exit::checkpoint);
    if (!map.is_object()) {
      fail_json_type(map, "weight_map", index, "an object", Exit::checkpoint);
    }
    for (const auto& [name, file] : map.items()) {
      const std::string shard = file.is_string() ? file.get<std::string>() : "";
      if (shard.empty() || shard.find('/') != std::string::npos) {
        fail(Exit::checkpoint, index, ": weight_map of ", pyramoe::quoted(name),
             " must be a file name in this folder");
      }
      shards.insert(shard);
    }
    return {shards.begin(), shards.end()};
  }
  if (path_exists(folder + "/pytorch_model.bin")) {
    fail(Exit::checkpoint, folder,
         " holds pytorch_model.bin, a pickle, which can run code when "
         "read and is refused; save the model with safe_serialization=True first");
  }
  fail(Exit::checkpoint, folder,
       ": expected model.safetensors (or "
       "model.safetensors.index.json with shards), there is neither");
}

}  // namespace

std::vector<HfName> gpt2_names(int64_t layers) {
  std::vector<HfName> names = {{"wte.weight", "embed.tokens"}, {"wpe.weight", "embed.positions"}};
  for (int64_t i = 0; i < layers; ++i) {
    const std::string hf = "h." + std::to_string(i) + ".";
    const std::string ours = "blocks." + std::to_string(i) + ".";
    const auto both = [&](const char* theirs, const char* mine, bool matrix) {
      names.push_back({hf + theirs + ".weight", ours + mine + ".weight", matrix});
      names.push_back({hf + theirs + ".bias", ours + mine + ".bias", false});
    };
    both("ln_1", "norm1", false);
    both("attn.c_attn", "attention.qkv", true);
    both("attn.c_proj", "attention.out", true);
    both("ln_2", "norm2", false);
    both("mlp.c_fc", "ffn.up", true);
    both("mlp.c_proj", "ffn.down", true);
  }
  names.push_back({"ln_f.weight", "norm.weight"});
  names.push_back({"ln_f.bias", "norm.bias"});
  return names;
}

Tensor transposed(const Tensor& matrix) {
  PM_CHECK(matrix.rank() == 2, "transposed: expected a matrix, got ", to_string(matrix.shape()));
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  Tensor out({columns, rows}, matrix.dtype());
  switch (size_of(matrix.dtype())) {
    case 8:
      transpose_bits<uint64_t>(matrix.raw(), out.raw(), rows, columns);
      break;
    case 4:
      transpose_bits<uint32_t>(matrix.raw(), out.raw(), rows, columns);
      break;
    default:
      transpose_bits<uint16_t>(matrix.raw(), out.raw(), rows, columns);
  }
  return out;
}

bool is_mask_buffer(const std::string& name) {
  return name.starts_with("h.") &&
         (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

HfTensors::HfTensors(const std::string& folder) : folder_(folder) {
  for (const std::string& name : shard_names(folder)) {
    files_.push_back(std::make_unique<SafetensorsReader>(folder + "/" + name, Exit::checkpoint));
    for (const SafetensorsEntry& entry : files_.back()->entries()) {
      std::string plain = entry.name;
      if (plain.starts_with(kPrefix)) plain.erase(0, kPrefix.size());
      entries_.push_back({std::move(plain), files_.back().get(), &entry});
    }
  }
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  for (size_t i = 1; i < entries_.size(); ++i) {
    if (entries_[i].name == entries_[i - 1].name) {
      fail(Exit::checkpoint, folder, ": tensor ", pyramoe::quoted(entries_[i].name),
           " comes twice");
    }
  }
}

const HfTensors::Entry* HfTensors::find(const std::string& name) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const Entry& entry, const std::string& key) { return entry.name < key; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

Tensor HfTensors::at(const std::string& name) const {
  const Entry* entry = find(name);
  if (!entry) {
    fail(Exit::checkpoint, folder_, ": tensor ", pyramoe::quoted(name),
         " is missing (the files hold ", entries_.size(),
         " others); the download may be incomplete");
  }
  const Tensor tensor = entry->file->tensor(*entry->entry);
  if (!is_floating(tensor.dtype())) {
    fail(Exit::checkpoint, folder_, ": tensor ", pyramoe::quoted(name), " holds ",
         entry->entry->dtype, ", expected F32, F16, BF16 or F64");
  }
  return tensor;
}

std::vector<std::string> HfTensors::names() const {
  std::vector<std::string> names;
  for (const Entry& entry : entries_) names.push_back(entry.name);
  return names;
}

}  // namespace pyramoe::infer
