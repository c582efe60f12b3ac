// See hf.h. Weights are read as the checkpoint stores them, without a model in between.
#include <algorithm>
#include <map>

#include "core/file.h"
#include "core/safetensors.h"
#include "infer/hf.h"
#include "infer/hf_config.h"
#include "infer/hf_tensors.h"
#include "infer/hf_tokenizer.h"
#include "infer/run.h"

namespace pyramoe::infer {
namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

const char* hf_dtype(DType type) {
  switch (type) {
    case DType::f64:
      return "float64";
    case DType::bf16:
      return "bfloat16";
    default:
      return "float32";
  }
}

Tensor cut_rows(const Tensor& table, int64_t rows) {
  return table.dim(0) > rows ? table.rows(0, rows) : table;
}

// A model without biases (model.bias = false) computes what GPT-2 does with biases of zero.
Tensor zero_bias(const Tensor& weight) {
  return Tensor::zeros({weight.numel() / weight.dim(-1)}, weight.dtype(), weight.device());
}

Named gpt2_tensors(const LoadedRun& run, int64_t vocab) {
  std::map<std::string, Tensor> parameters;
  for (const nn::Parameter* p : run.model->parameters(true)) parameters[p->name] = p->var.value();
  Named tensors;
  for (const HfName& name : gpt2_names(run.config.layers)) {
    const bool is_bias = name.ours.ends_with(".bias");
    if (is_bias && !run.config.bias && !parameters.count(name.ours)) {
      const std::string stem = name.ours.substr(0, name.ours.size() - 5);
      parameters[name.ours] = zero_bias(parameters.at(stem + ".weight"));
    }
    PM_CHECK(parameters.count(name.ours), "export: the model has no parameter ", name.ours);
    Tensor value = parameters[name.ours];
    if (name.ours == "embed.tokens") value = cut_rows(value, vocab);
    if (name.transposed) {
      value = transposed(value.reshape({-1, value.dim(-1)}));
    } else if (is_bias) {
      value = value.reshape({-1});
    }
    tensors.emplace_back("transformer." + name.hf, value);
  }
  PM_CHECK(tensors.size() == parameters.size(), "export: the model has ", parameters.size(),
           " parameters, GPT-2 ", tensors.size());
  return tensors;
}

// A model with experts keeps our names and layouts.
Named own_tensors(const LoadedRun& run, int64_t vocab) {
  Named tensors;
  for (const nn::Parameter* parameter : run.model->parameters(true)) {
    Tensor value = parameter->var.value();
    if (parameter->name == "embed.tokens") value = cut_rows(value, vocab);
    tensors.emplace_back(parameter->name, value);
  }
  return tensors;
}

// The type that the checkpoint stores its token table in.
DType stored_dtype(const std::string& checkpoint) {
  const SafetensorsReader file(checkpoint + "/model.safetensors", Exit::checkpoint);
  const SafetensorsEntry* entry = file.find("embed.tokens");
  return entry && entry->type && is_floating(*entry->type) ? *entry->type : DType::f32;
}

// GPT-2's files have just been written over; those of another kind may still lie there.
void check_tokenizer(const LoadedRun& run, const std::string& folder) {
  if (run.has_tokenizer && run.tokenizer->bpe()) return;
  const auto found = read_hf_tokenizer(folder);
  const bool same = run.has_tokenizer ? found->hash() == run.tokenizer->hash() : !found;
  if (!same) {
    fail(Exit::config, folder, " holds the tokenizer files of another model (vocab.json with ",
         "merges.txt, tokenizer.json or tokenizer/), which import would take for this one's; name ",
         "another folder, or delete them");
  }
}

}  // namespace

HfReport export_hf(const std::string& path, const std::string& folder) {
  const std::string checkpoint = nn::Checkpoint::find(path).folder();
  const DType dtype = stored_dtype(checkpoint);
  LoadedRun run = load_run(checkpoint, dtype);
  const int64_t vocab = run.has_tokenizer ? run.tokenizer->vocab_size() : run.config.vocab;
  const bool dense = is_dense(run.config);
  const Named tensors = dense ? gpt2_tensors(run, vocab) : own_tensors(run, vocab);
  moe::ModelConfig config = run.config;
  config.vocab = vocab;

  make_folders(folder, Exit::checkpoint);
  HfReport report;
  report.model_type = dense ? kHfGpt2 : kHfPyramoe;
  report.tensors = static_cast<int64_t>(tensors.size());
  report.vocab = vocab;
  report.model_vocab = run.config.vocab;
  report.dtype = dtype;
  report.checkpoint = checkpoint;
  report.has_tokenizer = run.has_tokenizer;
  report.own_tokenizer =
      run.has_tokenizer && !write_hf_tokenizer(*run.tokenizer, run.config.context, folder);
  check_tokenizer(run, folder);
  const int32_t eot = run.has_tokenizer ? run.tokenizer->eot() : -1;
  write_safetensors(folder + "/model.safetensors", tensors, {{"format", "pt"}}, Exit::checkpoint);
  write_file(folder + "/config.json",
             dump_json(to_hf_config(config, hf_dtype(dtype), eot), 2) + "\n", Exit::checkpoint);
  return report;
}

}  // namespace pyramoe::infer
