// See hf.h. Everything is read and checked before the first byte is written, and the checkpoint is
// committed last: a folder with a checkpoint is a whole run.
#include <algorithm>
#include <cstring>

#include "core/config.h"
#include "core/file.h"
#include "infer/hf.h"
#include "infer/hf_config.h"
#include "infer/hf_tensors.h"
#include "infer/hf_tokenizer.h"
#include "infer/run.h"
#include "moe/build_model.h"

namespace pyramoe::infer {
namespace {

// One of our parameters, where its bits come from.
std::vector<HfName> wanted_names(const moe::ModelConfig& config, nn::Gpt& shapes) {
  if (is_dense(config)) return gpt2_names(config.layers);
  std::vector<HfName> names;
  for (const nn::Parameter* parameter : shapes.parameters(true)) {
    names.push_back({parameter->name, parameter->name, false});
  }
  return names;
}

// The files must hold what the model has and nothing more, but for constants of old exports and a
// head that repeats the token table.
void check_names(const HfTensors& tensors, const std::vector<HfName>& wanted,
                 const std::string& folder) {
  std::vector<std::string> known;
  for (const HfName& name : wanted) known.push_back(name.hf);
  std::sort(known.begin(), known.end());
  for (const std::string& name : tensors.names()) {
    if (std::binary_search(known.begin(), known.end(), name) || is_mask_buffer(name)) continue;
    if (name == "lm_head.weight") {
      const Tensor head = tensors.at(name), table = tensors.at(wanted[0].hf);
      if (head.shape() != table.shape() || head.dtype() != table.dtype() ||
          std::memcmp(head.raw(), table.raw(), static_cast<size_t>(head.bytes())) != 0) {
        fail(Exit::checkpoint, folder,
             ": lm_head.weight differs from the token table; pyramoe's "
             "head is tied to it, so this model cannot be imported");
      }
      continue;
    }
    fail(Exit::checkpoint, folder, ": tensor ", pyramoe::quoted(name),
         " has no place in the model of its config.json");
  }
}

Tensor padded_rows(const Tensor& table, int64_t rows) {
  if (table.dim(0) == rows) return table;
  Tensor out = Tensor::zeros({rows, table.dim(1)}, table.dtype());
  out.rows(0, table.dim(0)).copy_from(table);
  return out;
}

// A tensor of the files in the shape of our parameter.
Tensor fitted(const HfTensors& tensors, const HfName& name, const Shape& shape, int64_t vocab,
              const std::string& folder) {
  Tensor value = tensors.at(name.hf);
  const Shape stored = value.shape();
  if (name.transposed && value.rank() == 2) value = transposed(value);
  if (name.ours == "embed.tokens" && value.rank() == 2 && value.dim(0) == vocab) {
    value = padded_rows(value, shape[0]);
  }
  const bool fits =
      value.numel() == numel(shape) && value.rank() >= 1 && value.dim(-1) == shape.back();
  if (name.ours.ends_with(".bias") ? value.numel() != numel(shape) : !fits) {
    fail(Exit::checkpoint, folder, ": tensor ", pyramoe::quoted(name.hf), " is ", to_string(stored),
         ", which does not fit config.json (our ", name.ours, " is ", to_string(shape), ")");
  }
  return value.reshape(shape);
}

// bf16 if all weights are, f64 if any is, else f32.
DType common_dtype(const std::vector<nn::NamedTensor>& tensors) {
  const auto is = [](DType type) {
    return [type](const nn::NamedTensor& tensor) { return tensor.value.dtype() == type; };
  };
  if (std::all_of(tensors.begin(), tensors.end(), is(DType::bf16))) return DType::bf16;
  if (std::any_of(tensors.begin(), tensors.end(), is(DType::f64))) return DType::f64;
  return DType::f32;
}

moe::ModelConfig read_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!is_folder(folder)) {
    fail(Exit::checkpoint, folder, ": expected a folder with config.json and model.safetensors");
  }
  return from_hf_config(read_json(path, Exit::checkpoint), path);
}

}  // namespace

HfReport import_hf(const std::string& folder, const std::string& run, int64_t pad_vocab) {
  if (pad_vocab < 0) fail(Exit::config, "--pad-vocab: expected >= 0, got ", pad_vocab);
  if (nn::Checkpoint::exists(run)) {
    fail(Exit::config, run, " already holds a run with checkpoints; give another name");
  }
  moe::ModelConfig config = read_config(folder);
  const HfTensors tensors(folder);
  const auto tokenizer = read_hf_tokenizer(folder);
  const int64_t vocab = config.vocab;
  if (tokenizer && tokenizer->vocab_size() > vocab) {
    fail(Exit::checkpoint, folder, ": the tokenizer has ", tokenizer->vocab_size(),
         " tokens, config.json says vocab_size = ", vocab, "; they are not of one model");
  }
  if (pad_vocab > 1) config.vocab = (vocab + pad_vocab - 1) / pad_vocab * pad_vocab;

  const auto shapes = moe::build_model(config, nn::Build{DType::f32, {DeviceType::meta, 0}}, false);
  const std::vector<HfName> wanted = wanted_names(config, *shapes);
  check_names(tensors, wanted, folder);
  nn::CheckpointContent content;
  for (const nn::Parameter* parameter : shapes->parameters(true)) {
    const auto name = std::find_if(wanted.begin(), wanted.end(),
                                   [&](const HfName& one) { return one.ours == parameter->name; });
    PM_CHECK(name != wanted.end(), "import: no source for ", parameter->name);
    content.model.push_back(
        {parameter->name, fitted(tensors, *name, parameter->var.shape(), vocab, folder)});
  }
  HfReport report;
  report.dtype = common_dtype(content.model);
  content.config = to_toml(config);
  content.config += cat("\n[train]\ndtype = \"", to_string(report.dtype), "\"\n");
  if (tokenizer) tokenizer->save(run + "/tokenizer");
  make_folders(run, Exit::checkpoint);
  write_file(run + "/config.toml", content.config, Exit::checkpoint);
  report.checkpoint = nn::save_checkpoint(run, content);
  report.model_type = is_dense(config) ? kHfGpt2 : kHfPyramoe;
  report.tensors = static_cast<int64_t>(content.model.size());
  report.vocab = config.vocab;
  report.model_vocab = vocab;
  report.has_tokenizer = tokenizer != nullptr;
  return report;
}

}  // namespace pyramoe::infer
