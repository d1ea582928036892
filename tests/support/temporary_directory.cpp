#include "support/temporary_directory.h"

#include <stdlib.h>

#include <string>
#include <system_error>
#include <utility>

namespace uthin::test {

temporary_directory::temporary_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "uthin-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) {
        path_ = pattern;
    }
}

temporary_directory::~temporary_directory() {
    if (!path_.empty()) {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
}

temporary_directory::temporary_directory(temporary_directory&& other) noexcept
    : path_(std::exchange(other.path_, {})) {
}

temporary_directory& temporary_directory::operator=(temporary_directory&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
}

}  // namespace uthin::test
