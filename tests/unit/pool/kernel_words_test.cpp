#include "pool/kernel_words.h"

#include <gtest/gtest.h>

#include "support/matchers.h"

namespace uthin {
namespace {

using test::HasCode;

TEST(KernelStatus, IsTheKernelsLineByteForByte) {
    // Recorded from Linux 6.1: a fresh pool, and the same with needs_check.
    pool_status status;
    status.metadata_used_blocks = 214;
    status.metadata_total_blocks = 2048;
    status.data_used_blocks = 2;
    status.data_total_blocks = 1024;
    status.discard = discard_mode::no_passdown;
    status.metadata_low_watermark_blocks = 512;
    EXPECT_EQ(kernel_status_line(status),
              "0 214/2048 2/1024 - rw no_discard_passdown queue_if_no_space - 512 ");
    status.metadata_used_blocks = 213;
    status.data_used_blocks = 0;
    status.mode = pool_mode::read_only;
    status.needs_check = true;
    EXPECT_EQ(kernel_status_line(status),
              "0 213/2048 0/1024 - ro no_discard_passdown queue_if_no_space needs_check 512 ");
}

TEST(KernelStatus, HasAWordForEveryMode) {
    pool_status status;
    status.metadata_snap = metadata_block(12);
    status.error_if_no_space = true;
    status.mode = pool_mode::out_of_data_space;
    EXPECT_EQ(kernel_status_line(status),
              "0 0/0 0/0 12 out_of_data_space discard_passdown error_if_no_space - 0 ");
    status.mode = pool_mode::out_of_metadata_space;
    status.discard = discard_mode::ignore;
    EXPECT_EQ(kernel_status_line(status), "0 0/0 0/0 12 ro ignore_discard error_if_no_space - 0 ");
    status.mode = pool_mode::fail;
    EXPECT_EQ(kernel_status_line(status), "Fail");
}

TEST(KernelMessage, WhatTheKernelAcceptsIsAccepted) {
    const auto expect = [](std::string_view text, kernel_message wanted) {
        ASSERT_OK_AND_ASSIGN(const kernel_message parsed, parse_kernel_message(text));
        EXPECT_EQ(parsed, wanted) << text;
    };
    expect("create_thin 0", {kernel_verb::create_thin, 0, 0});
    expect("create_thin 010", {kernel_verb::create_thin, 10, 0});
    expect("CREATE_THIN 5", {kernel_verb::create_thin, 5, 0});
    expect("  create_thin\t+16777215 ", {kernel_verb::create_thin, 16777215, 0});
    expect("create_snap 5 0", {kernel_verb::create_snap, 5, 0});
    expect("delete 5", {kernel_verb::delete_thin, 5, 0});
    expect("set_transaction_id 18446744073709551615 3",
           {kernel_verb::set_transaction_id, UINT64_MAX, 3});
    expect("reserve_metadata_snap", {kernel_verb::reserve_metadata_snap, 0, 0});
    expect("release_metadata_snap", {kernel_verb::release_metadata_snap, 0, 0});
}

TEST(KernelMessage, WhatTheKernelRefusesIsEinval) {
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
        const auto parsed = parse_kernel_message(text);
        ASSERT_THAT(parsed, HasCode(error_code::invalid_argument)) << text;
        EXPECT_EQ(parsed.error().to_errno(), EINVAL);
    }
}

TEST(KernelTable, NamesOnlyWhatDiffersFromTheDefaults) {
    pool_status status;
    status.data_total_blocks = 1024;
    status.data_block_size_sectors = 128;
    pool_file file;
    EXPECT_EQ(pool_table_line(status, file, "/m", "/d"), "0 131072 thin-pool /m /d 128 0 0");
    file.zero_new_blocks = false;
    file.discard = discard_mode::no_passdown;
    file.error_if_no_space = true;
    file.read_only = true;
    file.low_water_blocks = 9;
    EXPECT_EQ(pool_table_line(status, file, "/m", "/d"),
              "0 131072 thin-pool /m /d 128 9 4 skip_block_zeroing no_discard_passdown read_only "
              "error_if_no_space");
    EXPECT_EQ(thin_table_line(1 << 20, "/dev/mapper/p", device_id(3)),
              "0 2048 thin /dev/mapper/p 3");
}

}  // namespace
}  // namespace uthin
