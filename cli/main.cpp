// pyramoe: one program, one subcommand a file. The only place that turns an Error into an exit.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <new>

#include "cli/commands.h"
#include "core/device.h"
#include "core/error.h"

namespace {

// A descriptor that the caller closed would go to the first file opened here, and what is printed
// into that file.
void keep_standard_files() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) ::open("/dev/null", O_RDWR);
  }
}

// A table or a JSON object that was cut is no result: a full disk behind `>` is not status 0.
void finish_output() {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  pyramoe::fail(pyramoe::Exit::data,
                "cannot write to the standard output; what it got is not complete. Is the disk "
                "full?");
}

// CLI11 says of a misspelt subcommand that one is required; people look for the word.
void check_subcommands(const CLI::App& app, int argc, char** argv) {
  const CLI::App* at = &app;
  std::string words;
  for (int i = 1; i < argc && argv[i][0] != '-' && at->get_require_subcommand_min() > 0; ++i) {
    const auto found =
        at->get_subcommands([&](const CLI::App* sub) { return sub->check_name(argv[i]); });
    if (found.empty()) {
      pyramoe::fail(pyramoe::Exit::config, "there is no subcommand \"", words, argv[i],
                    "\"; pyramoe ", words, "--help lists them");
    }
    at = found.front();
    words += argv[i] + std::string(" ");
  }
}

// Who comes from a trainer with flags is told how settings look here.
const char* hint(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  const bool extras = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
  if (!extras || at->get_option_no_throw("overrides") == nullptr) return "";
  return "Settings are key=value, without dashes: train.steps=50. pyramoe train --keys lists "
         "them.\n";
}

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
  check_subcommands(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    std::fputs(hint(app, error), stderr);
    if (code != 0) return static_cast<int>(pyramoe::Exit::config);
  }
  finish_output();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  keep_standard_files();
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
