// JSON: what is right is taken whole, what is wrong says where.
#include "core/json.h"

#include <gtest/gtest.h>

#include <chrono>

namespace pyramoe {
namespace {

std::string error_of(const std::string& text, JsonRules rules = {}) {
  try {
    parse_json(text, "f.json", Exit::checkpoint, rules);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::checkpoint);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text.substr(0, 100);
  return "";
}

TEST(Json, KeepsValuesAndTheOrderOfKeys) {
  const std::string text =
      R"({"z":1,"a":[true,null,-2,0.5,"é\n"],"m":{"y":{},"x":[]},"big":9223372036854775807})";
  EXPECT_EQ(dump_json(parse_json(" \n" + text + "\t", "f.json")), text);
  EXPECT_EQ(dump_json(parse_json("3", "f.json")), "3");
}

TEST(Json, ErrorsNameTheFileTheByteAndTheCause) {
  const std::pair<const char*, const char*> rows[] = {
      {"", "at byte 1"},
      {"{", "at byte 2"},
      {"[1,]", "at byte 4"},
      {"{\"a\":nul}", "at byte 9"},
      {"[1] 2", "at byte 5"},
      {"\"\xff\"", "at byte 2"},
      {"\"\\ud800\"", "at byte 8"},
      {"[01]", "at byte 3"},
      {"1e999", "number overflow"},
      {"{\"a\":1,\"b\":2,\"a\":3}", "the key \"a\" comes twice"},
      {"[{\"\\u001b\":1,\"\\u001b\":1}]", "the key \"\\x1b\" comes twice"},
  };
  for (const auto& [text, expected] : rows) {
    const std::string message = error_of(text);
    EXPECT_TRUE(message.starts_with("f.json: ")) << message;
    EXPECT_NE(message.find(expected), std::string::npos) << text << "\n  said: " << message;
  }
  EXPECT_NE(error_of(std::string("[1]\0[2]", 7)).find("at byte 3: a zero byte"), std::string::npos);
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_EQ(dump_json(parse_json(nested(64), "f.json")), nested(64));
  EXPECT_NE(error_of(nested(65)).find("deeper than 64"), std::string::npos);
  EXPECT_NE(error_of(nested(3), {.max_depth = 2, .unique_keys = true}).find("deeper than 2"),
            std::string::npos);
  error_of(std::string(10000000, '['));
}

TEST(Json, KeysMayComeTwiceWhereAllowed) {
  EXPECT_EQ(
      parse_json("{\"a\":1,\"a\":2}", "f.json", Exit::data, {.max_depth = 64, .unique_keys = false})
          .size(),
      2u);
}

TEST(Json, LargeObjectsTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += cat(i ? "," : "", "\"key", i, "\":", i);
  text += "}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_json(text, "f.json").size(), 200000u);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  EXPECT_LT(time.count(), 10.0);  // seconds; a search for each key would take minutes
}

TEST(Json, MembersAreCheckedForPresenceTypeAndRange) {
  const Json json = parse_json(
      R"({"n":3,"x":0.5,"t":"text","b":true,"huge":18446744073709551615,"list":[]})", "f.json");
  EXPECT_EQ(json_value<int64_t>(json, "n", "f.json"), 3);
  EXPECT_EQ(json_value<double>(json, "n", "f.json"), 3.0);
  EXPECT_EQ(json_value<double>(json, "x", "f.json"), 0.5);
  EXPECT_EQ(json_value<std::string>(json, "t", "f.json"), "text");
  EXPECT_TRUE(json_value<bool>(json, "b", "f.json"));
  EXPECT_THROW(json_value<int64_t>(json, "x", "f.json"), Error);
  EXPECT_THROW(json_value<int64_t>(json, "huge", "f.json"), Error);
  EXPECT_THROW(json_value<int64_t>(json, "b", "f.json"), Error);
  EXPECT_THROW(json_value<bool>(json, "n", "f.json"), Error);
  EXPECT_THROW(json_value<double>(json, "t", "f.json"), Error);
  EXPECT_THROW(json_value<std::string>(json, "n", "f.json"), Error);
  EXPECT_THROW(json_member(json, "none", "f.json"), Error);
  EXPECT_THROW(json_member(json["list"], "n", "f.json"), Error);
}

TEST(Text, IsMadeSafeToShow) {
  const std::string text = "a\x1b[2J\x7f\xff é";
  EXPECT_EQ(quoted(text), "\"a\\x1b[2J\\x7f\\xff é\"");
  EXPECT_EQ(printable(std::string(100, 'x'), 10), "xxxxxxxxxx…");
  EXPECT_EQ(dump_json(Json("\xff")), "\"\xef\xbf\xbd\"");
}

TEST(Text, KnowsUtf8) {
  for (const char* good :
       {"", "abc", "é", "€", "\xf0\x9f\x98\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad :
       {"\x80", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "a\xff", "\xe2\x82", "\xe2\x82\x28"})
    EXPECT_FALSE(is_utf8(bad)) << quoted(bad);
}

}  // namespace
}  // namespace pyramoe
