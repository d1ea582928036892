#include "pool/target_message.h"

#include <gtest/gtest.h>

#include "support/matchers.h"

namespace uthin {
namespace {

using test::HasCode;

TEST(TargetMessage, WhatTheKernelAcceptsIsAccepted) {
    const auto expect = [](std::string_view text, target_message wanted) {
        ASSERT_OK_AND_ASSIGN(const target_message parsed, parse_target_message(text));
        EXPECT_EQ(parsed, wanted) << text;
    };
    expect("create_thin 0", {message_verb::create_thin, 0, 0});
    expect("create_thin 010", {message_verb::create_thin, 10, 0});
    expect("CREATE_THIN 5", {message_verb::create_thin, 5, 0});
    expect("  create_thin\t+16777215 ", {message_verb::create_thin, 16777215, 0});
    expect("create_snap 5 0", {message_verb::create_snap, 5, 0});
    expect("delete 5", {message_verb::delete_thin, 5, 0});
    expect("set_transaction_id 18446744073709551615 3",
           {message_verb::set_transaction_id, UINT64_MAX, 3});
    expect("reserve_metadata_snap", {message_verb::reserve_metadata_snap, 0, 0});
    expect("release_metadata_snap", {message_verb::release_metadata_snap, 0, 0});
}

TEST(TargetMessage, WhatTheKernelRefusesIsEinval) {
    for (const char* text : {"",
                             " ",
                             "bogus",
                             "create_thin",
                             "create_thin x",
                             "create_thin -1",
                             "create_thin 16777216",
                             "create_thin 4294967296",
                             "create_thin 99999999999999999999",
                             "create_thin 0x10",
                             "create_thin 1 2",
                             "create_snap",
                             "create_snap 5",
                             "create_snap 16777216 0",
                             "create_snap 7 16777216",
                             "create_snap 8 0 1",
                             "delete",
                             "delete 16777216",
                             "delete x",
                             "delete 0 1",
                             "set_transaction_id",
                             "set_transaction_id 0",
                             "set_transaction_id x 2",
                             "set_transaction_id 2 -1",
                             "set_transaction_id 2 99999999999999999999",
                             "reserve_metadata_snap x",
                             "release_metadata_snap x",
                             "set_mode read-only"}) {
        const auto parsed = parse_target_message(text);
        ASSERT_THAT(parsed, HasCode(error_code::invalid_argument)) << text;
        EXPECT_EQ(parsed.error().to_errno(), EINVAL);
    }
}

TEST(TargetMessage, AModeThatDoesNotChangeTakesNone) {
    EXPECT_OK(takes_messages(pool_mode::write));
    EXPECT_OK(takes_messages(pool_mode::out_of_data_space));
    for (const pool_mode mode :
         {pool_mode::out_of_metadata_space, pool_mode::read_only, pool_mode::fail}) {
        const auto taken = takes_messages(mode);
        ASSERT_THAT(taken, HasCode(error_code::unsupported));
        EXPECT_EQ(taken.error().to_errno(), EOPNOTSUPP);
    }
}

}  // namespace
}  // namespace uthin
