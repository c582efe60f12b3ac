// pyramoe import: a Hugging Face folder as a run.
#include <cstdio>

#include "cli/commands.h"
#include "infer/hf.h"

namespace pyramoe {
namespace {

struct Options {
  std::string hf, run;
  int64_t pad_vocab = 0;
};

void import_command(const Options& options) {
  const infer::HfReport report = infer::import_hf(options.hf, options.run, options.pad_vocab);
  std::printf("%s: %lld tensors (%s), vocabulary %lld%s\n", report.checkpoint.c_str(),
              static_cast<long long>(report.tensors), to_string(report.dtype),
              static_cast<long long>(report.vocab),
              report.vocab != report.model_vocab ? " (padded with zero rows)" : "");
  if (!report.has_tokenizer) {
    std::printf(
        "no tokenizer: %s has neither vocab.json with merges.txt nor tokenizer.json nor "
        "tokenizer/\n",
        options.hf.c_str());
  }
}

}  // namespace

void add_import(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("import", "Make a run of a Hugging Face GPT-2 folder");
  command->add_option("--hf", options->hf, "folder with config.json and model.safetensors")
      ->required();
  command->add_option("run", options->run, "run folder to make")->required()->check(named());
  command
      ->add_option("--pad-vocab", options->pad_vocab,
                   "pad the token table with zero rows to a multiple of this; 0 = no padding")
      ->capture_default_str();
  command->footer(
      "Reads F32, F16, BF16 and F64 weights, whole or in shards. A config.json that asks for\n"
      "something pyramoe does not compute is refused.\n\n"
      "  pyramoe import --hf gpt2 runs/gpt2\n"
      "  pyramoe generate runs/gpt2 --prompt \"The meaning of life is\"");
  command->callback([options] { import_command(*options); });
}

}  // namespace pyramoe
