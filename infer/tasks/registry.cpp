// The list of tasks, looking one up, and reading their files.
#include <algorithm>

#include "core/file.h"
#include "infer/tasks/task.h"

namespace pyramoe::infer {
namespace {

// Edits between two words (Levenshtein), for "did you mean".
size_t edits(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row.back();
}

}  // namespace

const char* to_string(Metric metric) {
  switch (metric) {
    case Metric::acc:
      return "acc";
    case Metric::acc_norm:
      return "acc_norm";
    case Metric::perplexity:
      return "perplexity";
    case Metric::exact_match:
      return "exact_match";
  }
  return "?";
}

const char* to_string(Request request) {
  switch (request) {
    case Request::loglikelihood:
      return "loglikelihood";
    case Request::multiple_choice:
      return "multiple_choice";
    case Request::generate_until:
      return "generate_until";
  }
  return "?";
}

const std::vector<Task>& all_tasks() {
  static const std::vector<Task> tasks = {lambada_openai_task(), piqa_task(),     boolq_task(),
                                          race_task(),           triviaqa_task(), webqs_task()};
  return tasks;
}

const Task& find_task(const std::string& name) {
  std::string near, names;
  for (const Task& task : all_tasks()) {
    if (task.name == name) return task;
    if (task.name.starts_with(name) || edits(name, task.name) <= 2) {
      near = " (did you mean " + task.name + "?)";
    }
    names += (names.empty() ? "" : ", ") + task.name;
  }
  fail(Exit::config, "--tasks: there is no task ", pyramoe::quoted(name), near, "; there are ",
       names);
}

std::vector<const Task*> parse_tasks(const std::string& names) {
  std::vector<const Task*> tasks;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    std::string name = names.substr(begin, end - begin);
    std::erase(name, ' ');
    begin = end + 1;
    if (name.empty()) continue;
    const Task* task = &find_task(name);
    if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
  }
  if (tasks.empty()) fail(Exit::config, "--tasks: no task named; for example --tasks piqa,boolq");
  return tasks;
}

std::vector<Question> load_task(const Task& task, const std::string& folder) {
  for (const std::string& file : task.files) {
    const std::string path = folder + "/" + file;
    if (!path_exists(path)) {
      fail(Exit::data, "task ", task.name, " reads ", path, ", which is not there. ", task.source,
           " (docs/eval.md describes the format), or point --data at the folder that holds it");
    }
  }
  std::vector<Question> questions = task.load(folder);
  if (questions.empty()) {
    fail(Exit::data, "task ", task.name, ": ", folder, "/", task.files[0], " has no questions");
  }
  return questions;
}

std::vector<Record> read_records(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<Record> records;
  int64_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row(text.data() + begin, end - begin);
    begin = end + 1;
    ++line;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string where = path + ", line " + std::to_string(line);
    Json json = parse_json(row, where);
    records.push_back({std::move(json), std::move(where)});
  }
  return records;
}

std::string text_of(const Record& record, const std::string& key) {
  return json_value<std::string>(record.json, key, record.where);
}

std::vector<std::string> texts_of(const Record& record, const std::string& key) {
  const Json& list = json_member(record.json, key, record.where);
  std::vector<std::string> texts;
  if (!list.is_array()) fail_json_type(list, key, record.where, "an array of strings", Exit::data);
  for (const Json& item : list) {
    if (!item.is_string()) fail_json_type(item, key, record.where, "strings in it", Exit::data);
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

}  // namespace pyramoe::infer
