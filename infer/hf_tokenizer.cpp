// See hf_tokenizer.h.
#include "infer/hf_tokenizer.h"

#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"

namespace pyramoe::infer {
namespace {

constexpr const char* kOwnFolder = "/tokenizer";
constexpr int64_t kMaxFile = int64_t{256} << 20;

// True when a pre_tokenizer or decoder is ByteLevel, or a sequence that has one.
bool is_byte_level(const Json& part) {
  if (!part.is_object()) return false;
  if (part.value("type", "") == "ByteLevel") return true;
  if (!part.contains("pretokenizers")) return false;
  for (const Json& inner : part["pretokenizers"]) {
    if (is_byte_level(inner)) return true;
  }
  return false;
}

// "a b", or ["a", "b"] in newer files.
std::string merge_line(const Json& merge, const std::string& path) {
  if (merge.is_string()) return merge.get<std::string>();
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  fail_json_type(merge, "merges", path, "pairs of strings", Exit::data);
}

std::unique_ptr<data::Tokenizer> from_tokenizer_json(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  const Json root = parse_json(read_file(path, kMaxFile), path);
  const Json& model = json_member(root, "model", path);
  const bool byte_level = root.contains("pre_tokenizer") && is_byte_level(root["pre_tokenizer"]);
  const std::string type = model.is_object() && model.contains("type") && model["type"].is_string()
                               ? model["type"].get<std::string>()
                               : "BPE";
  if (type != "BPE" || !byte_level) {
    fail(Exit::data, path, ": expected a byte-level BPE as GPT-2's, this is ",
         pyramoe::quoted(type), byte_level ? "" : " without a ByteLevel pre-tokenizer",
         "; put vocab.json and merges.txt of the model beside it");
  }
  Json vocab = json_member(model, "vocab", path);
  if (!vocab.is_object()) fail_json_type(vocab, "vocab", path, "an object", Exit::data);
  if (root.contains("added_tokens") && root["added_tokens"].is_array()) {
    for (const Json& token : root["added_tokens"]) {
      vocab[json_value<std::string>(token, "content", path)] =
          json_value<int64_t>(token, "id", path);
    }
  }
  std::string merges = "#version: 0.2\n";
  const Json& pairs = json_member(model, "merges", path);
  if (!pairs.is_array()) fail_json_type(pairs, "merges", path, "an array", Exit::data);
  for (const Json& merge : pairs) {
    merges += merge_line(merge, path) + "\n";
  }
  return data::tokenizer_from_files({{"vocab.json", dump_json(vocab)}, {"merges.txt", merges}},
                                    path);
}

}  // namespace

std::unique_ptr<data::Tokenizer> read_hf_tokenizer(const std::string& folder) {
  if (path_exists(folder + "/vocab.json") && path_exists(folder + "/merges.txt")) {
    return data::tokenizer_from_files({{"vocab.json", read_file(folder + "/vocab.json", kMaxFile)},
                                       {"merges.txt", read_file(folder + "/merges.txt", kMaxFile)}},
                                      folder);
  }
  if (path_exists(folder + "/tokenizer.json")) return from_tokenizer_json(folder);
  if (is_folder(folder + kOwnFolder)) return data::load_tokenizer(folder + kOwnFolder);
  return nullptr;
}

bool write_hf_tokenizer(const data::Tokenizer& tokenizer, int64_t context,
                        const std::string& folder) {
  const data::Bpe* bpe = tokenizer.bpe();
  if (!bpe) {
    tokenizer.save(folder + kOwnFolder);
    return false;
  }
  write_file(folder + "/vocab.json", bpe->vocab_json(), Exit::checkpoint);
  write_file(folder + "/merges.txt", bpe->merges_text(), Exit::checkpoint);
  const Json mark = bpe->eot() >= 0 ? Json(data::kEndOfText) : Json();
  const Json config{{"add_prefix_space", false}, {"bos_token", mark},
                    {"eos_token", mark},         {"model_max_length", context},
                    {"unk_token", mark},         {"tokenizer_class", "GPT2Tokenizer"}};
  write_file(folder + "/tokenizer_config.json", dump_json(config, 2) + "\n", Exit::checkpoint);
  return true;
}

}  // namespace pyramoe::infer
