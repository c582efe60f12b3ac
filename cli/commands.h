// The subcommands. Each adds itself to the program; its callback throws Error, main.cpp exits.
#pragma once

#include <CLI/CLI.hpp>

namespace pyramoe {

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
