// What every program does before anything else, and how text leaves `uthin`.
//
// Threads   One.
// Failures  Said for each.
#pragma once

#include <string_view>

#include "uthin/error.h"

namespace uthin::tools {

// A closed stream is taken up, so that no device gets its number and, with it, our output; what is
// read or written there fails. A reader that goes away and a limit of the size of files are errors
// of the write, not a death in the middle of a change.
void prepare_standard_streams();

// On standard output; whether it arrived, flush_output() tells.
void print(std::string_view text);
// io_error if anything printed so far did not arrive.
[[nodiscard]] result<void> flush_output();

}  // namespace uthin::tools
