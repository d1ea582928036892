#include "uthin/error.h"

#include <cstring>

namespace uthin {

int to_errno(error_code code) noexcept {
    switch (code) {
        case error_code::io_error: return EIO;
        case error_code::corrupt: return EILSEQ;
        case error_code::no_data_space: return ENOSPC;
        case error_code::no_metadata_space: return ENOSPC;
        case error_code::not_found: return ENODATA;
        case error_code::already_exists: return EEXIST;
        case error_code::invalid_argument: return EINVAL;
        case error_code::out_of_range: return EINVAL;
        case error_code::read_only: return EPERM;
        case error_code::needs_check: return EPERM;
        case error_code::busy: return EBUSY;
        case error_code::unsupported: return EOPNOTSUPP;
        case error_code::cancelled: return ECANCELED;
        case error_code::out_of_memory: return ENOMEM;
        case error_code::would_block: return EWOULDBLOCK;
        case error_code::view_expired: return ESTALE;
        case error_code::wrong_block: return ENOTBLK;
        case error_code::not_permitted: return EPERM;
        case error_code::failed: return EINVAL;
    }
    return EIO;
}

std::string_view to_string(error_code code) noexcept {
    switch (code) {
        case error_code::io_error: return "I/O error";
        case error_code::corrupt: return "corrupt";
        case error_code::no_data_space: return "no data space";
        case error_code::no_metadata_space: return "no metadata space";
        case error_code::not_found: return "not found";
        case error_code::already_exists: return "already exists";
        case error_code::invalid_argument: return "invalid argument";
        case error_code::out_of_range: return "out of range";
        case error_code::read_only: return "read-only";
        case error_code::needs_check: return "needs check";
        case error_code::busy: return "busy";
        case error_code::unsupported: return "unsupported";
        case error_code::cancelled: return "cancelled";
        case error_code::out_of_memory: return "out of memory";
        case error_code::would_block: return "would block";
        case error_code::view_expired: return "view expired";
        case error_code::wrong_block: return "wrong block";
        case error_code::not_permitted: return "not permitted";
        case error_code::failed: return "failed";
    }
    return "unknown";
}

std::string error::to_string() const {
    std::string text(uthin::to_string(code_));
    text += ": ";
    text += message_;
    if (os_errno_ != 0) {
        text += " (";
        text += std::strerror(os_errno_);
        text += ')';
    }
    return text;
}

}  // namespace uthin
