// Large files that are written once, front to back, and read the same way.
//
// Invariants
//   SF1  After a power cut at any moment a file that was not published is not there under its name;
//        one that was is whole.
// Threads   One.
// Failures  As durable_file.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "uthin/error.h"

namespace uthin::io {

class new_file {
public:
    // Written as "PATH.new", over what an earlier attempt left.
    [[nodiscard]] static result<new_file> create(const std::string& path);
    new_file(new_file&& other) noexcept;
    new_file& operator=(new_file&&) = delete;
    // Removes what was not published.
    ~new_file();

    [[nodiscard]] result<void> write(std::span<const std::byte> bytes);
    // The file is durable and has its name.
    [[nodiscard]] result<void> publish();

private:
    new_file(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
    std::string path_;
    int descriptor_ = -1;
};

class file_reader {
public:
    [[nodiscard]] static result<file_reader> open(const std::string& path);
    file_reader(file_reader&& other) noexcept
        : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
    file_reader& operator=(file_reader&&) = delete;
    ~file_reader();

    // Fewer than asked for only at the end.
    [[nodiscard]] result<std::size_t> read(std::span<std::byte> buffer);

private:
    file_reader(std::string path, int descriptor)
        : path_(std::move(path)), descriptor_(descriptor) {}
    std::string path_;
    int descriptor_ = -1;
};

}  // namespace uthin::io
