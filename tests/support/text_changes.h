// Texts with a few changes that programs which read them may stumble over.
//
// Threads   One for each generator.
// Failures  None.
#pragma once

#include <string>

#include "base/random.h"

namespace uthin::test {

// `text` with 1 to 3 changes: of bytes, numbers, lines.
[[nodiscard]] std::string mutated_text(std::string text, random_generator& random);

}  // namespace uthin::test
