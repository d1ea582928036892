// Want of memory as an error: where std::bad_alloc stops flying.
//
// Inside the library it is thrown, as by everything of the standard library. It ends at the public
// calls, at the executor and in the bodies of threads, and at places that hold what must be given
// back or told even then.
//
// Threads   Any.
// Failures  None: the error needs no memory of its own.
#pragma once

#include <new>

#include "base/result.h"

namespace uthin {

// Its text is short enough to lie in the string itself.
[[nodiscard]] inline std::unexpected<error> out_of_memory() {
    return fail(error_code::out_of_memory, "out of memory");
}

template <class Body>
[[nodiscard]] auto or_out_of_memory(const Body& body) -> decltype(body()) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    }
}

// For what may be left out: a line of the log, a hint.
template <class Body>
void if_memory_allows(const Body& body) {
    try {
        body();
    } catch (const std::bad_alloc&) {
    }
}

}  // namespace uthin
