// pyramoe generate: texts continued by a trained model.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "cli/commands.h"
#include "core/file.h"
#include "core/json.h"
#include "infer/generate.h"
#include "infer/quantize.h"
#include "infer/run.h"
#include "infer/show_experts.h"
#include "moe/layer_plan.h"

namespace pyramoe {
namespace {

struct Options {
  std::string run, prompt, dtype, device = "cpu";
  std::string show_experts;  // a block, or empty for the last one with experts
  bool with_experts = false;
  infer::GenerateOptions generate;
  int64_t samples = 1, expert_bits = 0;
  bool no_stream = false, json = false, ignore_end_of_text = false;
};

constexpr const char* kRule = "---------------\n";
constexpr int64_t kTogether = 8;  // samples of one batch

std::string prompt_text(const std::string& prompt) {
  if (!prompt.starts_with("FILE:")) return prompt;
  return read_file(prompt.substr(5), int64_t{64} << 20);
}

int64_t parse_layer(const std::string& text) {
  if (text.empty()) return -1;
  if (text.find_first_not_of("0123456789") != std::string::npos || text.size() > 9) {
    fail(Exit::config, "--show-experts: expected the number of a block, got ",
         pyramoe::quoted(text));
  }
  return std::stoll(text);
}

Json to_json(const infer::Generated& text, int64_t sample, const data::Tokenizer& tokenizer) {
  Json json{{"sample", sample},
            {"prompt", tokenizer.decode(text.prompt)},
            {"text", text.text},
            {"finish", infer::to_string(text.finish)},
            {"prompt_tokens", text.prompt},
            {"tokens", text.tokens}};
  if (!text.experts.empty()) json["experts"] = text.experts;
  return json;
}

class Command {
 public:
  explicit Command(const Options& options)
      : options_(options),
        generate_(options.generate),
        run_(infer::load_run(options.run, infer::parse_dtype(options.dtype),
                             parse_device(options.device))) {
    infer::quantize_experts(run_, options.expert_bits);
    generate_.stop_at_end_of_text = !options.ignore_end_of_text;
    if (options.with_experts) {
      generate_.expert_layer = infer::expert_layer(run_.config, parse_layer(options.show_experts));
    }
    if (!run_.has_tokenizer) {
      std::fprintf(stderr,
                   "%s has no tokenizer (it trained without data.tokenizer): text is bytes\n",
                   run_.folder.c_str());
    }
  }

  void execute() {
    const std::string& text = options_.prompt;
    const infer::Tokens prompt = run_.tokenizer->encode(text, true);
    const bool stream = !options_.no_stream && !options_.json && !options_.with_experts;
    std::vector<infer::Generated> all;
    for (int64_t first = 0; first < options_.samples;) {
      const int64_t count = stream ? 1 : std::min(kTogether, options_.samples - first);
      const std::vector<infer::Tokens> prompts(static_cast<size_t>(count), prompt);
      generate_.first_sample = first;
      if (stream) std::fputs(text.c_str(), stdout);
      auto texts = infer::generate(*run_.model, *run_.tokenizer, prompts, generate_, run_.device,
                                   stream ? show_piece : infer::OnText());
      for (size_t i = 0; i < texts.size(); ++i) {
        show(text, texts[i], first + static_cast<int64_t>(i), stream);
      }
      first += count;
      if (options_.with_experts) std::move(texts.begin(), texts.end(), std::back_inserter(all));
    }
    if (options_.with_experts && !options_.json) print_legend(all);
  }

 private:
  static void show_piece(int64_t, std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  void show(const std::string& prompt, const infer::Generated& text, int64_t sample,
            bool streamed) const {
    if (options_.json) {
      std::cout << dump_json(to_json(text, sample, *run_.tokenizer)) << "\n" << std::flush;
      return;
    }
    if (options_.with_experts) {
      std::cout << infer::text_with_experts(text, *run_.tokenizer,
                                            infer::may_colour(STDOUT_FILENO));
    } else if (!streamed) {
      std::cout << prompt << text.text;
    }
    std::cout << "\n" << (options_.samples > 1 ? kRule : "") << std::flush;
  }

  void print_legend(const std::vector<infer::Generated>& texts) const {
    const int64_t layer = generate_.expert_layer;
    const int64_t experts = moe::layer_plan(run_.config).at(static_cast<size_t>(layer)).experts;
    std::cout << infer::expert_legend(texts, layer, experts, infer::may_colour(STDOUT_FILENO))
              << "\n";
  }

  const Options& options_;
  infer::GenerateOptions generate_;
  infer::LoadedRun run_;
};

// All that can be wrong without the model is said before it is read.
void generate_command(Options options) {
  if (options.samples < 1) fail(Exit::config, "--samples: expected >= 1, got ", options.samples);
  const infer::Sampler checked(options.generate.sample);
  for (const std::string& stop : options.generate.stops) {
    if (stop.empty()) fail(Exit::config, "--stop: an empty string would end every text at once");
  }
  options.prompt = prompt_text(options.prompt);
  Command(options).execute();
}

void add_options(CLI::App& command, Options& o) {
  infer::SampleOptions& sample = o.generate.sample;
  command.add_option("run", o.run, "run folder, or one of its checkpoints")->required();
  command.add_option("--prompt", o.prompt, "text to continue; FILE:path reads it from a file");
  command.add_option("--tokens", o.generate.tokens, "new tokens of a sample, at most")
      ->capture_default_str();
  command
      .add_option("--temperature", sample.temperature,
                  "0 takes the likeliest token; higher is wilder")
      ->capture_default_str();
  command.add_option("--top-k", sample.top_k, "choose among the k likeliest; 0 = all")
      ->capture_default_str();
  command
      .add_option("--top-p", sample.top_p, "choose among the likeliest that hold this probability")
      ->capture_default_str();
  command.add_option("--seed", sample.seed, "same seed, same text")->capture_default_str();
  command.add_option("--samples", o.samples, "how many texts")->capture_default_str();
  command.add_option("--stop", o.generate.stops, "end before this string; may be repeated")
      ->allow_extra_args(false);
  command.add_flag("--ignore-eot", o.ignore_end_of_text, "go on after the end-of-text token");
  command
      .add_option("--show-experts", o.show_experts,
                  "colour every token by its expert in this block (default: the last with experts)")
      ->expected(0, 1);
  command.add_option("--dtype", o.dtype, "f32, bf16 or f64; default: as the model was trained");
  command.add_option("--expert-bits", o.expert_bits,
                     "round expert weights to 8 or 4 bits first (in effect, not in memory)");
  command.add_option("--device", o.device, "cpu or cuda")->capture_default_str();
  command.add_flag("--no-stream", o.no_stream, "print each text when it is finished");
  command.add_flag("--json", o.json, "one JSON line a sample: text, tokens, finish, experts");
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a trained model");
  add_options(*command, *options);
  command->footer(
      "A text that fills model.context goes on from its newest half. An empty prompt starts a new\n"
      "document. Samples are parted by ---------------.\n\n"
      "  pyramoe generate runs/demo_pr_moe --prompt \"In the beginning\" --tokens 100\n"
      "  pyramoe generate runs/demo_pr_moe --prompt FILE:start.txt --temperature 0 --stop "
      "'\\n\\n'\n"
      "  pyramoe generate runs/demo_pr_moe --prompt \"The light\" --show-experts");
  command->callback([options, command] {
    options->with_experts = command->count("--show-experts") > 0;
    generate_command(*options);
  });
}

}  // namespace pyramoe
