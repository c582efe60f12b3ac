// pyramoe bench ops: the kernels of a dense transformer one by one, each beside what the machine
// could do at best in the same run.
#pragma once

#include <CLI/CLI.hpp>

namespace pyramoe::bench {

void add_ops_bench(CLI::App& bench);

}  // namespace pyramoe::bench
