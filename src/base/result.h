// result<T> and the one macro that passes errors up.
#pragma once

#include "uthin/error.h"

// Evaluates to the value of a result, or returns its error from the enclosing function. A statement
// expression: g++ and clang only.
#define UTHIN_TRY(expression)                                            \
    ({                                                                   \
        auto uthin_try_result = (expression);                            \
        if (!uthin_try_result) [[unlikely]] {                            \
            return std::unexpected(std::move(uthin_try_result).error()); \
        }                                                                \
        ::uthin::detail::take(uthin_try_result);                         \
    })

// The same with context put before the message; `where` is only evaluated on failure.
#define UTHIN_TRY_CTX(expression, where)                                                     \
    ({                                                                                       \
        auto uthin_try_result = (expression);                                                \
        if (!uthin_try_result) [[unlikely]] {                                                \
            return std::unexpected(std::move(uthin_try_result).error().with_context(where)); \
        }                                                                                    \
        ::uthin::detail::take(uthin_try_result);                                             \
    })

namespace uthin::detail {

template <class T>
[[nodiscard]] T take(result<T>& value) {
    return std::move(*value);
}
inline void take(result<void>&) {
}

}  // namespace uthin::detail
