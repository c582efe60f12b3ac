// pyramoe export: a trained model as a Hugging Face folder.
#include <cstdio>

#include "cli/commands.h"
#include "infer/hf.h"
#include "infer/hf_config.h"

namespace pyramoe {
namespace {

struct Options {
  std::string run, hf;
};

void export_command(const Options& options) {
  const infer::HfReport report = infer::export_hf(options.run, options.hf);
  std::printf("%s: %lld tensors (%s) of %s, model_type \"%s\", vocabulary %lld\n",
              options.hf.c_str(), static_cast<long long>(report.tensors), to_string(report.dtype),
              report.checkpoint.c_str(), report.model_type.c_str(),
              static_cast<long long>(report.vocab));
  if (report.model_vocab != report.vocab) {
    std::printf("the vocabulary's padding was cut: the model has %lld rows, the tokenizer %lld\n",
                static_cast<long long>(report.model_vocab), static_cast<long long>(report.vocab));
  }
  if (report.model_type != infer::kHfGpt2) {
    std::printf("transformers has no class for a model with experts; pyramoe import reads it\n");
  }
  if (!report.has_tokenizer) {
    std::printf("no tokenizer files: the run has no tokenizer\n");
  }
  if (report.own_tokenizer) {
    std::printf(
        "the tokenizer is no byte-level BPE: it lies in %s/tokenizer, where pyramoe import "
        "finds it; transformers cannot read it\n",
        options.hf.c_str());
  }
}

}  // namespace

void add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export", "Write a model as a Hugging Face folder (GPT-2 layout)");
  command->add_option("run", options->run, "run folder, or one of its checkpoints")->required();
  command->add_option("--hf", options->hf, "folder to write: config.json, model.safetensors, …")
      ->required()
      ->check(named());
  command->footer(
      "A dense model loads with transformers' GPT2LMHeadModel.from_pretrained(DIR). One with\n"
      "experts is written with model_type \"pyramoe\" and our tensor names "
      "(docs/import-export.md).\n"
      "\n  pyramoe export runs/my_run --hf my_model");
  command->callback([options] { export_command(*options); });
}

}  // namespace pyramoe
