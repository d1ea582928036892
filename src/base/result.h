// result<T> and the one macro that passes errors up.
#pragma once

#include "uthin/error.h"

// Evaluates to the value of a result, or returns its error from the enclosing function. A statement
// expression: g++ and clang only.
#define UTHIN_TRY(expression) UTHIN_TRY_NAMED(UTHIN_TRY_NAME(__COUNTER__), expression)

// The same with context put before the message; `where` is only evaluated on failure.
#define UTHIN_TRY_CTX(expression, where) \
    UTHIN_TRY_CTX_NAMED(UTHIN_TRY_NAME(__COUNTER__), expression, where)

// A name of its own for each use, so that uses can be nested.
#define UTHIN_TRY_JOIN(a, b) a##b
#define UTHIN_TRY_NAME(counter) UTHIN_TRY_JOIN(uthin_try_result_, counter)
#define UTHIN_TRY_NAMED(name, expression)                    \
    ({                                                       \
        auto name = (expression);                            \
        if (!name) [[unlikely]] {                            \
            return std::unexpected(std::move(name).error()); \
        }                                                    \
        ::uthin::detail::take(name);                         \
    })
#define UTHIN_TRY_CTX_NAMED(name, expression, where)                             \
    ({                                                                           \
        auto name = (expression);                                                \
        if (!name) [[unlikely]] {                                                \
            return std::unexpected(std::move(name).error().with_context(where)); \
        }                                                                        \
        ::uthin::detail::take(name);                                             \
    })

namespace uthin::detail {

template <class T>
[[nodiscard]] T take(result<T>& value) {
    return std::move(*value);
}
inline void take(result<void>&) {
}

}  // namespace uthin::detail
