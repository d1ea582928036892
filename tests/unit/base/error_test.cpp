#include "uthin/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string>

#include "base/result.h"
#include "support/matchers.h"

namespace uthin::test {
namespace {

constexpr error_code last_code = error_code::failed;

TEST(Error, EveryCodeHasItsOwnTextAndAnErrno) {
    std::set<std::string_view> texts;
    for (int i = 0; i <= static_cast<int>(last_code); ++i) {
        const auto code = static_cast<error_code>(i);
        EXPECT_NE(to_string(code), "unknown") << i;
        EXPECT_TRUE(texts.insert(to_string(code)).second) << to_string(code);
        EXPECT_GT(to_errno(code), 0);
    }
}

// What the kernel or an NBD client would see.
TEST(Error, CodesMapToTheErrnoOfTheKernel) {
    EXPECT_EQ(to_errno(error_code::io_error), EIO);
    EXPECT_EQ(to_errno(error_code::corrupt), EILSEQ);
    EXPECT_EQ(to_errno(error_code::wrong_block), ENOTBLK);
    EXPECT_EQ(to_errno(error_code::no_data_space), ENOSPC);
    EXPECT_EQ(to_errno(error_code::no_metadata_space), ENOSPC);
    EXPECT_EQ(to_errno(error_code::not_found), ENODATA);
    EXPECT_EQ(to_errno(error_code::already_exists), EEXIST);
    EXPECT_EQ(to_errno(error_code::busy), EBUSY);
    EXPECT_EQ(to_errno(error_code::not_permitted), EPERM);
    EXPECT_EQ(to_errno(error_code::read_only), EPERM);
    EXPECT_EQ(to_errno(error_code::failed), EINVAL);
}

TEST(Error, OneLineNamesCodeObjectAndCause) {
    const error plain(error_code::corrupt, "btree node 41: checksum mismatch");
    EXPECT_EQ(plain.to_string(), "corrupt: btree node 41: checksum mismatch");
    EXPECT_EQ(plain.to_errno(), EILSEQ);
    const error system(error_code::io_error, "/dev/x: write failed", ENOSPC);
    EXPECT_EQ(system.to_string(), "I/O error: /dev/x: write failed (No space left on device)");
    EXPECT_EQ(system.to_errno(), ENOSPC) << "the system's own errno wins";
}

TEST(Error, ContextGoesBeforeTheMessageAndKeepsTheRest) {
    const error with =
        error(error_code::io_error, "read failed", EIO).with_context("loading index");
    EXPECT_EQ(with.message(), "loading index: read failed");
    EXPECT_EQ(with.code(), error_code::io_error);
    EXPECT_EQ(with.os_errno(), EIO);
}

result<int> half(int number) {
    if (number % 2 != 0) {
        return fail(error_code::invalid_argument, "odd");
    }
    return number / 2;
}

result<int> quarter(int number) {
    const int once = UTHIN_TRY(half(number));
    return UTHIN_TRY_CTX(half(once), "second step");
}

result<void> only_even(int number) {
    UTHIN_TRY(half(number));
    return {};
}

result<std::unique_ptr<int>> boxed(int number) {
    return std::make_unique<int>(UTHIN_TRY(half(number)));
}

TEST(Result, TryGivesTheValueOrReturnsTheError) {
    ASSERT_OK_AND_ASSIGN(const int value, quarter(12));
    EXPECT_EQ(value, 3);
    EXPECT_THAT(quarter(3), HasCode(error_code::invalid_argument));
    EXPECT_EQ(quarter(3).error().message(), "odd");
    EXPECT_EQ(quarter(6).error().message(), "second step: odd");
    EXPECT_OK(only_even(2));
    EXPECT_THAT(only_even(1), HasCode(error_code::invalid_argument));
}

TEST(Result, TryMovesWhatCannotBeCopied) {
    const auto twice = []() -> result<int> {
        const std::unique_ptr<int> box = UTHIN_TRY(boxed(8));
        return *box;
    };
    ASSERT_OK_AND_ASSIGN(const int value, twice());
    EXPECT_EQ(value, 4);
}

}  // namespace
}  // namespace uthin::test
