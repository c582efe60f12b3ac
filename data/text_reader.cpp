// Reading lines through zlib, which passes plain files through as they are.
#include "data/text_reader.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "data/bpe.h"
#include "data/bpe_split.h"

namespace pyramoe::data {
namespace {

constexpr size_t kChunk = size_t{1} << 20;
constexpr size_t kCutWindow = size_t{1} << 16;  // bytes in which a place to cut is looked for

bool is_separator(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line == kEndOfText;
}

}  // namespace

std::string row_text(const Json& row, const std::string& field, const std::string& where) {
  if (!row.is_object() || row.contains(field)) return json_value<std::string>(row, field, where);
  std::string names;
  for (const auto& [name, value] : row.items()) {
    if (value.is_string()) names += (names.empty() ? "" : ", ") + quoted(name);
  }
  fail(Exit::data, where, ": there is no field ", quoted(field), "; --field names the one that ",
       "holds the text; here are ", names.empty() ? "none" : names);
}

struct TextReader::Input {
  explicit Input(const std::string& path) : file(gzopen(path.c_str(), "rb")) {
    if (file == nullptr) {
      fail(Exit::data, "cannot open ", path, ": ", std::strerror(errno ? errno : ENOMEM));
    }
    gzbuffer(file, 1u << 18);
  }
  ~Input() { gzclose_r(file); }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;
  gzFile file;
};

TextReader::TextReader(const std::string& path, TextOptions options)
    : path_(path), options_(std::move(options)), total_(file_bytes(path)) {
  if (is_folder(path)) fail(Exit::data, "cannot read ", path, ": it is a folder; name its files");
  input_ = std::make_unique<Input>(path);
  json_ = path.ends_with(".jsonl") || path.ends_with(".jsonl.gz");
  if (path.ends_with(".gz") && gzdirect(input_->file) != 0 && total_ > 0) {
    fail(Exit::data, path, ": named .gz but not gzip data; unpack it or take the .gz away");
  }
}

TextReader::~TextReader() = default;

int64_t TextReader::bytes_read() const { return gzoffset(input_->file); }

void TextReader::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const size_t before = buffer_.size();
  buffer_.resize(before + kChunk);
  const int count = gzread(input_->file, buffer_.data() + before, static_cast<unsigned>(kChunk));
  buffer_.resize(before + static_cast<size_t>(count < 0 ? 0 : count));
  int code = Z_OK;
  const char* message = gzerror(input_->file, &code);
  if (code == Z_ERRNO) fail(Exit::data, "cannot read ", path_, ": ", std::strerror(errno));
  if (code != Z_OK) {
    fail(Exit::data, path_, ": damaged or cut off after line ", line_number_, " (", message,
         "); fetch the file again, gzip -t checks it");
  }
  done_ = count <= 0;
}

bool TextReader::next_line(std::string& line) {
  size_t searched = 0;
  for (;;) {
    const size_t stop = buffer_.find('\n', at_ + searched);
    const size_t end = stop == std::string::npos ? buffer_.size() : stop + 1;
    if (static_cast<int64_t>(end - at_) > options_.max_line) {
      fail(Exit::data, path_, ":", line_number_ + 1, ": a line longer than ", options_.max_line,
           " bytes; is this a text file?");
    }
    if (stop != std::string::npos || done_) {
      if (end == at_) return false;
      line.assign(buffer_, at_, end - at_);
      at_ = end;
      ++line_number_;
      return true;
    }
    searched = buffer_.size() - at_;
    fill();
  }
}

bool TextReader::next_plain(Document& document) {
  document.begins = !continues_;
  std::string text = std::exchange(rest_, {});
  std::string line;
  bool more = false;
  size_t tried = 0;  // the size at the last search for a place to cut
  while ((more = next_line(line))) {
    if (is_separator(line)) {
      if (!text.empty() || continues_) break;
      continue;
    }
    text += line;
    const auto size = static_cast<int64_t>(text.size());
    if (size < options_.max_part || text.size() - tried < kCutWindow) continue;
    if (size > 16 * options_.max_part + options_.max_line) {
      fail(Exit::data, path_, ":", line_number_, ": ", size,
           " bytes of a document without one blank after readable text; is this a text file?");
    }
    // Only the newest bytes are searched, so that text without a cut costs no more than others.
    tried = text.size();
    const size_t cut = last_safe_cut(text, text.size(), kCutWindow);
    if (cut == 0) continue;
    rest_ = text.substr(cut);
    text.resize(cut);
    document.text = std::move(text);
    document.ends = false;
    continues_ = true;
    return true;
  }
  document.text = std::move(text);
  document.ends = true;
  return std::exchange(continues_, false) || !document.text.empty() || more;
}

bool TextReader::next_json(Document& document) {
  std::string line;
  while (next_line(line)) {
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    const std::string where = cat(path_, ":", line_number_);
    const Json row = parse_json(line, where);
    document.text = row_text(row, options_.json_field, where);
    document.begins = document.ends = true;
    if (!document.text.empty()) return true;
  }
  return false;
}

bool TextReader::next(Document& document) {
  return json_ ? next_json(document) : next_plain(document);
}

std::vector<std::string> read_documents(const std::vector<std::string>& paths,
                                        const TextOptions& options) {
  std::vector<std::string> documents;
  Document part;
  for (const std::string& path : paths) {
    TextReader reader(path, options);
    while (reader.next(part)) {
      if (part.begins) documents.emplace_back();
      documents.back() += part.text;
    }
  }
  return documents;
}

}  // namespace pyramoe::data
