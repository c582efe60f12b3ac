// pyramoe bench a2a: the ways tokens can travel, timed against message size.
#pragma once

#include <CLI/CLI.hpp>

namespace pyramoe {

// Adds the subcommand to `pyramoe bench`. Run it under mpirun.
void add_bench_a2a(CLI::App& bench);

}  // namespace pyramoe
