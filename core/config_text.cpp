// Configs as text: the resolved TOML that is saved with a run, the docs' table, --help, the hash.
#include <charconv>
#include <cmath>

#include "core/config.h"

namespace pyramoe {
namespace {

std::string toml_string(const std::string& text) {
  static const char* const digits = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      result += {'\\', c};
    else if (c == '\n')
      result += "\\n";
    else if (c == '\t')
      result += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      result += {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
    else
      result += c;
  }
  return result + '"';
}

std::string toml_number(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[32];
  // The shortest text that reads back as the same bits.
  const std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, number).ptr);
  const bool shows_it_is_real = text.find_first_of(".e") != std::string::npos;
  return shows_it_is_real ? text : text + ".0";
}

struct TomlPrinter {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return toml_number(value); }
  std::string operator()(const std::string& value) const { return toml_string(value); }
  std::string operator()(const ConfigScalar& value) const { return std::visit(*this, value); }
  template <class T>
  std::string operator()(const std::vector<T>& list) const {
    std::string text = "[";
    for (size_t i = 0; i < list.size(); ++i) text += (i ? ", " : "") + (*this)(list[i]);
    return text + "]";
  }
};

std::string value_text(const ConfigField& field) {
  return std::visit([](const auto* value) { return TomlPrinter()(*value); }, field.value);
}

const char* type_name(const ConfigField& field) {
  static const char* const names[] = {"bool",         "int",           "float",      "text",
                                      "list of text", "list of float", "list of int"};
  return names[field.value.index()];
}

std::string section_of(const std::string& key) { return key.substr(0, key.find('.')); }

// The doc, and the rules that it does not already say.
std::string meaning(const ConfigField& field) {
  std::string rules;
  for (const ConfigRule& rule : field.rules)
    if (!rule.words.empty()) rules += (rules.empty() ? "" : ", ") + rule.words;
  return rules.empty() ? field.doc : field.doc + " (" + rules + ")";
}

}  // namespace

std::string to_toml(const ConfigValue& value) { return std::visit(TomlPrinter(), value); }

std::string fields_to_toml(const ConfigFields& fields) {
  std::string text;
  std::string section;
  for (const ConfigField& field : fields.all()) {
    if (!text.empty() && section_of(field.key) != section) text += "\n";
    section = section_of(field.key);
    text += field.key + " = " + value_text(field) + "\n";
  }
  return text;
}

std::string fields_to_markdown(const ConfigFields& fields) {
  const auto escaped = [](const std::string& text) {
    std::string result;
    for (const char c : text) result += c == '|' ? std::string("\\|") : std::string(1, c);
    return result;
  };
  std::string text = "| key | type | default | meaning |\n|---|---|---|---|\n";
  for (const ConfigField& field : fields.all())
    text += "| `" + field.key + "` | " + type_name(field) + " | `" + escaped(value_text(field)) +
            "` | " + escaped(meaning(field)) + " |\n";
  return text;
}

std::string fields_to_help(const ConfigFields& fields, std::string_view prefix) {
  constexpr size_t kKeyColumn = 34;
  constexpr size_t kWidth = 100;
  std::string text;
  for (const ConfigField& field : fields.all()) {
    if (!field.key.starts_with(prefix)) continue;
    std::string line = "  " + field.key + " = " + value_text(field);
    line += line.size() + 2 > kKeyColumn ? "\n" + std::string(kKeyColumn, ' ')
                                         : std::string(kKeyColumn - line.size(), ' ');
    size_t column = kKeyColumn;
    const std::string words = meaning(field);
    for (size_t begin = 0; begin < words.size();) {
      const size_t end = std::min(words.find(' ', begin), words.size());
      if (column + end - begin > kWidth) {
        line += "\n" + std::string(kKeyColumn, ' ');
        column = kKeyColumn;
      }
      line += words.substr(begin, end - begin) + " ";
      column += end - begin + 1;
      begin = end + 1;
    }
    line.pop_back();
    text += line + "\n";
  }
  return text;
}

uint64_t fields_hash(const ConfigFields& fields, const std::vector<std::string>& prefixes) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a: a name for a config, not a defence
  for (const ConfigField& field : fields.all()) {
    bool wanted = prefixes.empty();
    for (const std::string& prefix : prefixes) wanted = wanted || field.key.starts_with(prefix);
    if (!wanted) continue;
    for (const char c : field.key + "=" + value_text(field) + "\n") {
      hash ^= static_cast<unsigned char>(c);
      hash *= 0x100000001b3u;
    }
  }
  return hash;
}

}  // namespace pyramoe
