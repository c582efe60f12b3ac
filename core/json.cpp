// Builds JSON values from parser events, so that depth and keys are checked before memory is spent.
#include "core/json.h"

#include <cmath>
#include <cstdint>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/file.h"

namespace pyramoe {
namespace {

// Receives the parser's events. Appends to objects without searching them (a search for each key
// would make a large object quadratic); `keys_` finds the doubles.
class Builder {
 public:
  Builder(const std::string& what, Exit code, JsonRules rules)
      : what_(what), code_(code), rules_(rules) {}

  Json take() { return std::move(root_); }

  bool null() { return put(Json()); }
  bool boolean(bool value) { return put(Json(value)); }
  bool number_integer(int64_t value) { return put(Json(value)); }
  bool number_unsigned(uint64_t value) { return put(Json(value)); }
  bool number_float(double value, const std::string& text) {
    if (!std::isfinite(value)) fail(code_, what_, ": the number ", quoted(text), " is too large");
    return put(Json(value));
  }
  bool string(std::string& value) { return put(Json(std::move(value))); }
  bool binary(Json::binary_t&) { return false; }

  bool start_object(size_t) { return open(Json::object()); }
  bool key(std::string& name) {
    if (rules_.unique_keys && !keys_.back().insert(name).second)
      fail(code_, what_, ": the key ", quoted(name), " comes twice in one object");
    name_ = std::move(name);
    return true;
  }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    fail(code_, what_, ": not valid JSON at byte ", position, ": ", json_complaint(error));
  }

 private:
  // Each open value lives in its parent, which does not grow while it is open.
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    std::vector<std::pair<const std::string, Json>>& members = parent.get_ref<Json::object_t&>();
    members.emplace_back(std::move(name_), std::move(value));
    return &members.back().second;
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (static_cast<int64_t>(open_.size()) >= rules_.max_depth)
      fail(code_, what_, ": nested deeper than ", rules_.max_depth, " levels");
    open_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  const std::string& what_;
  Exit code_;
  JsonRules rules_;
  Json root_;
  std::vector<Json*> open_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each open object
  std::string name_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& what, Exit code, JsonRules rules) {
  // The parser takes a zero byte for the end of its input and would not see what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail(code, what, ": not valid JSON at byte ", zero, ": a zero byte");
  Builder builder(what, code, rules);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json(const std::string& path, Exit code, JsonRules rules) {
  return parse_json(read_file(path, kMaxReadFile, code), path, code, rules);
}

std::string dump_json(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

const Json& json_member(const Json& object, const std::string& key, const std::string& what,
                        Exit code) {
  if (!object.is_object()) fail(code, what, ": expected a JSON object, got ", object.type_name());
  const auto found = object.find(key);
  if (found == object.end()) fail(code, what, ": the key \"", key, "\" is missing");
  return *found;
}

void fail_json_type(const Json& value, const std::string& key, const std::string& what,
                    const char* expected, Exit code) {
  fail(code, what, ": \"", key, "\" must be ", expected, ", got ", quoted(dump_json(value)));
}

template <>
bool json_value<bool>(const Json& object, const std::string& key, const std::string& what,
                      Exit code) {
  const Json& value = json_member(object, key, what, code);
  if (!value.is_boolean()) fail_json_type(value, key, what, "true or false", code);
  return value.get<bool>();
}

template <>
int64_t json_value<int64_t>(const Json& object, const std::string& key, const std::string& what,
                            Exit code) {
  const Json& value = json_member(object, key, what, code);
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX});
  if (!fits) fail_json_type(value, key, what, "a whole number", code);
  return value.get<int64_t>();
}

template <>
double json_value<double>(const Json& object, const std::string& key, const std::string& what,
                          Exit code) {
  const Json& value = json_member(object, key, what, code);
  if (!value.is_number()) fail_json_type(value, key, what, "a number", code);
  return value.get<double>();
}

template <>
std::string json_value<std::string>(const Json& object, const std::string& key,
                                    const std::string& what, Exit code) {
  const Json& value = json_member(object, key, what, code);
  if (!value.is_string()) fail_json_type(value, key, what, "a text", code);
  return value.get<std::string>();
}

std::string json_complaint(const std::exception& error) {
  std::string text = error.what();
  // "[json.exception.parse_error.101] parse error at line 1, column 2: what is wrong"
  for (const char* mark : {"] ", "parse error: ", "parse error at "}) {
    const size_t at = text.find(mark);
    if (at != std::string::npos && at < 60) text.erase(0, at + std::string_view(mark).size());
  }
  return printable(text, 240);
}

}  // namespace pyramoe
