// The two text files of a vocabulary, read with suspicion and written for others to read.
//
// encoder.json / vocab.json: one object, token -> id. vocab.bpe / merges.txt: a line "#version",
// then "left right" a line, best merge first. Tokens are written in the byte alphabet.
#include <algorithm>
#include <unordered_map>

#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"

namespace pyramoe::data {
namespace {

constexpr int64_t kMaxFile = int64_t{256} << 20;
constexpr size_t kMaxTokens = size_t{1} << 22;
constexpr size_t kMaxTokenBytes = size_t{1} << 16;

std::vector<std::string> parse_vocab(std::string_view text, const std::string& path) {
  const Json root = parse_json(text, path, Exit::data, {.max_depth = 2, .unique_keys = true});
  if (!root.is_object()) {
    fail(Exit::data, path, ": expected one JSON object {\"token\": id, ...}, got ",
         root.type_name());
  }
  const size_t size = root.size();
  if (size > kMaxTokens) {
    fail(Exit::data, path, ": ", size, " tokens; at most ", kMaxTokens, " are supported");
  }
  std::vector<std::string> names(size);
  std::vector<bool> seen(size, false);
  for (const auto& [name, value] : root.items()) {
    const bool whole = value.is_number_unsigned() && value.get<uint64_t>() < size;
    if (!whole) {
      fail(Exit::data, path, ": token ", quoted(name), " has the id ", quoted(dump_json(value)),
           "; expected a whole number in [0, ", size, "), each used once");
    }
    const auto id = static_cast<size_t>(value.get<uint64_t>());
    if (seen[id]) {
      fail(Exit::data, path, ": the id ", id, " is given to ", quoted(names[id]), " and to ",
           quoted(name), "; every token needs an id of its own");
    }
    if (name.empty() || name.size() > kMaxTokenBytes) {
      fail(Exit::data, path, ": the token with id ", id, " has ", name.size(),
           " bytes; expected 1 to ", kMaxTokenBytes);
    }
    seen[id] = true;
    names[id] = name;
  }
  return names;  // as many distinct ids below `size` as tokens: dense
}

std::vector<Merge> parse_merges(std::string_view text, const std::vector<std::string>& names,
                                const std::string& path) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(names.size());
  for (size_t id = 0; id < names.size(); ++id) ids.emplace(names[id], static_cast<int32_t>(id));
  std::vector<Merge> merges;
  int64_t line_number = 0;
  while (!text.empty()) {
    const size_t stop = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, stop);
    text.remove_prefix(std::min(stop + 1, text.size()));
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const size_t blank = line.find(' ');
    if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos) {
      fail(Exit::data, path, ":", line_number, ": expected two tokens with one blank between, got ",
           quoted(line));
    }
    const auto id_of = [&](std::string_view name) {
      const auto found = ids.find(name);
      if (found == ids.end()) {
        fail(Exit::data, path, ":", line_number, ": ", quoted(name),
             " is no token of the vocabulary; the two files do not belong together");
      }
      return found->second;
    };
    merges.emplace_back(id_of(line.substr(0, blank)), id_of(line.substr(blank + 1)));
    const std::string whole(std::string(line.substr(0, blank)) +
                            std::string(line.substr(blank + 1)));
    if (!ids.contains(whole)) {
      fail(Exit::data, path, ":", line_number, ": the merge makes ", quoted(whole),
           ", which is no token of the vocabulary; the two files do not belong together");
    }
  }
  return merges;
}

}  // namespace

Bpe Bpe::parse(std::string_view vocab_json, std::string_view merges_text,
               const std::string& vocab_path, const std::string& merges_path) {
  std::vector<std::string> names = parse_vocab(vocab_json, vocab_path);
  const std::vector<Merge> merges = parse_merges(merges_text, names, merges_path);
  try {
    return Bpe(std::move(names), merges);
  } catch (const Error& error) {
    fail(error.code(), vocab_path, " with ", merges_path, ": ", error.what());
  }
}

Bpe Bpe::load(const std::string& vocab_path, const std::string& merges_path) {
  return parse(read_file(vocab_path, kMaxFile), read_file(merges_path, kMaxFile), vocab_path,
               merges_path);
}

std::string Bpe::vocab_json() const {
  std::string text = "{";
  for (size_t id = 0; id < names_.size(); ++id) {
    text += cat(id ? "," : "", dump_json(Json(names_[id])), ":", id);
  }
  return text + "}";
}

std::string Bpe::merges_text() const {
  std::string text = "#version: 0.2\n";
  for (const auto& [left, right] : merges_) text += name_of(left) + " " + name_of(right) + "\n";
  return text;
}

}  // namespace pyramoe::data
