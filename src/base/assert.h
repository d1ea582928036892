// Assertions for our own bugs; they stay on in release. Nothing read from a disk, a socket or a
// user may ever reach one.
#pragma once

namespace uthin::detail {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace uthin::detail

#define UTHIN_ASSERT(expression)                                                \
    do {                                                                        \
        if (!(expression)) [[unlikely]] {                                       \
            ::uthin::detail::assertion_failed(#expression, __FILE__, __LINE__); \
        }                                                                       \
    } while (false)
