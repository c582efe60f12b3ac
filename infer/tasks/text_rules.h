// The few string rules of lm-eval's tasks, spelled as Python's str methods do them, on UTF-8.
//
// Scores are only comparable when these agree to the character, so they live here with tests
// instead of inside the tasks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyramoe::infer {

// Bytes of `text` without its trailing (leading) white space: str.rstrip(), str.lstrip(). White
// space is Unicode's, as in Python.
size_t rstripped_size(std::string_view text);
std::string_view lstrip(std::string_view text);

// Characters, not bytes; a byte that is not UTF-8 counts as one.
int64_t count_characters(std::string_view text);

// str.lower() for ASCII, Latin, Greek and Cyrillic letters; others stay as they are.
std::string lower(std::string_view text);

// Without the 32 punctuation characters of ASCII.
std::string without_punctuation(std::string_view text);

// lower() and without_punctuation(): what exact_match compares.
std::string normalised_answer(std::string_view text);

// Removes the quoting that a CSV writer put round a field: outer quotes, and inner ones doubled.
// Text that is not quoted so is returned as it is.
std::string without_csv_quotes(std::string_view text);

// The answers, sorted, less those that begin with the one kept before (whoever says the longer one
// has said the shorter one).
std::vector<std::string> without_prefixed(std::vector<std::string> answers);

}  // namespace pyramoe::infer
