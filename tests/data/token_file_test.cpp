// Token files: what is written is read, in five formats; whatever is damaged is refused by name.
#include "data/token_file.h"

#include <cstring>

#include "core/crc32c.h"
#include "tests/data/support.h"

namespace pyramoe::data {
namespace {

using Ids = std::vector<int32_t>;

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <class T>
std::string packed(const Ids& ids) {
  std::string bytes;
  for (const int32_t id : ids) put(bytes, static_cast<T>(id));
  return bytes;
}

std::string own_file(const ScratchFolder& folder, int64_t vocab,
                     const std::vector<Ids>& documents) {
  const std::string path = folder.file("own.tok");
  TokenFileWriter writer(path, vocab, 77);
  for (const Ids& ids : documents) {
    writer.begin_document();
    writer.write(ids);
  }
  writer.commit();
  return path;
}

Ids read_all(const TokenFile& file, int64_t vocab = 1 << 20) {
  Ids ids(static_cast<size_t>(file.tokens()));
  file.read(0, ids, vocab);
  return ids;
}

// A damaged copy must be refused with a message that names it.
void expect_refused(const std::string& path, const char* says = "") {
  const std::string message = data_error([&] { TokenFile file(path); });
  EXPECT_NE(message, "") << path;
  EXPECT_NE(message.find(path.substr(path.rfind('/') + 1, 2)), std::string::npos) << message;
  EXPECT_NE(message.find(says), std::string::npos) << says << " not in: " << message;
}

TEST(TokenFile, ReadsWhatWasWritten) {
  const ScratchFolder folder;
  for (const int64_t vocab : {256, 65536, 65537, 1 << 20}) {
    const auto top = static_cast<int32_t>(vocab - 1);
    const TokenFile file(own_file(folder, vocab, {{1, 2, top}, {}, {0, 5}, {}}));
    EXPECT_EQ(read_all(file, vocab), (Ids{1, 2, top, 0, 5}));
    EXPECT_EQ(file.layout().vocab_size, vocab);
    EXPECT_EQ(file.layout().tokenizer_hash, 77u);
    EXPECT_EQ(file.layout().documents, (std::vector<int64_t>{0, 3}));
    EXPECT_EQ(file.layout().type, vocab > 65536 ? TokenType::u32 : TokenType::u16);
    const std::string message = data_error([&] { read_all(file, top); });
    EXPECT_NE(message.find("token 2 is"), std::string::npos) << message;
    EXPECT_NE(message.find("own.tok"), std::string::npos) << message;
  }
  EXPECT_NE(data_error([&] { own_file(folder, 10, {{}}); }), "");
  EXPECT_THROW(own_file(folder, 10, {{10}}), Error);
  EXPECT_THROW(own_file(folder, 10, {{-1}}), Error);
}

TEST(TokenFile, OwnFormatCutAnywhereOrWithAnyBitFlippedIsRefused) {
  const ScratchFolder folder;
  const std::string whole = read_file(own_file(folder, 300, {{1, 2, 3}, {4, 299}}));
  for (size_t n = 0; n < whole.size(); ++n) {
    expect_refused(folder.file("cut.tok", whole.substr(0, n)));
    if (n > 0 && n < 8) expect_refused(folder.file("cut.bin", whole.substr(0, n)));
  }
  for (const char* more : {"a", "12345678"}) expect_refused(folder.file("long.tok", whole + more));
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string bad = whole;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    expect_refused(folder.file("flip.tok", bad));
  }
}

// Our own format with a lie in it and checksums that fit the lie.
std::string lying(std::string whole, size_t at, uint64_t value, size_t width) {
  std::memcpy(whole.data() + at, &value, width);
  const size_t trailer = whole.size() - 40;
  uint32_t crc = crc32c(whole.data(), 60);
  std::memcpy(whole.data() + 60, &crc, 4);
  crc = crc32c(whole.data(), trailer);
  std::memcpy(whole.data() + trailer + 16, &crc, 4);
  crc = crc32c(whole.data() + trailer, 32);
  std::memcpy(whole.data() + trailer + 32, &crc, 4);
  return whole;
}

TEST(TokenFile, LiesWithGoodChecksumsAreRefused) {
  const ScratchFolder folder;
  const std::string whole = read_file(own_file(folder, 300, {{1, 2, 3}, {4, 299}}));
  const size_t trailer = whole.size() - 40;
  const auto refused = [&](size_t at, uint64_t value, size_t width, const char* says) {
    expect_refused(folder.file("lie.tok", lying(whole, at, value, width)), says);
  };
  refused(8, 2, 4, "version 2");
  refused(12, 3, 4, "3 bytes");
  refused(12, 4, 4, "expected");
  refused(16, 0, 8, "vocabulary size 0");
  refused(16, uint64_t{1} << 40, 8, "vocabulary size");
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{9}, uint64_t{1} << 62, ~uint64_t{0},
                           uint64_t{1} << 63}) {
    refused(trailer, n, 8, "");
    if (n != 2) refused(trailer + 8, n, 8, "");
  }
  refused(trailer - 8, 5, 8, "document 1");
  refused(trailer - 8, 0, 8, "document 1");
  refused(trailer - 16, 7, 8, "document");
  EXPECT_EQ(data_error([&] { TokenFile(folder.file("lie.tok", lying(whole, 16, 300, 8))); }), "");
}

