// The one door to JSON: bounded parsing and errors for people.
//
// Objects keep the order of their keys, as files that people read do. Looking a key up is linear in
// the size of the object; walk a large one (a vocabulary) with items() instead.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/text.h"

namespace pyramoe {

using Json = nlohmann::ordered_json;

struct JsonRules {
  int64_t max_depth = 64;
  bool unique_keys = true;  // a key that comes twice in one object is an Error
};

// One JSON value, the whole of `text` but for white space around it.
//   what    names the text in errors: a path, or a path and a line
// Throws Error with the byte at which the text stops making sense. Never more memory than a small
// multiple of the text, however hostile.
Json parse_json(std::string_view text, const std::string& what, Exit code = Exit::data,
                JsonRules rules = {});
// read_file and parse_json.
Json read_json(const std::string& path, Exit code = Exit::data, JsonRules rules = {});

// JSON text; bytes that are not UTF-8 become U+FFFD.
//   indent  spaces a level; -1: all on one line
std::string dump_json(const Json& json, int indent = -1);

// The member `key` of an object. Throws Error if `object` is none or lacks it.
const Json& json_member(const Json& object, const std::string& key, const std::string& what,
                        Exit code = Exit::data);

[[noreturn]] void fail_json_type(const Json& value, const std::string& key, const std::string& what,
                                 const char* expected, Exit code);

// The member `key` as bool, int64_t, double or std::string. Throws Error on another type, or on a
// number that T cannot hold.
template <class T>
T json_value(const Json& object, const std::string& key, const std::string& what,
             Exit code = Exit::data);
template <>
bool json_value<bool>(const Json&, const std::string&, const std::string&, Exit);
template <>
int64_t json_value<int64_t>(const Json&, const std::string&, const std::string&, Exit);
template <>
double json_value<double>(const Json&, const std::string&, const std::string&, Exit);
template <>
std::string json_value<std::string>(const Json&, const std::string&, const std::string&, Exit);

// What a JSON parser's exception says, without its own prefix and at readable length.
std::string json_complaint(const std::exception& error);

}  // namespace pyramoe
