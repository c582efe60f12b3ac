// experiment.toml to a Definition: one function for each table of the file. Lists of tables come as
// numbered keys: arm.0.name is the name of the first [[arm]].
#include "lab/definition.h"

#include "core/file.h"
#include "core/text.h"
#include "lab/items.h"

namespace pyramoe::lab {
namespace {

const std::vector<std::string> kTopKeys = {"title",   "question", "source",     "figure",
                                           "columns", "tasks",    "task_limit", "bench",
                                           "set",     "arm",      "claim",      "paper"};
const std::vector<std::string> kArmKeys = {"name", "label", "set", "reuse", "eval", "scales"};
const std::vector<std::string> kClaimKeys = {"text",    "metric", "left",   "right",
                                             "measure", "side",   "margin", "scales"};
const std::vector<std::string> kPaperKeys = {"text", "columns", "rows"};

constexpr size_t kMaxEntries = 1000;

// The entry of a list that "3.name" talks about, made when it is the next one.
template <class T>
T& entry(std::vector<T>& list, const ConfigItem& item, const std::string& key) {
  const std::string index = first_part(key);
  const bool digits = !index.empty() && index.size() <= 4 &&
                      index.find_first_not_of("0123456789") == std::string::npos;
  const size_t i = digits ? std::stoul(index) : kMaxEntries;
  if (!digits) refuse(item, "expected a list of tables: write [[arm]], [[claim]] or rows = [[..]]");
  if (i >= kMaxEntries) refuse(item, cat("more than ", kMaxEntries, " entries"));
  if (i >= list.size()) list.resize(i + 1);
  return list[i];
}

void set_arm(const ConfigItem& item, const std::string& key, Arm& arm) {
  if (first_part(key) == "set" && !after_first(key).empty()) {
    arm.set.emplace_back(after_first(key), plain_of(item));
  } else if (key == "name") {
    arm.name = text_of(item);
  } else if (key == "label") {
    arm.label = text_of(item);
  } else if (key == "reuse") {
    arm.reuse = text_of(item);
  } else if (key == "eval") {
    arm.eval = texts_of(item);
  } else if (key == "scales") {
    arm.scales = texts_of(item);
  } else {
    refuse_key(item, key, kArmKeys);
  }
}

Measure measure_of(const ConfigItem& item) {
  const std::string text = text_of(item);
  if (text == "difference") return Measure::difference;
  if (text == "ratio") return Measure::ratio;
  if (text == "value") return Measure::value;
  if (text == "tokens_to_match") return Measure::tokens_to_match;
  refuse(item, "expected difference, ratio, value or tokens_to_match, got " + quoted(text));
}

Side side_of(const ConfigItem& item) {
  const std::string text = text_of(item);
  if (text == "below") return Side::below;
  if (text == "above") return Side::above;
  if (text == "within") return Side::within;
  refuse(item, "expected below, above or within, got " + quoted(text));
}

void set_claim(const ConfigItem& item, const std::string& key, Claim& claim) {
  if (key == "text") {
    claim.text = text_of(item);
  } else if (key == "metric") {
    claim.metric = text_of(item);
  } else if (key == "left") {
    claim.left = text_of(item);
  } else if (key == "right") {
    claim.right = text_of(item);
  } else if (key == "measure") {
    claim.measure = measure_of(item);
  } else if (key == "side") {
    claim.side = side_of(item);
  } else if (key == "margin") {
    claim.margin = number_of(item);
  } else if (key == "scales") {
    claim.scales = texts_of(item);
  } else {
    refuse_key(item, key, kClaimKeys);
  }
}

void set_paper(const ConfigItem& item, const std::string& key, PaperFacts& paper) {
  if (key == "text") {
    paper.text = text_of(item);
  } else if (key == "columns") {
    paper.columns = texts_of(item);
  } else if (first_part(key) == "rows" && !after_first(key).empty()) {
    entry(paper.rows, item, after_first(key)) = texts_of(item);
  } else {
    refuse_key(item, key, kPaperKeys);
  }
}

void set_top(const ConfigItem& item, Definition& d) {
  const std::string first = first_part(item.key), rest = after_first(item.key);
  if (first == "arm" && !rest.empty()) {
    set_arm(item, after_first(rest), entry(d.arms, item, rest));
  } else if (first == "claim" && !rest.empty()) {
    set_claim(item, after_first(rest), entry(d.claims, item, rest));
  } else if (first == "paper" && !rest.empty()) {
    set_paper(item, rest, d.paper);
  } else if (first == "set" && !rest.empty()) {
    d.set.emplace_back(rest, plain_of(item));
  } else if (item.key == "title") {
    d.title = text_of(item);
  } else if (item.key == "question") {
    d.question = text_of(item);
  } else if (item.key == "source") {
    d.source = text_of(item);
  } else if (item.key == "figure") {
    d.figure = text_of(item);
  } else if (item.key == "columns") {
    d.columns = texts_of(item);
  } else if (item.key == "tasks") {
    d.tasks = text_of(item);
  } else if (item.key == "task_limit") {
    d.task_limit = whole_of(item, 0);
  } else if (item.key == "bench") {
    d.bench = flag_of(item);
  } else {
    refuse_key(item, item.key, kTopKeys);
  }
}

}  // namespace

Definition read_definition(const std::string& folder) {
  Definition d;
  d.folder = folder;
  while (d.folder.size() > 1 && d.folder.back() == '/') d.folder.pop_back();
  const size_t slash = d.folder.rfind('/');
  d.name = slash == std::string::npos ? d.folder : d.folder.substr(slash + 1);
  const std::string path = d.folder + "/experiment.toml";
  if (!path_exists(path)) {
    fail(Exit::config, d.folder, " is no experiment: it has no experiment.toml");
  }
  for (const ConfigItem& item : read_items(path)) set_top(item, d);
  for (Arm& arm : d.arms) {
    if (arm.label.empty()) arm.label = arm.name;
  }
  check_definition(d, path);
  return d;
}

}  // namespace pyramoe::lab
