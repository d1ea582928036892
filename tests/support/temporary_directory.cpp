#include "support/temporary_directory.h"

#include <stdlib.h>

#include <string>
#include <system_error>
#include <utility>

namespace uthin::test {

temporary_directory::temporary_directory()
    : temporary_directory(std::filesystem::temp_directory_path()) {
}

temporary_directory temporary_directory::in_memory() {
    const std::filesystem::path memory("/dev/shm");
    temporary_directory made(memory);
    return made.path_.empty() ? temporary_directory() : std::move(made);
}

temporary_directory::temporary_directory(const std::filesystem::path& parent) {
    std::string pattern = (parent / "uthin-test-XXXXXX").string();
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
