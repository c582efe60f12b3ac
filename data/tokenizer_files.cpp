// Saving and loading tokenizers: from a folder, or from files that a checkpoint carries.
#include "data/tokenizer_files.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"
#include "data/utf8.h"

namespace pyramoe::data {
namespace {

constexpr int64_t kMaxFile = int64_t{256} << 20;

const std::string* find_file(const std::vector<NamedFile>& files, std::string_view name) {
  for (const NamedFile& file : files) {
    if (file.first == name) return &file.second;
  }
  return nullptr;
}

// nullptr if the files are no byte-pair vocabulary.
std::unique_ptr<Tokenizer> bpe_from_files(const std::vector<NamedFile>& files,
                                          const std::string& where) {
  constexpr std::pair<const char*, const char*> kNames[] = {{"vocab.json", "merges.txt"},
                                                            {"encoder.json", "vocab.bpe"}};
  for (const auto& [vocab_name, merges_name] : kNames) {
    const std::string* vocab = find_file(files, vocab_name);
    const std::string* merges = find_file(files, merges_name);
    if (vocab == nullptr || merges == nullptr) continue;
    return make_bpe_tokenizer(
        Bpe::parse(*vocab, *merges, where + "/" + vocab_name, where + "/" + merges_name));
  }
  return nullptr;
}

std::unique_ptr<Tokenizer> char_from_json(const Json& root, const std::string& path) {
  const auto text = json_value<std::string>(root, "chars", path);
  std::vector<char32_t> chars;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const CodePoint c = decode_utf8(p, end);  // the JSON parser let valid UTF-8 through only
    if (c.length == 0) fail(Exit::data, path, ": \"chars\" is not valid UTF-8");
    if (!chars.empty() && chars.back() >= c.value) {
      fail(Exit::data, path,
           ": \"chars\" must be sorted, each character once; it is not at number ", chars.size());
    }
    chars.push_back(c.value);
    p += c.length;
  }
  if (chars.empty()) fail(Exit::data, path, ": \"chars\" is empty");
  return make_char_tokenizer(std::move(chars));
}

}  // namespace

std::string tokenizer_json(const std::string& kind, int64_t vocab_size,
                           const std::vector<char32_t>& chars) {
  Json root;
  root["format"] = "pyramoe tokenizer";
  root["version"] = 1;
  root["kind"] = kind;
  root["vocab_size"] = vocab_size;
  if (!chars.empty()) {
    std::string text;
    for (const char32_t c : chars) append_utf8(text, c);
    root["chars"] = text;
  }
  return dump_json(root, 2) + "\n";
}

std::unique_ptr<Tokenizer> tokenizer_from_files(const std::vector<NamedFile>& files,
                                                const std::string& where) {
  const std::string* own = find_file(files, kTokenizerFile);
  if (own == nullptr) {
    if (auto bpe = bpe_from_files(files, where)) return bpe;
    fail(Exit::data, where, ": no tokenizer here; expected ", kTokenizerFile,
         ", or vocab.json with merges.txt, or encoder.json with vocab.bpe");
  }
  const std::string path = where + "/" + kTokenizerFile;
  const Json root = parse_json(*own, path, Exit::data, {.max_depth = 4, .unique_keys = true});
  const auto version = json_value<int64_t>(root, "version", path);
  if (version != 1) {
    fail(Exit::data, path, ": version ", version,
         "; this program reads version 1: use a newer pyramoe or make the tokenizer again");
  }
  const auto kind = json_value<std::string>(root, "kind", path);
  std::unique_ptr<Tokenizer> tokenizer;
  if (kind == "byte") {
    tokenizer = make_byte_tokenizer();
  } else if (kind == "char") {
    tokenizer = char_from_json(root, path);
  } else if (kind == "bpe") {
    tokenizer = bpe_from_files(files, where);
    if (!tokenizer) fail(Exit::data, where, ": vocab.json or merges.txt is missing; copy both");
  } else {
    fail(Exit::data, path, ": kind ", quoted(kind), "; expected bpe, byte or char");
  }
  const auto size = json_value<int64_t>(root, "vocab_size", path);
  if (size != tokenizer->vocab_size()) {
    fail(Exit::data, path, ": says vocab_size ", size, ", but the vocabulary has ",
         tokenizer->vocab_size(), " tokens; the files do not belong together");
  }
  return tokenizer;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder) {
  if (!is_folder(folder)) {
    fail(Exit::data, folder, ": expected the folder of a tokenizer, ",
         path_exists(folder) ? "this is a file" : "there is nothing of that name");
  }
  std::vector<NamedFile> files;
  for (const char* name :
       {kTokenizerFile, "vocab.json", "merges.txt", "encoder.json", "vocab.bpe"}) {
    const std::string path = folder + "/" + name;
    if (path_exists(path)) files.emplace_back(name, read_file(path, kMaxFile));
  }
  return tokenizer_from_files(files, folder);
}

}  // namespace pyramoe::data
