// Configuration: TOML files and command-line overrides to plain structs.
//
// A struct lists its fields once, and everything else walks that list: parsing, checks, --help, the
// table in the docs, the copy saved with a run. One idea: nothing is ignored. A key that no struct
// has, a value of the wrong type or out of range, is an error that says where it came from.
//
//   struct ModelConfig {
//     int64_t layers = 12;
//     std::string gate = "softmax";
//     template <class V> void fields(V& v) {
//       v("model.layers", layers, "transformer blocks", at_least(1));
//       v("moe.gate", gate, "how experts are chosen", one_of({"softmax", "sigmoid_bias"}));
//     }
//   };
//   ModelConfig model;
//   apply_config(load_config("gpt.toml", {"model.layers=24"}), model);
//
// A struct that holds others calls their fields(v). Rules that span keys go into an optional member
// `void check(ConfigProblems& problems)`, called when each field by itself is right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/config_rules.h"
#include "core/error.h"

namespace pyramoe {

// ---- What was written

// A scalar, or a list of scalars.
using ConfigList = std::vector<ConfigScalar>;
using ConfigValue = std::variant<bool, int64_t, double, std::string, ConfigList>;

struct ConfigItem {
  std::string key;  // dotted: "model.layers"
  ConfigValue value;
  std::string origin;  // "gpt.toml:12" or "command line"
  bool from_command_line = false;
  std::string text;  // command line: the value as it was typed
};

// All keys of a config file, its includes and overrides; for each key, what was said last.
class ConfigSource {
 public:
  const std::vector<ConfigItem>& items() const { return items_; }  // in order of first appearance
  const ConfigItem* find(const std::string& key) const;
  void set(ConfigItem item);

 private:
  std::vector<ConfigItem> items_;
  std::unordered_map<std::string, size_t> index_;
};

// Reads a TOML file. `include = ["other.toml"]` (relative to the file that says it) is read before
// the file's own keys; what comes later wins. Overrides "key=value" come last; a value is TOML, or
// else the text as it stands: `moe.experts=(0 32)*10` needs no quotes inside.
//   path  may be empty: only overrides
// Throws Error(config) on files that are missing or not TOML, include cycles, malformed overrides.
ConfigSource load_config(const std::string& path, const std::vector<std::string>& overrides = {});
// The same for a text in memory, which cannot include.
//   what  names it in errors
ConfigSource parse_config(const std::string& toml, const std::string& what,
                          const std::vector<std::string>& overrides = {});

// ---- What may be written

using ConfigPointer =
    std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*,
                 std::vector<double>*, std::vector<int64_t>*>;

struct ConfigField {
  std::string key;
  ConfigPointer value;
  std::string doc;
  std::vector<ConfigRule> rules;
};

// The visitor that fields() is called with: collects pointers to a struct's members.
class ConfigFields {
 public:
  template <class T, class... Rules>
  void operator()(const char* key, T& value, const char* doc, Rules... rules) {
    add({key, ConfigPointer(&value), doc, {std::move(rules)...}});
  }
  const std::vector<ConfigField>& all() const { return fields_; }

 private:
  void add(ConfigField field);  // refuses a key that comes twice and a field without doc
  std::vector<ConfigField> fields_;
  std::unordered_map<std::string, size_t> index_;
};

// The config must outlive the list: it points into it.
template <class C>
ConfigFields config_fields(C& config) {
  ConfigFields fields;
  config.fields(fields);
  return fields;
}

// Collects what is wrong, so that one run shows all of it.
class ConfigProblems {
 public:
  explicit ConfigProblems(const ConfigSource& source) : source_(source) {}
  // Where `key` was set and to what is looked up and said first; then `problem`.
  void add(const std::string& key, const std::string& problem);
  void add_line(std::string line);
  bool empty() const { return count_ == 0; }
  void raise() const;  // throws Error(config) unless empty

 private:
  const ConfigSource& source_;
  std::vector<std::string> lines_;  // the first of them; a hostile file may have very many
  int64_t count_ = 0;
};

// Sets the fields that the source names. Wrong types, broken rules and unknown keys (with the
// nearest known ones) become problems.
void apply_fields(const ConfigSource& source, const ConfigFields& fields, ConfigProblems& problems);

// Throws one Error(config) with everything that is wrong; `config` is then of no use.
template <class C>
void apply_config(const ConfigSource& source, C& config) {
  ConfigProblems problems(source);
  apply_fields(source, config_fields(config), problems);
  problems.raise();
  if constexpr (requires { config.check(problems); }) config.check(problems);
  problems.raise();
}

// ---- What is shown

// A value as TOML: shortest text that reads back as the same bits.
std::string to_toml(const ConfigValue& value);

std::string fields_to_toml(const ConfigFields& fields);
std::string fields_to_markdown(const ConfigFields& fields);
std::string fields_to_help(const ConfigFields& fields, std::string_view prefix);
uint64_t fields_hash(const ConfigFields& fields, const std::vector<std::string>& prefixes);

// The whole config with every default filled in; parse_config of it gives the same config.
template <class C>
std::string to_toml(C config) {
  return fields_to_toml(config_fields(config));
}
// | key | type | default | meaning |
template <class C>
std::string markdown_table(C config) {
  return fields_to_markdown(config_fields(config));
}
// Lines for --help, of the keys that start with `prefix`.
template <class C>
std::string help_text(C config, std::string_view prefix = "") {
  return fields_to_help(config_fields(config), prefix);
}
// Equal for configs with equal values, on any machine. Of the keys that start with one of
// `prefixes`, or of all.
template <class C>
uint64_t config_hash(C config, const std::vector<std::string>& prefixes = {}) {
  return fields_hash(config_fields(config), prefixes);
}

}  // namespace pyramoe
