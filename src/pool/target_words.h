// Words of the texts that device-mapper targets take: table lines and messages.
//
// Threads   Plain functions.
// Failures  None; what a word means is for its reader to judge.
// Source    tests/kernel (observed on 6.1 and 6.12).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace uthin {

// Between white space; a backslash takes the next character as it is.
[[nodiscard]] std::vector<std::string> split_target_words(std::string_view text);
// ASCII only: target names are case sensitive, messages and features are not.
[[nodiscard]] std::string lower_case(std::string text);

}  // namespace uthin
