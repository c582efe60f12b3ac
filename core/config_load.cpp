// From a path and overrides to one flat list of keys: includes first, overrides last.
#include <algorithm>
#include <filesystem>

#include "core/config.h"
#include "core/config_toml.h"
#include "core/file.h"
#include "core/text.h"

namespace pyramoe {
namespace {

constexpr size_t kMaxIncludeDepth = 16;
constexpr int64_t kMaxFiles = 200;  // includes of includes can multiply

class Loader {
 public:
  ConfigSource source;

  void load(const std::string& path, const std::string& included_from) {
    const std::string from =
        included_from.empty() ? "" : " (included from " + printable(included_from, 200) + ")";
    if (path.find('\0') != std::string::npos || (!included_from.empty() && !is_file(path)))
      fail(Exit::config, "no config file ", printable(path, 200), from,
           "; includes are relative to the file that names them");
    std::error_code ignored;  // what cannot be resolved cannot be read either
    const std::string identity = std::filesystem::weakly_canonical(path, ignored).string();
    if (std::find(open_.begin(), open_.end(), identity) != open_.end())
      fail(Exit::config, "config ", printable(path, 200), from, " includes itself in a circle");
    if (open_.size() == kMaxIncludeDepth || ++files_ > kMaxFiles)
      fail(Exit::config, "config ", printable(path, 200), from, ": more than ", kMaxIncludeDepth,
           " includes inside each other, or ", kMaxFiles, " in all");
    open_.push_back(identity);
    TomlFile file = parse_toml(read_file(path, kMaxConfig, Exit::config), path);
    for (const std::string& name : file.includes) {
      const std::filesystem::path base = std::filesystem::path(path).parent_path();
      load((base / name).lexically_normal().string(), path);
    }
    for (ConfigItem& item : file.items) source.set(std::move(item));
    open_.pop_back();
  }

 private:
  static bool is_file(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
  }
  std::vector<std::string> open_;
  int64_t files_ = 0;
};

bool is_key(std::string_view text) {
  if (text.empty() || text.front() == '.' || text.back() == '.') return false;
  if (text.find("..") != std::string_view::npos) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

void add_overrides(const std::vector<std::string>& overrides, ConfigSource& source) {
  for (const std::string& text : overrides) {
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    if (equals == std::string::npos || !is_key(key))
      fail(Exit::config, "command line: expected key=value such as model.layers=12, got ",
           quoted(text));
    const std::string value = text.substr(equals + 1);
    if (!is_utf8(value)) fail(Exit::config, "command line: the value of ", key, " is not UTF-8");
    ConfigItem item{key, value, "command line", true, value};
    if (auto parsed = parse_toml_value(value)) item.value = std::move(*parsed);
    source.set(std::move(item));
  }
}

}  // namespace

const ConfigItem* ConfigSource::find(const std::string& key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &items_[found->second];
}

void ConfigSource::set(ConfigItem item) {
  const auto [place, is_new] = index_.try_emplace(item.key, items_.size());
  if (is_new)
    items_.push_back(std::move(item));
  else
    items_[place->second] = std::move(item);
}

ConfigSource load_config(const std::string& path, const std::vector<std::string>& overrides) {
  Loader loader;
  if (!path.empty()) loader.load(path, "");
  add_overrides(overrides, loader.source);
  return std::move(loader.source);
}

ConfigSource parse_config(const std::string& toml, const std::string& what,
                          const std::vector<std::string>& overrides) {
  TomlFile file = parse_toml(toml, what);
  if (!file.includes.empty()) fail(Exit::config, what, ": include is not possible here");
  ConfigSource source;
  for (ConfigItem& item : file.items) source.set(std::move(item));
  add_overrides(overrides, source);
  return source;
}

}  // namespace pyramoe
