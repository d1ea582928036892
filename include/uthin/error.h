// Errors as values: what every call of uthin returns instead of throwing.
//
// Threads   Plain values; any thread.
// Failures  A code exists only if some caller acts differently on it; everything else is context
// text.
#pragma once

#include <cerrno>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace uthin {

enum class error_code : std::uint8_t {
    io_error,           // a device failed; the state of what was being written is unknown
    corrupt,            // bytes on disk are not what the format allows
    no_data_space,      // the data device (or a volume's limit) is full
    no_metadata_space,  // the metadata device is full
    not_found,
    already_exists,
    invalid_argument,
    out_of_range,
    read_only,
    needs_check,
    busy,
    unsupported,
    cancelled,
    out_of_memory,
    would_block,    // internal: a metadata block must be read first; never leaves the library
    view_expired,   // the read view was revoked because its space was needed
    wrong_block,    // a metadata block carries another block's number (the kernel's ENOTBLK)
    not_permitted,  // formatting or changing was not allowed by the caller (the kernel's EPERM)
    failed,         // the pool is in fail mode: only close works
};

// The errno that the kernel (or nbdkit) would report for `code`.
[[nodiscard]] int to_errno(error_code code) noexcept;
[[nodiscard]] std::string_view to_string(error_code code) noexcept;

// What went wrong, in one line. `os_errno` is 0 when no system call was involved.
class error {
public:
    error(error_code code, std::string message, int os_errno = 0)
        : code_(code), os_errno_(os_errno), message_(std::move(message)) {}

    [[nodiscard]] error_code code() const noexcept { return code_; }
    [[nodiscard]] int os_errno() const noexcept { return os_errno_; }
    [[nodiscard]] const std::string& message() const noexcept { return message_; }
    // The errno to hand to a client: the system's own if there was one, else the code's.
    [[nodiscard]] int to_errno() const noexcept {
        return os_errno_ != 0 ? os_errno_ : uthin::to_errno(code_);
    }
    // "corrupt: btree node 41: checksum mismatch (mapping tree of device 3)"
    [[nodiscard]] std::string to_string() const;
    // The same error with "where: " before its message.
    [[nodiscard]] error with_context(std::string_view where) && {
        return error(code_, std::string(where) + ": " + message_, os_errno_);
    }

private:
    error_code code_;
    int os_errno_;
    std::string message_;
};

template <class T>
using result = std::expected<T, error>;

[[nodiscard]] inline std::unexpected<error> fail(error_code code, std::string message,
                                                 int os_errno = 0) {
    return std::unexpected(error(code, std::move(message), os_errno));
}

}  // namespace uthin
