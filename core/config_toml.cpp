// The one page that includes toml++. Its tables are flattened to dotted keys with their lines.
// The parser sees only ASCII, and keys of bounded depth: config_scan.h says why.
#include "core/config_toml.h"

#include "core/config_scan.h"
#include "core/text.h"

// The standard library reads doubles exactly and whatever the locale; toml++ 3.3 does not expect
// it.
#define TOML_FLOAT_CHARCONV 1
#define TOML_MAX_NESTED_VALUES 16
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace pyramoe {
namespace {

std::optional<ConfigScalar> scalar_of(const toml::node& node) {
  if (const auto* value = node.as_boolean()) return ConfigScalar(value->get());
  if (const auto* value = node.as_integer()) return ConfigScalar(value->get());
  if (const auto* value = node.as_floating_point()) return ConfigScalar(value->get());
  if (const auto* value = node.as_string()) return ConfigScalar(value->get());
  return std::nullopt;
}

// Nothing for dates and for lists of lists or tables.
std::optional<ConfigValue> value_of(const toml::node& node) {
  if (const auto* array = node.as_array()) {
    ConfigList list;
    for (const toml::node& element : *array) {
      auto scalar = scalar_of(element);
      if (!scalar) return std::nullopt;
      list.push_back(std::move(*scalar));
    }
    return ConfigValue(std::move(list));
  }
  auto scalar = scalar_of(node);
  if (!scalar) return std::nullopt;
  return std::visit([](auto& value) { return ConfigValue(std::move(value)); }, *scalar);
}

// Makes a flat list of a document; lists of lists and tables only where they are wanted.
struct Flattener {
  const std::string& what;
  bool lists;
  std::vector<ConfigItem>& items;

  void table(const toml::table& table, const std::string& prefix) {
    for (const auto& [name, value] : table) node(value, prefix + std::string(name.str()));
  }

  void node(const toml::node& node, const std::string& key) {
    if (const toml::table* inner = node.as_table()) return table(*inner, key + ".");
    const std::string origin = cat(what, ":", node.source().begin.line);
    auto value = value_of(node);
    if (value) {
      items.push_back({key, std::move(*value), origin, false, ""});
      return;
    }
    const toml::array* array = node.as_array();
    if (!array || !lists)
      fail(Exit::config, origin, ": ", printable(key), ": dates",
           lists ? " have" : ", and lists of lists or tables, have", " no place in a config");
    for (size_t i = 0; i < array->size(); ++i) this->node(*array->get(i), cat(key, ".", i));
  }
};

std::vector<std::string> includes_of(const ConfigItem& item) {
  const std::string need = item.origin + ": include must be a list of file names";
  if (const auto* name = std::get_if<std::string>(&item.value)) return {*name};
  const auto* list = std::get_if<ConfigList>(&item.value);
  if (!list) fail(Exit::config, need);
  std::vector<std::string> names;
  for (const ConfigScalar& element : *list) {
    const auto* name = std::get_if<std::string>(&element);
    if (!name) fail(Exit::config, need);
    names.push_back(*name);
  }
  return names;
}

// A file's keys in the order of its lines; toml++ sorts them by name.
void sort_by_line(std::vector<ConfigItem>& items) {
  const auto line = [](const ConfigItem& item) {
    return std::stoll(item.origin.substr(item.origin.rfind(':') + 1));
  };
  std::stable_sort(items.begin(), items.end(),
                   [&](const ConfigItem& a, const ConfigItem& b) { return line(a) < line(b); });
}

std::vector<ConfigItem> parse_items(const std::string& text, const std::string& what, bool lists) {
  if (static_cast<int64_t>(text.size()) > kMaxConfig)
    fail(Exit::config, what, ": ", text.size(), " bytes are too many for a config, at most ",
         kMaxConfig, " are allowed");
  const std::string ascii = scan_toml(text, what);
  std::vector<ConfigItem> items;
  try {
    const toml::table table = toml::parse(ascii, what);
    Flattener{what, lists, items}.table(table, "");
  } catch (const toml::parse_error& error) {
    fail(Exit::config, what, ":", error.source().begin.line, ":", error.source().begin.column,
         ": not valid TOML: ", printable(error.description(), 300));
  }
  sort_by_line(items);
  return items;
}

}  // namespace

TomlFile parse_toml(const std::string& text, const std::string& what) {
  TomlFile file;
  file.items = parse_items(text, what, false);
  for (size_t i = 0; i < file.items.size(); ++i) {
    if (file.items[i].key != "include") continue;
    file.includes = includes_of(file.items[i]);
    file.items.erase(file.items.begin() + static_cast<std::ptrdiff_t>(i));
    break;
  }
  return file;
}

std::vector<ConfigItem> parse_toml_lists(const std::string& text, const std::string& what) {
  return parse_items(text, what, true);
}

std::optional<ConfigValue> parse_toml_value(std::string_view text) {
  if (text.empty() || text.find('\n') != std::string_view::npos) return std::nullopt;
  const std::string document = "value = " + std::string(text) + "\n";
  try {
    const toml::table table = toml::parse(scan_toml(document, ""));
    const toml::node* node = table.get("value");
    return node && table.size() == 1 ? value_of(*node) : std::nullopt;
  } catch (const toml::parse_error&) {
  } catch (const Error&) {
  }
  return std::nullopt;
}

}  // namespace pyramoe
