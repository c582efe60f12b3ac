// Documents out of text files: plain text, JSONL, and both gzipped.
//
// Plain text: documents are parted by lines "<|endoftext|>"; without one, the file is one document.
// JSONL (names ending in .jsonl or .jsonl.gz): one object a line, the document is one of its
// fields. The bytes of a document are handed on as they are. Errors name file and line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace pyramoe::data {

struct TextOptions {
  std::string json_field = "text";
  int64_t max_line = int64_t{64} << 20;  // bytes; a longer line is an Error
  int64_t max_part = int64_t{16} << 20;  // bytes; a longer plain document comes in parts
};

struct Document {
  std::string text;
  bool begins = true, ends = true;  // false: the document goes on in the part before / after
};

// The text of a JSONL row; `where` names file and line.
std::string row_text(const Json& row, const std::string& field, const std::string& where);

class TextReader {
 public:
  // Throws Error(data) if the file is missing, a folder or not readable.
  explicit TextReader(const std::string& path, TextOptions options = {});
  ~TextReader();
  TextReader(const TextReader&) = delete;
  TextReader& operator=(const TextReader&) = delete;

  // The next document or part of one that is not empty; false at the end. Parts are cut where no
  // tokenizer of this folder sees the cut (safe_cut). Throws Error(data) on a damaged file.
  bool next(Document& document);

  // Bytes of the file on disk taken in so far, and in all: for a progress bar.
  int64_t bytes_read() const;
  int64_t bytes_total() const { return total_; }

 private:
  bool next_line(std::string& line);  // with its end of line
  bool next_plain(Document& document);
  bool next_json(Document& document);
  void fill();

  struct Input;
  std::string path_;
  TextOptions options_;
  std::unique_ptr<Input> input_;
  std::string buffer_;
  size_t at_ = 0;
  int64_t total_ = 0, line_number_ = 0;
  bool json_ = false, done_ = false;
  std::string rest_;  // of a document that is handed out in parts
  bool continues_ = false;
};

// Every document of every file, in order, all in memory.
std::vector<std::string> read_documents(const std::vector<std::string>& paths,
                                        const TextOptions& options = {});

}  // namespace pyramoe::data
