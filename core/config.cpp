// Setting fields from what was written, and saying what is wrong with it.
#include "core/config.h"

#include <charconv>
#include <cmath>
#include <optional>

#include "core/config_suggest.h"
#include "core/config_toml.h"
#include "core/text.h"

namespace pyramoe {

// ---- Rules

namespace detail {

std::string rule_number(long double number) {
  char text[64];
  const auto whole = static_cast<int64_t>(number);
  const auto end = static_cast<long double>(whole) == number
                       ? std::to_chars(text, text + sizeof text, whole).ptr
                       : std::to_chars(text, text + sizeof text, static_cast<double>(number)).ptr;
  return {text, end};
}

// long double holds every int64_t and every double exactly; a NaN is between nothing.
ConfigRule between_numbers(long double least, long double most, std::string words) {
  return {std::move(words), [least, most](const ConfigScalar& value) {
            if (const auto* whole = std::get_if<int64_t>(&value)) {
              const auto x = static_cast<long double>(*whole);
              return x >= least && x <= most;
            }
            if (const auto* real = std::get_if<double>(&value)) {
              const auto x = static_cast<long double>(*real);
              return x >= least && x <= most;
            }
            return false;
          }};
}

}  // namespace detail

ConfigRule positive() {
  return {"greater than 0", [](const ConfigScalar& value) {
            if (const auto* whole = std::get_if<int64_t>(&value)) return *whole > 0;
            const auto* real = std::get_if<double>(&value);
            return real && *real > 0;
          }};
}

ConfigRule one_of(std::initializer_list<const char*> allowed) {
  std::vector<std::string> texts(allowed.begin(), allowed.end());
  std::string words = "one of";
  for (const std::string& text : texts) words += (&text == &texts[0] ? " \"" : ", \"") + text + '"';
  return {words, [texts](const ConfigScalar& value) {
            const auto* text = std::get_if<std::string>(&value);
            for (const std::string& one : texts)
              if (text && *text == one) return true;
            return false;
          }};
}

ConfigRule number_as_text() {
  return {"", [](const ConfigScalar&) { return true; }, true};
}

// ---- Fields and problems

void ConfigFields::add(ConfigField field) {
  PM_CHECK(!field.doc.empty(), "config field ", field.key, " has no doc");
  PM_CHECK(index_.try_emplace(field.key, fields_.size()).second, "config field ", field.key,
           " is listed twice");
  fields_.push_back(std::move(field));
}

namespace {

constexpr size_t kMaxProblemsShown = 20;
constexpr size_t kMaxValueShown = 120;

std::string where(const ConfigItem& item) {
  return cat(printable(item.origin, 200), ": ", printable(item.key), " = ",
             printable(to_toml(item.value), kMaxValueShown));
}

}  // namespace

void ConfigProblems::add_line(std::string line) {
  if (lines_.size() < kMaxProblemsShown) lines_.push_back(std::move(line));
  ++count_;
}

void ConfigProblems::add(const std::string& key, const std::string& problem) {
  const ConfigItem* item = source_.find(key);
  add_line((item ? where(*item) : key + " (by default)") + ": " + problem);
}

void ConfigProblems::raise() const {
  if (count_ == 0) return;
  std::string text = count_ == 1 ? "" : cat(count_, " problems in the configuration:\n");
  for (const std::string& line : lines_) text += (count_ == 1 ? "" : "  ") + line + "\n";
  const auto hidden = count_ - static_cast<int64_t>(lines_.size());
  if (hidden > 0) text += cat("  and ", hidden, " more\n");
  text.pop_back();
  fail(Exit::config, text);
}

// ---- Applying

namespace {

const char* kind_of(const ConfigScalar& value) {
  static const char* const kinds[] = {"true or false", "a whole number", "a number", "a text"};
  return kinds[value.index()];
}

template <class T>
const char* expected_kind() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_same_v<T, int64_t>)
    return "a whole number";
  else if constexpr (std::is_same_v<T, double>)
    return "a number";
  else
    return "a text";
}

// The value as a T if it is one; numbers for a text only where a rule says so.
template <class T>
std::optional<T> convert(const ConfigScalar& value, bool number_is_text) {
  if (const T* same = std::get_if<T>(&value)) return *same;
  const auto* whole = std::get_if<int64_t>(&value);
  if constexpr (std::is_same_v<T, double>) {
    constexpr int64_t exact = int64_t{1} << 53;
    if (whole && *whole >= -exact && *whole <= exact) return static_cast<double>(*whole);
  }
  if constexpr (std::is_same_v<T, std::string>) {
    if (whole && number_is_text) return std::to_string(*whole);
  }
  return std::nullopt;
}

// Sets one field from one item; returns what is wrong, or nothing.
class Setter {
 public:
  Setter(const ConfigField& field, const ConfigItem& item) : field_(field), item_(item) {
    for (const ConfigRule& one : field.rules) number_is_text_ |= one.number_as_text;
  }

  std::string run() {
    std::visit([&](auto* target) { set(*target); }, field_.value);
    return problem_;
  }

