// Want of space in the data device itself: in a sparse file on a full file system, a thin disk.
//
// Only what wrote data tells; the same errno of a read or of the metadata is a failure like others.
//
// Threads   Any.
#pragma once

#include <cerrno>
#include <string>

#include "uthin/error.h"

namespace uthin::pool_engine {

// no_data_space with the system's errno instead of io_error.
[[nodiscard]] inline result<void> tell_full(result<void> written) {
    if (written || written.error().code() != error_code::io_error) {
        return written;
    }
    const int os_errno = written.error().os_errno();
    if (os_errno != ENOSPC && os_errno != EDQUOT && os_errno != EFBIG) {
        return written;
    }
    return fail(error_code::no_data_space, std::string(written.error().message()), os_errno);
}

// A pool without free blocks has no errno.
[[nodiscard]] inline bool is_full_device(const error& failed) noexcept {
    return failed.code() == error_code::no_data_space && failed.os_errno() != 0;
}

}  // namespace uthin::pool_engine
