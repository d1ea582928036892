// Where the tests find files: functions, so that only one object file depends on the place of the
// checkout and the others come from ccache in every clone.
#pragma once

#include <string>

namespace uthin::test {

[[nodiscard]] std::string bin_dir();
[[nodiscard]] std::string source_dir();
[[nodiscard]] std::string test_data_dir();

}  // namespace uthin::test