TEST(TokenFile, ReadsNanoGpt) {
  const ScratchFolder folder;
  const TokenFile file(folder.file("train.bin", packed<uint16_t>({5, 65535, 7})));
  EXPECT_EQ(file.layout().format, TokenFormat::nanogpt);
  EXPECT_EQ(read_all(file), (Ids{5, 65535, 7}));
  expect_refused(folder.file("odd.bin", "abc"), "odd");
  expect_refused(folder.file("nil.bin", ""), "empty");
  expect_refused(folder.file("other.dat", "abcd"), "not a token file");
  EXPECT_NE(data_error([&] { TokenFile(folder.file("none.bin")); }), "");
  EXPECT_NE(data_error([&] { TokenFile{folder.path()}; }), "");
}

std::string llmc(int32_t magic, int32_t version, int32_t count, const std::string& tokens) {
  std::string bytes;
  for (const int32_t word : {magic, version, count}) put(bytes, word);
  bytes.resize(1024, '\0');
  return bytes + tokens;
}

TEST(TokenFile, ReadsLlmC) {
  const ScratchFolder folder;
  const TokenFile narrow(
      folder.file("a.bin", llmc(20240520, 1, 3, packed<uint16_t>({1, 2, 50256}))));
  EXPECT_EQ(narrow.layout().format, TokenFormat::llmc);
  EXPECT_EQ(read_all(narrow), (Ids{1, 2, 50256}));
  const TokenFile wide(folder.file("b.bin", llmc(20240801, 7, 2, packed<uint32_t>({1, 128000}))));
  EXPECT_EQ(read_all(wide), (Ids{1, 128000}));
  const std::string good = llmc(20240520, 1, 3, packed<uint16_t>({1, 2, 3}));
  for (size_t n = 4; n < good.size(); n += 5)
    expect_refused(folder.file("cut.bin", good.substr(0, n)));
  const std::string two = packed<uint16_t>({1, 2});
  expect_refused(folder.file("bad.bin", llmc(20240520, 2, 2, two)), "version 2");
  expect_refused(folder.file("bad.bin", llmc(20240801, 1, 1, two)), "version 1");
  expect_refused(folder.file("bad.bin", llmc(20240520, 1, 3, two)), "3 tokens");
  expect_refused(folder.file("bad.bin", llmc(20240520, 1, -1, two)), "-1 tokens");
  expect_refused(folder.file("bad.bin", llmc(20240520, 1, 0, "")), "0 tokens");
  expect_refused(folder.file("bad.bin", llmc(20240521, 1, 2, two)), "20240521");
}

struct Megatron {
  std::string magic{"MMIDIDX\0\0", 9};
  uint64_t version = 1;
  uint8_t code = 8;
  std::vector<int32_t> lengths = {3, 2};
  std::vector<int64_t> pointers = {0, 6};
  std::vector<int64_t> marks = {0, 1, 2};
  uint64_t more_sequences = 0;

