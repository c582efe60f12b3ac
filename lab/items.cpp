#include "lab/items.h"

#include "core/config_suggest.h"
#include "core/config_toml.h"
#include "core/file.h"
#include "core/text.h"

namespace pyramoe::lab {
namespace {

template <class T>
const T& get(const ConfigItem& item, const char* expected) {
  const T* value = std::get_if<T>(&item.value);
  if (!value) refuse(item, cat("expected ", expected, ", got ", to_toml(item.value)));
  return *value;
}

}  // namespace

std::vector<ConfigItem> read_items(const std::string& path) {
  return parse_toml_lists(read_file(path, kMaxConfig, Exit::config), path);
}

std::string text_of(const ConfigItem& item) { return get<std::string>(item, "a text"); }

int64_t whole_of(const ConfigItem& item, int64_t least) {
  const auto value = get<int64_t>(item, "a whole number");
  if (value < least) refuse(item, cat("must be at least ", least, ", got ", value));
  return value;
}

double number_of(const ConfigItem& item) {
  if (const auto* whole = std::get_if<int64_t>(&item.value)) return static_cast<double>(*whole);
  return get<double>(item, "a number");
}

bool flag_of(const ConfigItem& item) { return get<bool>(item, "true or false"); }

std::vector<std::string> texts_of(const ConfigItem& item) {
  std::vector<std::string> texts;
  for (const ConfigScalar& element : get<ConfigList>(item, "a list of texts")) {
    const auto* text = std::get_if<std::string>(&element);
    if (!text) refuse(item, "expected a list of texts; put each of them in quotes");
    texts.push_back(*text);
  }
  return texts;
}

std::string plain_of(const ConfigItem& item) {
  const auto* text = std::get_if<std::string>(&item.value);
  return text ? *text : to_toml(item.value);
}

ConfigItem override_item(const std::string& key, const std::string& text,
                         const std::string& origin) {
  ConfigItem item{key, text, origin, true, text};
  if (auto parsed = parse_toml_value(text)) item.value = std::move(*parsed);
  return item;
}

void refuse(const ConfigItem& item, const std::string& problem) {
  fail(Exit::config, item.origin, ": ", printable(item.key), ": ", problem);
}

void refuse_key(const ConfigItem& item, const std::string& unknown,
                const std::vector<std::string>& known) {
  std::string near;
  for (const std::string& key : suggest_keys(unknown, known)) {
    near += (near.empty() ? "; did you mean " : " or ") + key;
  }
  std::string all;
  for (const std::string& key : known) all += (all.empty() ? "" : ", ") + key;
  refuse(item, "there is no such key" + (near.empty() ? "; expected one of " + all : near));
}

std::string first_part(const std::string& key) { return key.substr(0, key.find('.')); }

std::string after_first(const std::string& key) {
  const size_t dot = key.find('.');
  return dot == std::string::npos ? "" : key.substr(dot + 1);
}

}  // namespace pyramoe::lab
