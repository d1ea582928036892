#include "support/paths.h"

namespace uthin::test {

std::string bin_dir() {
    return UTHIN_BIN_DIR;
}

std::string source_dir() {
    return UTHIN_SOURCE_DIR;
}

std::string test_data_dir() {
    return source_dir() + "/tests/data";
}

}  // namespace uthin::test
