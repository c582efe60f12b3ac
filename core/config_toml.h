// The narrow door to the TOML parser: text to flat items. Only core/config*.cpp and lab/items.cpp
// include it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"

namespace pyramoe {

struct TomlFile {
  std::vector<ConfigItem> items;      // without `include`
  std::vector<std::string> includes;  // as written
};

// Throws Error(config) that names `what` and the line. Hostile text costs little: see kMaxConfig.
TomlFile parse_toml(const std::string& text, const std::string& what);

// The same for documents that are more than keys of a config: lists of tables and lists of lists
// are flattened too, with the place of each element in the key: [[arm]] name = "a" is arm.0.name.
// `include` is a key as any other.
std::vector<ConfigItem> parse_toml_lists(const std::string& text, const std::string& what);

// The value of an override: TOML, or nothing if the text is not one TOML value.
std::optional<ConfigValue> parse_toml_value(std::string_view text);

inline constexpr int64_t kMaxConfig = 1 << 20;  // bytes of one file

}  // namespace pyramoe
