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
    ~temporary_directory();
    temporary_directory(temporary_directory&& other) noexcept;
    temporary_directory& operator=(temporary_directory&& other) noexcept;

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
    std::filesystem::path path_;
};

}  // namespace uthin::test
