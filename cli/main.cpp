// pyramoe: one program, one subcommand a file. The only place that turns an Error into an exit.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <new>

#include "cli/commands.h"
#include "core/device.h"
#include "core/error.h"

namespace {

int run(int argc, char** argv) {
  CLI::App app{
      "pyramoe trains, evaluates and samples GPT, MoE, PR-MoE and MoS language models.\n"
      "Every subcommand explains itself with --help; docs/ has the longer story."};
  app.name("pyramoe");
  app.set_version_flag("--version", "pyramoe 0.1.0");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer(
      "Exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint, 5 loss not finite,\n"
      "6 a rank was lost, 7 out of memory, 75 stopped by a signal and saved.");
  pyramoe::add_train(app);
  pyramoe::add_eval(app);
  pyramoe::add_generate(app);
  pyramoe::add_tokenize(app);
  pyramoe::add_bench(app);
  pyramoe::add_inspect(app);
  pyramoe::add_report(app);
  pyramoe::add_experiment(app);
  pyramoe::add_import(app);
  pyramoe::add_export(app);
  const auto is_first = [&](const CLI::App* sub) { return sub->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_first).empty()) {
    pyramoe::fail(pyramoe::Exit::config, "there is no subcommand \"", argv[1],
                  "\"; pyramoe --help lists them");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(pyramoe::Exit::config);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond `ulimit -f` is a failed write, not the end
  try {
    return run(argc, argv);
  } catch (const pyramoe::Error& error) {
    std::fflush(stdout);
    if (*error.what()) std::fprintf(stderr, "pyramoe: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    std::fflush(stdout);
    std::fprintf(stderr,
                 "pyramoe: out of memory: %lld bytes held by tensors; lower train.micro_batch, "
                 "model.context or the model's size\n",
                 static_cast<long long>(pyramoe::device_bytes(pyramoe::kCpu)));
    return static_cast<int>(pyramoe::Exit::memory);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "pyramoe: %s\n", error.what());
    return static_cast<int>(pyramoe::Exit::bug);
  }
}