 private:
  template <class T>
  void set(T& target) {
    // On the command line a text needs no quotes, even one that reads as something else.
    if (std::is_same_v<T, std::string> && item_.from_command_line &&
        !std::holds_alternative<std::string>(item_.value)) {
      take(ConfigScalar(item_.text), target);
    } else if (std::holds_alternative<ConfigList>(item_.value)) {
      problem_ = cat("expected ", expected_kind<T>(), ", got a list");
    } else {
      take(scalar(), target);
    }
  }

  template <class T>
  void set(std::vector<T>& target) {
    const std::optional<ConfigList> list = as_list<T>();
    if (!list) {
      problem_ = cat("expected a list such as ", example<T>(), ", got ", kind_of(scalar()));
      return;
    }
    std::vector<T> values;
    for (const ConfigScalar& element : *list) {
      T value{};
      if (!take(element, value)) return;
      values.push_back(std::move(value));
    }
    target = std::move(values);
  }

  // On the command line also without brackets: data.weights=1,2 and eval.tasks=piqa,boolq.
  template <class T>
  std::optional<ConfigList> as_list() const {
    if (const auto* list = std::get_if<ConfigList>(&item_.value)) return *list;
    if (!item_.from_command_line) return std::nullopt;
    if (item_.text.empty()) return ConfigList{};
    if (auto parsed = parse_toml_value("[" + item_.text + "]"))
      return std::get<ConfigList>(std::move(*parsed));
    if constexpr (!std::is_same_v<T, std::string>) return std::nullopt;
    ConfigList list;
    for (size_t begin = 0; begin <= item_.text.size();) {
      const size_t end = std::min(item_.text.find(',', begin), item_.text.size());
      list.emplace_back(item_.text.substr(begin, end - begin));
      begin = end + 1;
    }
    return list;
  }

  template <class T>
  static const char* example() {
    if constexpr (std::is_same_v<T, std::string>)
      return "[\"a\", \"b\"]";
    else if constexpr (std::is_same_v<T, double>)
      return "[0.5, 0.5]";
    else
      return "[1, 2]";
  }

  ConfigScalar scalar() const {
    return std::visit(
        [](const auto& value) -> ConfigScalar {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, ConfigList>)
            return false;
          else
            return value;
        },
        item_.value);
  }

  template <class T>
  bool take(const ConfigScalar& value, T& target) {
    std::optional<T> converted = convert<T>(value, number_is_text_);
    if (!converted) {
      problem_ = cat("expected ", expected_kind<T>(), ", got ", kind_of(value), hint<T>(value));
      return false;
    }
    if constexpr (std::is_same_v<T, double>) {
      if (!std::isfinite(*converted)) {
        problem_ = "must be a finite number";
        return false;
      }
    }
    for (const ConfigRule& one : field_.rules) {
      if (one.holds(ConfigScalar(*converted))) continue;
      problem_ = "must be " + one.words;
      return false;
    }
    target = std::move(*converted);
    return true;
  }

  // The commonest slips have an answer.
  template <class T>
  static std::string hint(const ConfigScalar& value) {
    if (std::is_same_v<T, std::string>) return " (put it in quotes)";
    const auto* text = std::get_if<std::string>(&value);
    if (text && parse_toml_value(*text).has_value() && convert_text<T>(*text))
      return cat(" (write ", *text, " without quotes)");
    const auto* real = std::get_if<double>(&value);
    if (std::is_same_v<T, int64_t> && real && std::trunc(*real) == *real && std::abs(*real) < 1e15)
      return cat(" (write ", static_cast<int64_t>(*real), ")");
    if (std::is_same_v<T, bool> && text &&
        (*text == "True" || *text == "yes" || *text == "on" || *text == "TRUE"))
      return " (write true)";
    return "";
  }
  template <class T>
  static bool convert_text(const std::string& text) {
    const auto parsed = parse_toml_value(text);
    return parsed && std::holds_alternative<T>(*parsed);
  }

  const ConfigField& field_;
  const ConfigItem& item_;
  bool number_is_text_ = false;
  std::string problem_;
};

std::string unknown_key(const std::string& key, const ConfigFields& fields) {
  std::vector<std::string> known;
  for (const ConfigField& field : fields.all()) known.push_back(field.key);
  std::string text = "unknown key";
  const std::vector<std::string> near = suggest_keys(key, known);
  for (size_t i = 0; i < near.size(); ++i)
    text += (i == 0 ? "; did you mean " : i + 1 == near.size() ? " or " : ", ") + near[i];
  return text + (near.empty() ? "" : "?");
}

}  // namespace

void apply_fields(const ConfigSource& source, const ConfigFields& fields,
                  ConfigProblems& problems) {
  std::unordered_map<std::string_view, const ConfigField*> by_key;
  for (const ConfigField& field : fields.all()) by_key.emplace(field.key, &field);
  size_t unknown = 0;
  for (const ConfigItem& item : source.items()) {
    const auto field = by_key.find(item.key);
    if (field == by_key.end()) {
      // Only problems that will be shown are worth a search for suggestions.
      problems.add_line(where(item) + ": " +
                        (++unknown <= kMaxProblemsShown ? unknown_key(item.key, fields) : ""));
    } else if (const std::string problem = Setter(*field->second, item).run(); !problem.empty()) {
      problems.add_line(where(item) + ": " + problem);
    }
  }
}

}  // namespace pyramoe
