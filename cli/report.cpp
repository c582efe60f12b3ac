// pyramoe report: run folders in, a table and a picture out.
#include "core/file.h"

#include <cstdio>

#include "cli/commands.h"
#include "report/picture.h"
#include "report/table.h"

namespace pyramoe {
namespace {

struct Options {
  std::vector<std::string> folders;
  std::string svg;
  std::string x = "linear";
  bool markdown = false, json = false, no_svg = false;
};

void report_command(const Options& options) {
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
  command->add_option("runs", options->folders, "run folders, as pyramoe train makes them")
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
  command->footer(
      "Reads config.toml, metrics.jsonl and eval.json of each run; a run may still be training.\n\n"
      "  pyramoe report runs/dense runs/moe runs/pr_moe --svg compare.svg");
  command->callback([options] { report_command(*options); });
}

}  // namespace pyramoe
