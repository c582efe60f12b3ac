// Tokenizers behind the interface: save and load, characters of a corpus, streaming.
#include "data/tokenizer.h"

#include "data/bpe.h"
#include "data/bpe_trainer.h"
#include "data/utf8.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> small_bpe() {
  BpeTrainer trainer;
  trainer.add(std::vector<std::string>{"the cat and the hat", "the théâtre — the end", "中文中文"});
  return make_bpe_tokenizer(trainer.train({.vocab_size = 280, .min_count = 2, .progress = {}}));
}

TEST(Tokenizer, SavedAndLoadedIsTheSame) {
  std::vector<std::unique_ptr<Tokenizer>> all;
  all.push_back(small_bpe());
  all.push_back(make_byte_tokenizer());
  all.push_back(make_char_tokenizer("the cat, Ünïcode \n\t\"\\"));
  for (const auto& tokenizer : all) {
    const ScratchFolder folder;
    tokenizer->save(folder.file("sub/tok"));
    const auto again = load_tokenizer(folder.file("sub/tok"));
    EXPECT_EQ(again->kind(), tokenizer->kind());
    EXPECT_EQ(again->hash(), tokenizer->hash());
    EXPECT_EQ(again->eot(), tokenizer->eot());
    EXPECT_EQ(again->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ(again->encode("the cat"), tokenizer->encode("the cat"));
    EXPECT_EQ(again->decode(tokenizer->encode("the cat")), "the cat");
    for (int32_t id : {-1, static_cast<int32_t>(tokenizer->vocab_size())}) {
      EXPECT_NE(data_error([&] { again->token(id); }), "");
    }
    EXPECT_EQ((tokenizer->bpe() != nullptr), tokenizer->kind() == "bpe");
  }
  EXPECT_NE(all[0]->hash(), all[1]->hash());
}

TEST(Tokenizer, CharsOfTinyShakespeareAre65) {
  PM_NEEDS_SHARED("text/tinyshakespeare.txt");
  const std::string text = read_file(shared_path("text/tinyshakespeare.txt"));
  const auto tokenizer = make_char_tokenizer(text);
  EXPECT_EQ(tokenizer->vocab_size(), 65);
  EXPECT_EQ(tokenizer->encode("\n !A"), (Ids{0, 1, 2, 13}));  // nanoGPT's ids
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_NE(data_error([&] { tokenizer->encode("é"); }).find("U+e9"), std::string::npos);
  EXPECT_NE(data_error([&] { tokenizer->encode("\xff"); }).find("UTF-8"), std::string::npos);
}

TEST(Tokenizer, LoadsTheFilesOfGpt2) {
  PM_NEEDS_SHARED("tokenizer/gpt2_encoder.json");
  const std::vector<NamedFile> files = {
      {"encoder.json", read_file(shared_path("tokenizer/gpt2_encoder.json"))},
      {"vocab.bpe", read_file(shared_path("tokenizer/gpt2_vocab.bpe"))}};
  const auto tokenizer = tokenizer_from_files(files, "gpt2");
  EXPECT_EQ(tokenizer->encode("Hello world"), (Ids{15496, 995}));
  EXPECT_EQ(tokenizer->eot(), 50256);
}

TEST(Tokenizer, RefusesBrokenFolders) {
  const ScratchFolder folder;
  const auto error = [&](const std::string& json) {
    folder.file("pyramoe_tokenizer.json", json);
    return data_error([&] { load_tokenizer(folder.path()); });
  };
  EXPECT_NE(data_error([&] { load_tokenizer(folder.file("none")); }), "");
  EXPECT_NE(data_error([&] { load_tokenizer(folder.path()); }).find("no tokenizer"),
            std::string::npos);
  EXPECT_NE(error("{").find("JSON"), std::string::npos);
  EXPECT_NE(error("{}").find("version"), std::string::npos);
  EXPECT_NE(error(R"({"version":2,"kind":"byte","vocab_size":257})").find("version 2"),
            std::string::npos);
  EXPECT_NE(error(R"({"version":1,"kind":"word","vocab_size":257})").find("kind"),
            std::string::npos);
  EXPECT_NE(error(R"({"version":1,"kind":"byte","vocab_size":256})").find("256"),
            std::string::npos);
  EXPECT_NE(error(R"({"version":1,"kind":"bpe","vocab_size":256})").find("missing"),
            std::string::npos);
  EXPECT_NE(error(R"({"version":1,"kind":"char","vocab_size":2,"chars":"ba"})").find("sorted"),
            std::string::npos);
  EXPECT_NE(error(R"({"version":1,"kind":"char","vocab_size":0,"chars":""})").find("empty"),
            std::string::npos);
  EXPECT_EQ(error(R"({"version":1,"kind":"byte","vocab_size":257})"), "");
  EXPECT_NE(data_error([] { make_char_tokenizer(std::string_view()); }), "");
}

TEST(StreamDecoder, ShowsWholeCharactersOnly) {
  const auto bytes = make_byte_tokenizer();
  const std::string text = "aé中🙂z";
  StreamDecoder stream(*bytes);
  std::string shown;
  for (const int32_t id : bytes->encode(text)) {
    const std::string piece = stream.push(id);
    shown += piece;
    EXPECT_EQ(complete_prefix(piece), piece.size());
    if (!piece.empty()) {
      EXPECT_GT(decode_utf8(piece.data(), piece.data() + piece.size()).length, 0);
    }
  }
  EXPECT_EQ(shown, text);
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, LosesNoByteOfBrokenText) {
  const auto bytes = make_byte_tokenizer();
  Dice dice(21);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint32_t n = dice.below(12); n > 0; --n)
      text += "a\xe4\xb8\xad\xf0\x9f\x99\x82\xff\xc3\xed\xa0"[dice.below(12)];
    StreamDecoder stream(*bytes);
    std::string shown;
    for (const int32_t id : bytes->encode(text)) shown += stream.push(id);
    const std::string rest = stream.finish();
    ASSERT_LE(rest.size(), 3u);
    ASSERT_EQ(shown + rest, text);
  }
  StreamDecoder stream(*bytes);
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.finish(), "\xe4");
  EXPECT_EQ(stream.push(0xFF), "\xff");  // can never become a character: shown at once
}

TEST(ByteTokenizer, KnowsTheEndOfTextWhenAsked) {
  const auto bytes = make_byte_tokenizer();
  EXPECT_EQ(bytes->encode("a<|endoftext|>", true), (Ids{'a', 256}));
  EXPECT_EQ(bytes->encode("a<|endoftext|>").size(), 14u);
}

}  // namespace
}  // namespace pyramoe::data
