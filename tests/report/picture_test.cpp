// The picture is well-formed XML, the same every time, and shows the numbers where they belong.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "report/axis.h"
#include "report/picture.h"
#include "tests/report/support.h"

namespace pyramoe {
namespace {

using report::LossPoint;
using report::RunReport;

// Checks that tags nest, attributes are quoted and nothing but known entities follows an &. Empty
// when all is well, else what is wrong.
std::string xml_problem(const std::string& text) {
  std::vector<std::string> open;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '&') {
      const size_t end = text.find(';', at);
      const std::string name = text.substr(at + 1, end - at - 1);
      if (name != "lt" && name != "gt" && name != "amp" && name != "quot" && name != "#39") {
        return "entity &" + name;
      }
    }
    if (text[at] != '<') {
      if (static_cast<unsigned char>(text[at]) < 32 && text[at] != '\n') return "control byte";
      ++at;
      continue;
    }
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return "a tag without end";
    const std::string tag = text.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag[0] == '?') continue;
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "quotes in <" + tag;
    if (tag.find('<') != std::string::npos) return "< inside <" + tag;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "unexpected </" + tag;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

std::vector<RunReport> both(const RunFolders& folders) {
  return {report::read_run(folders.dense), report::read_run(folders.moe)};
}

TEST(ReportPicture, IsWellFormedAndTheSameEveryTime) {
  const RunFolders folders;
  for (const bool log_tokens : {false, true}) {
    const std::string svg = report::draw_picture(both(folders), {log_tokens});
    EXPECT_EQ(xml_problem(svg), "");
    EXPECT_EQ(svg, report::draw_picture(both(folders), {log_tokens}));
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
  }
}

TEST(ReportPicture, TheCheckerSeesDamage) {
  EXPECT_NE(xml_problem("<a><b></a></b>"), "");
  EXPECT_NE(xml_problem("<a>"), "");
  EXPECT_NE(xml_problem("<a x=\"1/>"), "");
  EXPECT_NE(xml_problem("<a>&b;</a>"), "");
  EXPECT_EQ(xml_problem("<?xml?>\n<a x=\"1\"><b/>&lt;</a>\n"), "");
}

TEST(ReportPicture, ShowsEveryRunDomainAndLoad) {
  const RunFolders folders;
  const std::string svg = report::draw_picture(both(folders));
  for (const char* text :
       {">dense<", ">moe<", ">bible<", ">code<", ">2.500<", ">2.400<", ">block 1: 2 experts<",
        ">block 3: 4 experts<", "thousand", "bible, block 1, expert 0: 75.0 % of the choices",
        "bible, block 3, expert 0: 100.0 % of the choices"}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
  // 75 % of two experts is 1.5 times even; 100 % of four is 4 times.
  EXPECT_NE(svg.find(">1.5<"), std::string::npos);
  EXPECT_NE(svg.find(">4.0<"), std::string::npos);
}

// The numbers of an element's attributes, by their names in order.
std::vector<double> numbers(const std::string& element, const std::vector<std::string>& names) {
  std::vector<double> out;
  for (const std::string& name : names) {
    out.push_back(std::stod(element.substr(element.find(" " + name + "=\"") + name.size() + 3)));
  }
  return out;
}

// Curves that end high would lie under the legend.
TEST(ReportPicture, TheLegendHidesNoPoint) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  runs[0].validation = {{5000, 9.0}, {10000, 9.0}};
  runs[1].validation = {{5000, 1.0}, {10000, 1.0}};
  for (RunReport& run : runs) run.training = run.validation;
  for (const bool log_tokens : {false, true}) {
    const std::string svg = report::draw_picture(runs, {log_tokens});
    const size_t box = svg.rfind("<rect x=", svg.find(">validation<"));
    const auto place = numbers(svg.substr(box), {"x", "y", "width", "height"});
    int points = 0;
    for (size_t at = svg.find("<circle"); at < box; at = svg.find("<circle", at + 1)) {
      const auto marker = numbers(svg.substr(at), {"cx", "cy", "r"});
      EXPECT_TRUE(marker[0] + marker[2] < place[0] || marker[1] - marker[2] >= place[1] + place[3])
          << marker[0] << ", " << marker[1];
      ++points;
    }
    EXPECT_EQ(points, 2);
  }
}

TEST(ReportPicture, HostileNamesAreHarmless) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  runs[0].name = "<script>\x01&\"'\xff";
  runs[1].domains[0].name = "]]>&<b";
  const std::string svg = report::draw_picture(runs);
  EXPECT_EQ(xml_problem(svg), "");
  EXPECT_EQ(svg.find("<script"), std::string::npos);
}

