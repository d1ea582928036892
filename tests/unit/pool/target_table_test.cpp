#include "pool/target_table.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "support/matchers.h"

namespace uthin {
namespace {

using test::HasCode;

result<pool_table> parse_pool(std::string_view text, table_dialect dialect) {
    const auto line = parse_target_line(text);
    if (!line) {
        return std::unexpected(line.error());
    }
    return parse_pool_table(*line, dialect);
}

result<thin_table> parse_thin(std::string_view text) {
    const auto line = parse_target_line(text);
    if (!line) {
        return std::unexpected(line.error());
    }
    return parse_thin_table(*line);
}

TEST(TargetTable, APoolsWordsArriveInTheirFields) {
    ASSERT_OK_AND_ASSIGN(
        const pool_table table,
        parse_pool("0 131072 thin-pool /dev/m /dev/d 384 +7 2 SKIP_block_zeroing read_only",
                   table_dialect::strict_kernel));
    EXPECT_EQ(table.length_sectors, 131072U);
    EXPECT_EQ(table.metadata_device, "/dev/m");
    EXPECT_EQ(table.data_device, "/dev/d");
    EXPECT_EQ(table.block_size_sectors, 384U);
    EXPECT_EQ(table.data_blocks(), 341U);
    EXPECT_EQ(table.low_water_blocks, 7U);
    EXPECT_TRUE(table.features.skip_block_zeroing);
    EXPECT_TRUE(table.features.read_only);
    EXPECT_FALSE(table.features.error_if_no_space);
}

TEST(TargetTable, WhatWasPrintedParsesToTheSameTable) {
    for (unsigned bits = 0; bits < 32; ++bits) {
        pool_table table{2048, "/dev/meta data", R"(/dev/back\slash)", 128, 5, {}};
        table.features = {(bits & 1U) != 0, (bits & 2U) != 0, (bits & 4U) != 0, (bits & 8U) != 0,
                          (bits & 16U) != 0};
        const std::string line = format_table(table);
        ASSERT_OK_AND_ASSIGN(const pool_table again, parse_pool(line, table_dialect::uthin));
        EXPECT_EQ(again, table) << line;
        EXPECT_EQ(line + " ", "0 2048 thin-pool " + table_status_line(table));
    }
    const thin_table plain{2048, "/dev/mapper/pool", device_id(7), ""};
    EXPECT_EQ(format_table(plain), "0 2048 thin /dev/mapper/pool 7");
    const thin_table based{2048, "/dev/mapper/pool", device_id(7), "/dev/base image"};
    ASSERT_OK_AND_ASSIGN(const thin_table again, parse_thin(format_table(based)));
    EXPECT_EQ(again, based);
}

TEST(TargetTable, TheStatusLineIsTheKernelsByteForByte) {
    // Recorded from Linux 6.12.
    ASSERT_OK_AND_ASSIGN(const pool_table plain, parse_pool("0 131072 thin-pool 98:0 98:16 128 0",
                                                            table_dialect::strict_kernel));
    EXPECT_EQ(table_status_line(plain), "98:0 98:16 128 0 0 ");
    ASSERT_OK_AND_ASSIGN(
        const pool_table twice,
        parse_pool("0 131072 thin-pool 98:0 98:16 128 0 2 skip_block_zeroing skip_block_zeroing",
                   table_dialect::strict_kernel));
    EXPECT_EQ(table_status_line(twice), "98:0 98:16 128 0 1 skip_block_zeroing ");
    ASSERT_OK_AND_ASSIGN(
        const pool_table full,
        parse_pool("0 131072 thin-pool 98:0 98:16 128 0 4 error_if_no_space ignore_discard "
                   "no_discard_passdown skip_block_zeroing",
                   table_dialect::strict_kernel));
    EXPECT_EQ(table_status_line(full),
              "98:0 98:16 128 0 4 skip_block_zeroing ignore_discard no_discard_passdown "
              "error_if_no_space ");
}

TEST(TargetTable, OnlyTheKernelsDialectDropsWordsAtTheEndAndStopsAtFourFeatures) {
    const std::string junk = "0 128 thin-pool /m /d 128 0 1 read_only trailing junk";
    EXPECT_OK(parse_pool(junk, table_dialect::strict_kernel));
    EXPECT_THAT(parse_pool(junk, table_dialect::uthin), HasCode(error_code::invalid_argument));
    const std::string five =
        "0 128 thin-pool /m /d 128 0 5 skip_block_zeroing ignore_discard no_discard_passdown "
        "read_only error_if_no_space";
    EXPECT_THAT(parse_pool(five, table_dialect::strict_kernel),
                HasCode(error_code::invalid_argument));
    ASSERT_OK_AND_ASSIGN(const pool_table all, parse_pool(five, table_dialect::uthin));
    EXPECT_EQ(all.features, (pool_features{true, true, true, true, true}));
}

TEST(TargetTable, ALivePoolTakesOnlyATableOfItself) {
    const pool_table live{1280, "/m", "/d", 128, 0, {}};
    EXPECT_OK(check_pool_reload(live, {2560, "/m", "/d", 128, 9, {.read_only = true}},
                                table_dialect::uthin));
    EXPECT_THAT(check_pool_reload(live, {1280, "/x", "/d", 128, 0, {}}, table_dialect::uthin),
                HasCode(error_code::invalid_argument));
    EXPECT_THAT(check_pool_reload(live, {1280, "/m", "/x", 128, 0, {}}, table_dialect::uthin),
                HasCode(error_code::busy));
    EXPECT_THAT(check_pool_reload(live, {1280, "/m", "/d", 128, 0, {.ignore_discard = true}},
                                  table_dialect::uthin),
                HasCode(error_code::invalid_argument));
    const pool_table other_block{1280, "/m", "/d", 256, 0, {}};
    EXPECT_THAT(check_pool_reload(live, other_block, table_dialect::uthin),
                HasCode(error_code::invalid_argument));
    EXPECT_OK(check_pool_reload(live, other_block, table_dialect::strict_kernel));
}

TEST(TargetTable, ARefusalIsEinvalAndNamesTheWord) {
    const auto refused = parse_pool("0 128 thin-pool /m /d 129 0", table_dialect::uthin);
    ASSERT_THAT(refused, HasCode(error_code::invalid_argument));
    EXPECT_EQ(refused.error().to_errno(), EINVAL);
    EXPECT_NE(refused.error().message().find("'129'"), std::string::npos);
    for (const char* text :
         {"", "0 128", "x 128 thin /p 0", "0 x thin /p 0", "1 128 thin /p 0", "0 0 thin /p 0",
          "0 128 thin", "0 128 thin /p", "0 128 thin /p x", "0 128 thin /p -1",
          "0 128 thin /p 16777216", "0 128 thin /p 0 /p", "0 128 thin /p 0 /o more"}) {
        EXPECT_THAT(parse_thin(text), HasCode(error_code::invalid_argument)) << text;
    }
}

}  // namespace
}  // namespace uthin
