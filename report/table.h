// The comparison of runs as a table: one row a quantity, one column a run. For a terminal, as
// Markdown, and as JSON with unrounded numbers.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "report/run.h"

namespace pyramoe::report {

struct TableRow {
  std::string title;
  std::vector<std::string> cells;  // one a run
  int64_t best = -1;               // the run with the lowest loss; -1: no such thing here
};

std::vector<TableRow> make_table(const std::vector<RunReport>& runs);

// Aligned with spaces; "*" marks the best of a row.
std::string to_text(const std::vector<RunReport>& runs, const std::vector<TableRow>& table);
// A Markdown table, the best in bold.
std::string to_markdown(const std::vector<RunReport>& runs, const std::vector<TableRow>& table);
// {"runs": [{name, folder, step, tokens, loss, …, "domains": {…}}]}; null where there is no number.
Json to_json(const std::vector<RunReport>& runs);

// The names of all runs' domains, in the order in which they first appear.
std::vector<std::string> domain_names(const std::vector<RunReport>& runs);
// nullptr if the run has no such domain.
const DomainLoss* find_domain(const RunReport& run, const std::string& name);

// "2.10 M"
std::string short_count(double n);

}  // namespace pyramoe::report
