// pyramoe report: run folders in, a table and a picture out; or experiments in, their verdicts out.
#include "core/file.h"

#include <cstdio>

#include "cli/commands.h"
#include "cli/report_experiments.h"
#include "report/picture.h"
#include "report/routing.h"
#include "report/table.h"

namespace pyramoe {
namespace {

struct Options {
  std::vector<std::string> folders;
  std::string svg;
  std::string x = "linear";
  std::string out;  // of --routing
  int64_t tokens = report::RoutingOptions().tokens;
  bool routing = false;
  bool markdown = false, json = false, no_svg = false;
  ExperimentReportOptions experiments;
};

void routing_command(const Options& options) {
  if (options.folders.size() != 1) {
    fail(Exit::config, "report --routing: a page is of one run, got ", options.folders.size());
  }
  const std::string out = options.out.empty() ? options.folders[0] + "/routing.html" : options.out;
  const std::string page = report::routing_page(options.folders[0], {options.tokens});
  make_folders(parent_folder(out), Exit::data);
  write_file(out, page, Exit::data);
  std::printf("page: %s\n", out.c_str());
}

// What would be passed over in silence is refused.
void check_options(const Options& o, bool experiments) {
  const auto refuse = [](const char* name, const auto&... why) {
    fail(Exit::config, "report: ", name, why...);
  };
  for (const auto& [given, name] : std::vector<std::pair<bool, const char*>>{
           {o.json, "--json"}, {o.no_svg, "--no-svg"}, {!o.svg.empty(), "--svg"}}) {
    if (given && o.routing) refuse(name, " is of comparisons, not of --routing");
    if (given && experiments) {
      refuse(name, " is of runs; an experiment's numbers are in its results.json, its figures ",
             "beside it");
    }
  }
  if (o.routing && o.markdown) refuse("--markdown", " is of comparisons, not of --routing");
  if (o.experiments.check && !experiments) {
    refuse("--check", " is of experiments, folders with experiment.toml; ", o.folders[0],
           " is none");
  }
  if (!o.out.empty() && !o.routing && !experiments) {
    refuse("--out", " is of --routing and of experiments; --svg FILE names the picture");
  }
}

void report_command(Options& options) {
  const bool experiments = !options.routing && are_experiments(options.folders);
  check_options(options, experiments);
  if (options.routing) return routing_command(options);
  if (experiments) {
    options.experiments.folders = options.folders;
    options.experiments.markdown = options.markdown;
    options.experiments.out = options.out;
    return report_experiments(options.experiments);
  }
  std::vector<report::RunReport> runs;
  for (const std::string& folder : options.folders) runs.push_back(report::read_run(folder));
  report::tell_apart(runs);
  const std::string picture =
      options.svg.empty() ? options.folders.front() + "/report.svg" : options.svg;
  if (!options.no_svg) {
    make_folders(parent_folder(picture), Exit::data);
    write_file(picture, report::draw_picture(runs, {options.x == "log"}), Exit::data);
  }
  if (options.json) {
    Json out = report::to_json(runs);
    if (!options.no_svg) out["picture"] = picture;
    std::printf("%s\n", dump_json(out, 1).c_str());
    return;
  }
  const std::vector<report::TableRow> table = report::make_table(runs);
  std::fputs(
      (options.markdown ? report::to_markdown(runs, table) : report::to_text(runs, table)).c_str(),
      stdout);
  if (options.no_svg) return;
  std::printf(options.markdown ? "\n![Loss and expert load](%s)\n" : "\npicture: %s\n",
              picture.c_str());
}

}  // namespace

void add_report(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("report", "Compare runs: a table, loss curves, experts by domain");
  command
      ->add_option("runs", options->folders,
                   "run folders, as pyramoe train makes them; or experiments")
      ->required();
  command->add_option("--svg", options->svg, "where the picture goes (default: RUN/report.svg)");
  command->add_option("--x", options->x, "axis of tokens: linear or log")
      ->check(CLI::IsMember({"linear", "log"}))
      ->capture_default_str();
  CLI::Option* markdown =
      command->add_flag("--markdown", options->markdown, "the table as Markdown");
  command->add_flag("--json", options->json, "all numbers, unrounded, as one JSON object")
      ->excludes(markdown);
  command->add_flag("--no-svg", options->no_svg, "only the table");
  command->add_flag("--routing", options->routing,
                    "a page about one run: which experts read what, over time and by token");
  command->add_option("--out", options->out,
                      "where that page goes (default: RUN/routing.html); of experiments: OUT/NAME");
  command
      ->add_option("--tokens", options->tokens,
                   "tokens of each domain's validation part that the page looks at")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--runs", options->experiments.runs, "experiments: where their runs lie")
      ->capture_default_str();
  command->add_option("--long", options->experiments.length,
                      "experiments: of runs that were made with --long FACTOR");
  command->add_flag("--check", options->experiments.check,
                    "experiments: write nothing, exit 1 if a file is not what results.json gives");
  command->footer(
      "Reads config.toml, metrics.jsonl and eval.json of each run; a run may still be training.\n"
      "Of an experiment (a folder with experiment.toml, or a folder of such) it takes in finished\n"
      "runs and writes results.json, results.md and the figures; --markdown prints one table.\n\n"
      "  pyramoe report runs/dense runs/moe runs/pr_moe --svg compare.svg\n"
      "  pyramoe report experiments/fig4_pyramid_residual");
  command->callback([options] { report_command(*options); });
}

}  // namespace pyramoe