  std::string index() const {
    std::string bytes = magic;
    put(bytes, version);
    put(bytes, code);
    put<uint64_t>(bytes, lengths.size() + more_sequences);
    put<uint64_t>(bytes, marks.size());
    for (const int32_t v : lengths) put(bytes, v);
    for (const int64_t v : pointers) put(bytes, v);
    for (const int64_t v : marks) put(bytes, v);
    return bytes;
  }
};

TEST(TokenFile, ReadsMegatron) {
  const ScratchFolder folder;
  const Ids ids = {1, 2, 3, 4, 100};
  const auto check = [&](uint8_t code, int64_t width, const std::string& bin) {
    Megatron m;
    m.code = code;
    m.pointers = {0, 3 * width};
    folder.file("m.idx", m.index());
    folder.file("m.bin", bin);
    for (const char* name : {"m.idx", "m.bin"}) {
      const TokenFile file(folder.file(name));
      EXPECT_EQ(read_all(file), ids);
      EXPECT_EQ(file.layout().documents, (std::vector<int64_t>{0, 3}));
    }
  };
  check(1, 1, packed<uint8_t>(ids));
  check(2, 1, packed<int8_t>(ids));
  check(3, 2, packed<int16_t>(ids));
  check(4, 4, packed<int32_t>(ids));
  check(5, 8, packed<int64_t>(ids));
  check(8, 2, packed<uint16_t>(ids));
  folder.file("m.bin", packed<uint16_t>({1, 2, 3, 4}));
  expect_refused(folder.file("m.idx"), "5 tokens");
}

TEST(TokenFile, RefusesMegatronIndexesThatLie) {
  const ScratchFolder folder;
  folder.file("m.bin", packed<uint16_t>({1, 2, 3, 4, 100}));
  const auto refused = [&](const Megatron& m, const char* says) {
    folder.file("m.idx", m.index());
    expect_refused(folder.file("m.idx"), says);
  };
  const auto with = [](auto change) {
    Megatron m;
    change(m);
    return m;
  };
  refused(with([](Megatron& m) { m.magic[0] = 'N'; }), "MMIDIDX");
  refused(with([](Megatron& m) { m.version = 2; }), "version 2");
  for (const uint8_t code : {0, 6, 7, 9, 255}) {
    refused(with([&](Megatron& m) { m.code = code; }), "dtype code");
  }
  refused(with([](Megatron& m) { m.code = 4; }), "");
  refused(with([](Megatron& m) { m.lengths[0] = -3; }), "length -3");
  refused(with([](Megatron& m) { m.lengths[0] = 2; }), "");
  refused(with([](Megatron& m) { m.pointers[1] = -6; }), "");
  refused(with([](Megatron& m) { m.pointers[1] = int64_t{1} << 62; }), "");
  refused(with([](Megatron& m) { m.marks[1] = 3; }), "mark 1");
  refused(with([](Megatron& m) { m.marks[1] = -1; }), "mark 1");
  refused(with([](Megatron& m) { m.more_sequences = 1; }), "sequences");
  refused(with([](Megatron& m) { m.more_sequences = ~uint64_t{0} / 12; }), "sequences");
  refused(with([](Megatron& m) { m.lengths = {}, m.pointers = {}, m.marks = {}; }), "0 tokens");
  const std::string whole = Megatron().index();
  for (size_t n = 0; n < whole.size(); ++n) {
    folder.file("m.idx", whole.substr(0, n));
    expect_refused(folder.file("m.idx"));
  }
}

TEST(TokenFile, NegativeAndHugeIdsAreFoundWhenRead) {
  const ScratchFolder folder;
  Megatron m;
  m.code = 5;
  m.pointers = {0, 24};
  folder.file("m.idx", m.index());
  std::string bin = packed<int64_t>({1, 2, -3, 4});
  put<int64_t>(bin, int64_t{1} << 32);
  folder.file("m.bin", bin);
  const TokenFile file(folder.file("m.idx"));
  Ids two(2);
  file.read(0, two, 10);
  EXPECT_NE(data_error([&] { file.read(1, two, 10); }).find("token 2 is -3"), std::string::npos);
  EXPECT_NE(data_error([&] { file.read(3, two, 10); }).find("token 4 is 4294967296"),
            std::string::npos);
  EXPECT_THROW(file.read(4, two, 10), Error);
  EXPECT_THROW(file.read(-1, two, 10), Error);
}

}  // namespace
}  // namespace pyramoe::data
