#include "lab/prepare.h"

#include <cstdio>
#include <cstdlib>
#include <set>

#include "core/file.h"

namespace pyramoe::lab {

std::vector<std::string> missing_data(const std::vector<PlannedRun>& runs) {
  std::set<std::string> wanted;
  for (const PlannedRun& run : runs) {
    for (const std::string& source : run.config.data.sources) {
      const size_t equals = source.find('=');
      wanted.insert(equals == std::string::npos ? source : source.substr(equals + 1));
    }
    if (!run.config.data.tokenizer.empty()) wanted.insert(run.config.data.tokenizer);
  }
  std::vector<std::string> missing;
  for (const std::string& path : wanted) {
    if (!path_exists(path)) missing.push_back(path);
  }
  return missing;
}

void prepare_data(const Scale& scale, const std::vector<PlannedRun>& runs,
                  const std::string& program) {
  std::vector<std::string> missing = missing_data(runs);
  if (missing.empty()) return;
  if (!scale.prepare.empty()) {
    std::printf("%s is missing: %s makes the data of scale %s\n", missing[0].c_str(),
                scale.prepare.c_str(), scale.name.c_str());
    std::fflush(stdout);
    ::setenv("PYRAMOE", program.c_str(), 1);
    const int status = std::system(scale.prepare.c_str());  // NOLINT: the scale's own script
    if (status != 0) {
      fail(Exit::data, scale.prepare, " of scale ", scale.name, " failed; nothing was started");
    }
    missing = missing_data(runs);
  }
  if (missing.empty()) return;
  fail(Exit::data, missing[0], " is missing",
       missing.size() > 1 ? cat(", and ", missing.size() - 1, " more") : "",
       scale.prepare.empty() ? "" : " after " + scale.prepare, "; the runs of scale ", scale.name,
       " read it. Nothing was started");
}

std::string without_tasks(std::vector<PlannedRun>& runs) {
  std::string missing;
  for (PlannedRun& run : runs) {
    if (run.tasks.empty()) continue;
    if (is_folder(run.eval_data) && !list_folder(run.eval_data).empty()) continue;
    missing = run.eval_data;
    run.tasks.clear();
  }
  return missing;
}

}  // namespace pyramoe::lab
