// Large files that are written once, front to back, and read the same way; pipes.
//
// Invariants
//   SF1  After a power cut at any moment a file that was not published is not there under its name;
//        one that was is whole.
// Threads   One.
// Failures  As durable_file.h.
#pragma once

#include <chrono>
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

// What another program writes into a pipe of ours.
class pipe_reader {
public:
    // `descriptor` stays the caller's, `name` is for errors. `stall_timeout`: how long nothing may
    // come; 0: as long as it likes.
    pipe_reader(int descriptor, std::string name, std::chrono::milliseconds stall_timeout)
        : descriptor_(descriptor), name_(std::move(name)), stall_timeout_(stall_timeout) {}

    // Fewer than asked for only at the end. cancelled after a stall.
    [[nodiscard]] result<std::size_t> read(std::span<std::byte> buffer) const;

private:
    [[nodiscard]] result<void> wait() const;
    int descriptor_;
    std::string name_;
    std::chrono::milliseconds stall_timeout_;
};

}  // namespace uthin::io
