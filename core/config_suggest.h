// Which known key may someone have meant?
#pragma once

#include <string>
#include <vector>

namespace pyramoe {

// At most three of `known`, the likeliest first; none when nothing is near. Knows the names that
// nanoGPT, Megatron, DeepSpeed and Hugging Face use for the same settings.
std::vector<std::string> suggest_keys(const std::string& unknown,
                                      const std::vector<std::string>& known);

}  // namespace pyramoe
