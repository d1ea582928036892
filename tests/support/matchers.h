// gmock matchers for result<T>.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <expected>
#include <ostream>

#include "uthin/error.h"

namespace uthin {

// What googletest prints of a result that does not match: by itself it prints the bytes, padding
// that nobody wrote among them.
template <typename T>
void PrintTo(const std::expected<T, error>& outcome, std::ostream* out) {
    *out << (outcome ? "a success" : outcome.error().to_string());
}

}  // namespace uthin

namespace uthin::test {

MATCHER(IsOk, "is ok") {
    if (arg) {
        return true;
    }
    *result_listener << arg.error().to_string();
    return false;
}

MATCHER_P(HasCode, code, "fails with the code") {
    if (arg) {
        *result_listener << "it succeeded";
        return false;
    }
    *result_listener << arg.error().to_string();
    return arg.error().code() == code;
}

}  // namespace uthin::test

// Unwraps a result inside a test body; a failure ends the test with the error's text.
#define ASSERT_OK_AND_ASSIGN(declaration, expression)              \
    auto UTHIN_TEST_NAME(result_, __LINE__) = (expression);        \
    ASSERT_TRUE(UTHIN_TEST_NAME(result_, __LINE__).has_value())    \
        << UTHIN_TEST_NAME(result_, __LINE__).error().to_string(); \
    declaration = std::move(*UTHIN_TEST_NAME(result_, __LINE__))

#define ASSERT_OK(expression) ASSERT_THAT((expression), ::uthin::test::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT((expression), ::uthin::test::IsOk())
#define UTHIN_TEST_JOIN(a, b) a##b
#define UTHIN_TEST_NAME(a, b) UTHIN_TEST_JOIN(a, b)
