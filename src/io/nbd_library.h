// libnbd, loaded when the first NBD device is opened.
//
// It brings twenty shared libraries with it (TLS, XML), which take longer to load than a thin_*
// tool takes on a small pool.
//
// Threads   Any.
// Failures  unsupported: the library is not installed, or is an older one.
#pragma once

#include <libnbd.h>

#include "base/result.h"

namespace uthin::io {

// The functions of libnbd that this layer calls, without their prefix.
struct nbd_library {
#define UTHIN_NBD_FUNCTIONS(each)                                                                \
    each(aio_command_completed) each(aio_is_closed) each(aio_is_dead) each(aio_pread)            \
        each(aio_pwrite) each(can_flush) each(can_trim) each(can_zero) each(close)               \
            each(connect_uri) each(create) each(flush) each(get_block_size) each(get_errno)      \
                each(get_error) each(get_size) each(is_read_only) each(is_rotational) each(poll) \
                    each(pread) each(pwrite) each(set_uri_allow_local_file) each(shutdown)       \
                        each(trim) each(zero)
#define UTHIN_NBD_MEMBER(name) decltype(&::nbd_##name) name = nullptr;
    UTHIN_NBD_FUNCTIONS(UTHIN_NBD_MEMBER)
#undef UTHIN_NBD_MEMBER
};

// Stays loaded for the rest of the process.
[[nodiscard]] result<const nbd_library*> load_nbd_library();

}  // namespace uthin::io
