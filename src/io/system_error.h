// From errno to our errors, for the code that makes system calls.
//
// Threads   Any.
#pragma once

#include <cerrno>
#include <string>
#include <utility>

#include "uthin/error.h"

namespace uthin::io {

// ENOSPC stays io_error: only the caller knows whose space ran out (os_errno() tells).
[[nodiscard]] inline error_code code_of_errno(int os_errno) noexcept {
    switch (os_errno) {
        case ENOENT: return error_code::not_found;
        case EEXIST: return error_code::already_exists;
        case EACCES:
        case EPERM: return error_code::not_permitted;
        case EROFS: return error_code::read_only;
        case EBUSY:
        case ETXTBSY: return error_code::busy;
        case ENOMEM: return error_code::out_of_memory;
        case EISDIR:
        case ENOTDIR:
        case ELOOP:
        case ENAMETOOLONG: return error_code::invalid_argument;
        case EOPNOTSUPP: return error_code::unsupported;
        default: return error_code::io_error;
    }
}

[[nodiscard]] inline std::unexpected<error> system_failure(int os_errno, std::string message) {
    return fail(code_of_errno(os_errno), std::move(message), os_errno);
}

// For I/O on an open device, where every errno is a failure of the device.
[[nodiscard]] inline std::unexpected<error> io_failure(int os_errno, std::string message) {
    return fail(error_code::io_error, std::move(message), os_errno);
}

}  // namespace uthin::io
