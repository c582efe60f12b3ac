// A TOML file as typed items, for files that are more than keys of a config: experiment.toml and
// scales. Every wrong type or unknown key is an Error(config) that names file, line and key.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"

namespace pyramoe::lab {

// All items of a file, in its order; lists of tables as core/config_toml.h flattens them.
std::vector<ConfigItem> read_items(const std::string& path);

std::string text_of(const ConfigItem& item);
int64_t whole_of(const ConfigItem& item, int64_t least);
double number_of(const ConfigItem& item);
bool flag_of(const ConfigItem& item);
std::vector<std::string> texts_of(const ConfigItem& item);
// A text as it stands, anything else as TOML: what may follow `key=` on a command line.
std::string plain_of(const ConfigItem& item);

// `key=text` as it would come from a command line, but said to come from `origin`.
ConfigItem override_item(const std::string& key, const std::string& text,
                         const std::string& origin);

[[noreturn]] void refuse(const ConfigItem& item, const std::string& problem);
[[noreturn]] void refuse_key(const ConfigItem& item, const std::string& unknown,
                             const std::vector<std::string>& known);

// The first part of a dotted key, and what follows it ("" if nothing does).
std::string first_part(const std::string& key);
std::string after_first(const std::string& key);

}  // namespace pyramoe::lab
