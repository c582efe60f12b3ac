// Documents from plain, JSONL and gzipped files, and what is said about bad ones.
#include "data/text_reader.h"

#include "data/bpe_split.h"
#include "data/prepare.h"
#include "data/token_file.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Texts = std::vector<std::string>;

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<unsigned>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<unsigned>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(TextReader, PartsDocumentsAtTheMark) {
  const ScratchFolder folder;
  const std::string text =
      "one\ntwo\n<|endoftext|>\n<|endoftext|>\r\nthree <|endoftext|>\n<|endoftext|>\nfour";
  const Texts expected = {"one\ntwo\n", "three <|endoftext|>\n", "four"};
  EXPECT_EQ(read_documents({folder.file("a.txt", text)}), expected);
  EXPECT_EQ(read_documents({folder.file("a.txt.gz", gzip(text))}), expected);
  EXPECT_EQ(read_documents({folder.file("b.txt", "")}), Texts{});
  EXPECT_EQ(read_documents({folder.file("b.txt", "\n\n")}), Texts{"\n\n"});
  EXPECT_EQ(read_documents({folder.file("b.txt", std::string("\0\xff\n", 3))}),
            Texts{std::string("\0\xff\n", 3)});
}

TEST(TextReader, ReadsAFieldOfJsonLines) {
  const ScratchFolder folder;
  const std::string text =
      "{\"text\":\"a\\n\",\"id\":1}\n\n{\"text\":\"\"}\n{\"id\":2,\"text\":\"é\"}";
  EXPECT_EQ(read_documents({folder.file("a.jsonl", text)}), (Texts{"a\n", "é"}));
  EXPECT_EQ(read_documents({folder.file("a.jsonl.gz", gzip(text))}), (Texts{"a\n", "é"}));
  EXPECT_EQ(read_documents({folder.file("b.jsonl", "{\"q\":\"x\"}")}, {.json_field = "q"}),
            Texts{"x"});
}

TEST(TextReader, NamesFileAndLineOfWhatIsWrong) {
  const ScratchFolder folder;
  const auto error = [&](const std::string& name, const std::string& content,
                         TextOptions options = {}) {
    return data_error([&] { read_documents({folder.file(name, content)}, options); });
  };
  const std::string good = "{\"text\":\"a\"}\n";
  EXPECT_NE(error("a.jsonl", good + good + "{\"text\":\"a\n").find("a.jsonl:3"), std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "{\"txt\":\"a\"}").find("a.jsonl:2"), std::string::npos);
  EXPECT_NE(error("a.jsonl", "{\"txt\":\"a\",\"n\":1}").find("here are \"txt\""),
            std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "{\"text\":5}").find("a.jsonl:2"), std::string::npos);
  EXPECT_NE(error("a.jsonl", good + "{\"text\":\"\xff\"}").find("a.jsonl:2"), std::string::npos);
  EXPECT_NE(error("a.jsonl", std::string(100000, '[')).find("a.jsonl:1"), std::string::npos);
  TextOptions shorter;
  shorter.max_line = 10;
  EXPECT_NE(error("a.txt", "12\n123456789012\n", shorter).find("a.txt:2"), std::string::npos);
  EXPECT_NE(error("a.txt.gz", "plain").find("not gzip"), std::string::npos);
  EXPECT_NE(data_error([&] { TextReader(folder.path()); }), "");
  EXPECT_NE(data_error([&] { TextReader(folder.file("none")); }), "");
}

TEST(TextReader, GzipCutAtAnyPlaceOrFlippedIsAnError) {
  const ScratchFolder folder;
  std::string text;
  Dice dice(31);
  for (int i = 0; i < 300; ++i) text += static_cast<char>('a' + dice.below(26));
  const std::string whole = gzip(text);
  for (size_t n = 1; n < whole.size(); ++n) {
    EXPECT_NE(data_error([&] { read_documents({folder.file("a.gz", whole.substr(0, n))}); }), "")
        << n;
  }
  for (size_t i = 10; i < whole.size(); ++i) {  // the first ten bytes: names, times, flags
    std::string bad = whole;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    EXPECT_NE(data_error([&] { read_documents({folder.file("a.gz", bad)}); }), "") << i;
  }
}

TEST(TextReader, LongDocumentsComeInPartsCutAtSafePlaces) {
  const ScratchFolder folder;
  std::string text;
  Dice dice(32);
  while (text.size() < 1000000)
    text += std::string(1 + dice.below(9), 'x') + (dice.below(4) ? " " : "\n\n  ");
  const std::string path = folder.file("a.txt", text + "\n<|endoftext|>\nend");
  TextReader reader(path, {.json_field = "text", .max_line = 1 << 20, .max_part = 100000});
  Document part;
  std::vector<std::string> words, texts;
  int parts = 0;
  bool ended = true;
  while (reader.next(part)) {
    ASSERT_EQ(part.begins, ended);
    ended = part.ends;
    ++parts;
    if (part.begins) texts.emplace_back();
    texts.back() += part.text;
    if (texts.size() > 1) continue;
    for (const std::string_view word : split_words(part.text)) words.emplace_back(word);
  }
  EXPECT_TRUE(ended);
  EXPECT_GT(parts, 8);
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0], text + "\n");
  EXPECT_EQ(texts[1], "end");
  std::vector<std::string> expected;
  for (const std::string_view word : split_words(texts[0])) expected.emplace_back(word);
  EXPECT_EQ(words, expected);
}

TEST(Prepare, WritesDocumentsEachClosedByTheEndOfText) {
  const ScratchFolder folder;
  const auto bytes = make_byte_tokenizer();
  const std::string out = folder.file("out.tok");
  int64_t last = 0;
  PrepareOptions options;
  options.progress = [&](int64_t done, int64_t total) { last = done == total ? 1 : 0; };
  const PrepareResult result = prepare_dataset(
      {folder.file("a.txt", "ab\n<|endoftext|>\nc"), folder.file("b.jsonl", "{\"text\":\"d\"}")},
      *bytes, out, options);
  EXPECT_EQ(last, 1);
  EXPECT_EQ(result.documents, 3);
  EXPECT_EQ(result.text_bytes, 5);
  EXPECT_EQ(result.tokens, 8);
  const TokenFile file(out);
  std::vector<int32_t> ids(8);
  file.read(0, ids, 257);
  EXPECT_EQ(ids, (std::vector<int32_t>{'a', 'b', '\n', 256, 'c', 256, 'd', 256}));
  EXPECT_EQ(file.layout().documents, (std::vector<int64_t>{0, 4, 6}));
  EXPECT_EQ(file.layout().tokenizer_hash, bytes->hash());
}

TEST(Prepare, AFailureLeavesTheOldFile) {
  const ScratchFolder folder;
  const auto bytes = make_byte_tokenizer();
  const std::string out = folder.file("out.tok", "old");
  const std::string good = folder.file("good.txt", "good");
  EXPECT_NE(data_error([&] {
              prepare_dataset({good, folder.file("bad.jsonl", "{")}, *bytes, out);
            }),
            "");
  EXPECT_NE(data_error([&] { prepare_dataset({folder.file("empty.txt", "")}, *bytes, out); }), "");
  EXPECT_NE(data_error([&] { prepare_dataset({folder.file("none.txt")}, *bytes, out); }), "");
  EXPECT_EQ(read_file(out), "old");
  EXPECT_EQ(list_folder(folder.path()), (Texts{"bad.jsonl", "empty.txt", "good.txt", "out.tok"}));
}

}  // namespace
}  // namespace pyramoe::data
