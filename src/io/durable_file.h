// Small files that are replaced whole, directories that are there after a power cut, and the holes
// of sparse files.
//
// Invariants
//   DF1  replace_file: after a power cut at any moment the file is the old or the new one, whole.
//   DF2  When a call returns, the change is durable, the directory entry included.
//
// Threads   Any.
//
// Failures  Those of system_error.h; each names the path, and leaves no file of its own behind.
//           invalid_argument: larger than the limit.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "uthin/error.h"

namespace uthin::io {

[[nodiscard]] result<std::string> read_file(const std::string& path, std::uint64_t bytes_max);
// Through "PATH.new" in the same directory.
inline constexpr std::string_view replacement_suffix = ".new";
[[nodiscard]] result<void> replace_file(const std::string& path, std::string_view content);
[[nodiscard]] result<void> rename_file(const std::string& from, const std::string& to);
[[nodiscard]] result<void> remove_file(const std::string& path);
// Makes the last component, readable by the owner only. False: it was there.
[[nodiscard]] result<bool> make_directory(const std::string& path);
[[nodiscard]] result<void> flush_directory(const std::string& path);

enum class file_kind : std::uint8_t { absent, regular, directory, block_device, other };
[[nodiscard]] file_kind kind_of_file(const std::string& path);
// Both exist and are the same file, however they are spelled.
[[nodiscard]] bool is_same_file(const std::string& a, const std::string& b);
// Absolute, with symbolic links followed as far as the path exists.
[[nodiscard]] std::string absolute_path(const std::string& path);

struct byte_run {
    std::uint64_t begin_bytes = 0;
    std::uint64_t end_bytes = 0;
};

// Where a file has data. A file system that cannot tell says: everywhere.
class data_map {
public:
    [[nodiscard]] static result<data_map> open(const std::string& path);
    data_map(data_map&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    data_map& operator=(data_map&&) = delete;
    ~data_map();

    // The first run of data at or after `offset_bytes`, cut at `size_bytes`; absent: only holes.
    [[nodiscard]] result<std::optional<byte_run>> next(std::uint64_t offset_bytes,
                                                       std::uint64_t size_bytes) const;

private:
    explicit data_map(int descriptor) : descriptor_(descriptor) {}
    int descriptor_;
};

}  // namespace uthin::io