TEST(ReportPicture, DrawsRunsThatHaveNothingYet) {
  const RunFolders folders;
  std::vector<RunReport> runs = both(folders);
  for (RunReport& run : runs) {
    run.training.assign(3, {100, std::nan("")});
    run.validation.clear();
    run.domains.clear();
    run.loss = std::nan("");
  }
  for (const bool log_tokens : {false, true}) {
    const std::string svg = report::draw_picture(runs, {log_tokens});
    EXPECT_EQ(xml_problem(svg), "");
    EXPECT_EQ(svg.find("nan"), std::string::npos);
  }
  runs[0].training.clear();
  runs.resize(1);
  EXPECT_EQ(xml_problem(report::draw_picture(runs)), "");
}

TEST(ReportPicture, DrawsManyExpertsInManyLayers) {
  const RunFolders folders;
  RunReport run = report::read_run(folders.moe);
  run.config.model.layers = 12;
  run.config.model.experts = "(0 128)*6";
  run.cost = moe::model_cost(run.config.model, DType::f32);
  run.moe_layers = {1, 3, 5, 7, 9, 11};
  for (report::DomainLoss& domain : run.domains) {
    domain.load.assign(6, std::vector<int64_t>(128, 3));
  }
  EXPECT_EQ(xml_problem(report::draw_picture({run})), "");
}

TEST(ReportSmooth, AveragesAWindowAndKeepsTheEnds) {
  std::vector<LossPoint> points;
  for (int i = 0; i < 1000; ++i) points.push_back({i * 10.0, i % 2 == 0 ? 2.0 : 4.0});
  const std::vector<LossPoint> curve = report::smooth(points, 100);
  EXPECT_LE(curve.size(), 102u);
  EXPECT_EQ(curve.front().tokens, 0);
  EXPECT_EQ(curve.back().tokens, 9990);
  EXPECT_NEAR(curve[50].loss, 3.0, 0.1);
  EXPECT_EQ(report::smooth({}, 10).size(), 0u);
  EXPECT_EQ(report::smooth({{1, 2.0}}, 10).size(), 1u);
  EXPECT_EQ(report::smooth({{1, 2.0}, {2, 3.0}, {3, 5.0}}, 10).size(), 3u);
}

TEST(ReportSmooth, SkipsWhatIsNoNumber) {
  std::vector<LossPoint> points(1000, {0, 2.0});
  points[500].loss = std::nan("");
  for (const LossPoint& point : report::smooth(points, 1000)) EXPECT_EQ(point.loss, 2.0);
}

// As many as the largest figure of experiments/ has lines.
TEST(ReportPicture, NineRunsHaveNineColours) {
  std::set<std::string> colours;
  for (size_t run = 0; run < 9; ++run) colours.insert(report::look_of(run).colour);
  EXPECT_EQ(colours.size(), 9u);
}

TEST(ReportAxis, TicksAreRoundAndInside) {
  const report::Axis axis(0, 1.05e6, 0, 500);
  const auto ticks = axis.ticks(5, 1e6);
  ASSERT_EQ(ticks.size(), 3u);
  EXPECT_EQ(ticks[1].label, "0.5");
  EXPECT_EQ(axis.at(ticks[1].value), 500 * 0.5 / 1.05);
  const report::Axis loss(3.1, 3.4, 400, 0);
  EXPECT_EQ(loss.ticks(4).front().label, "3.1");
  // Bytes in MiB: round as printed, and drawn where the print says.
  const double mib = 1024.0 * 1024.0;
  const auto bytes = report::Axis(0, 41 * mib, 0, 410).ticks(7, mib);
  ASSERT_EQ(bytes.size(), 5u);
  EXPECT_EQ(bytes[1].label, "10");
  EXPECT_EQ(bytes[1].value, 10 * mib);
  const report::Axis decades(1e3, 1e6, 0, 300, true);
  EXPECT_NEAR(decades.at(1e4), 100, 1e-9);
  EXPECT_EQ(decades.ticks(7, 1e3).front().label, "1");
  std::string labels;  // less than a decade: 1, 2 and 5 alone would be few
  for (const report::Tick& tick : report::Axis(1.6e6, 16e6, 0, 300, true).ticks(7, 1e6)) {
    labels += tick.label + " ";
  }
  EXPECT_EQ(labels, "2 3 5 7 10 15 ");
}

}  // namespace
}  // namespace pyramoe
