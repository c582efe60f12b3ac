// The subcommands. Each adds itself to the program; its callback throws Error, main.cpp exits.
#pragma once

#include <CLI/CLI.hpp>

namespace pyramoe {

// For files and folders: an empty name is what an unset variable of the shell leaves. Output would
// go to the root folder.
inline CLI::Validator named() {
  return {[](std::string& text) {
            return std::string(text.empty() ? "expected a file or folder, got an empty name" : "");
          },
          ""};
}

void add_train(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_bench(CLI::App& app);
void add_inspect(CLI::App& app);
void add_report(CLI::App& app);
void add_experiment(CLI::App& app);
void add_import(CLI::App& app);
void add_export(CLI::App& app);

}  // namespace pyramoe
