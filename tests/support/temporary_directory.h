// A temporary folder that goes away with the object.
//
// Threads   One owner.
// Failures  path() is empty when no folder could be made.
#pragma once

#include <filesystem>

namespace uthin::test {

class temporary_directory {
public:
    temporary_directory();
    // In memory where the system has such a folder: for tests that sync thousands of times.
    [[nodiscard]] static temporary_directory in_memory();
    ~temporary_directory();
    temporary_directory(temporary_directory&& other) noexcept;
    temporary_directory& operator=(temporary_directory&& other) noexcept;

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
    explicit temporary_directory(const std::filesystem::path& parent);

    std::filesystem::path path_;
};

}  // namespace uthin::test
