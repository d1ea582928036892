#include "pool/target_status.h"

#include <gtest/gtest.h>

namespace uthin {
namespace {

TEST(TargetStatus, IsTheKernelsLineByteForByte) {
    // Recorded from Linux 6.1: a fresh pool, and the same with needs_check.
    pool_status status;
    status.metadata_used_blocks = 214;
    status.metadata_total_blocks = 2048;
    status.data_used_blocks = 2;
    status.data_total_blocks = 1024;
    status.discard = discard_mode::no_passdown;
    status.metadata_low_watermark_blocks = 512;
    EXPECT_EQ(pool_status_line(status),
              "0 214/2048 2/1024 - rw no_discard_passdown queue_if_no_space - 512 ");
    status.metadata_used_blocks = 213;
    status.data_used_blocks = 0;
    status.mode = pool_mode::read_only;
    status.needs_check = true;
    EXPECT_EQ(pool_status_line(status),
              "0 213/2048 0/1024 - ro no_discard_passdown queue_if_no_space needs_check 512 ");
}

TEST(TargetStatus, HasAWordForEveryMode) {
    pool_status status;
    status.metadata_snap = metadata_block(12);
    status.error_if_no_space = true;
    status.mode = pool_mode::out_of_data_space;
    EXPECT_EQ(pool_status_line(status),
              "0 0/0 0/0 12 out_of_data_space discard_passdown error_if_no_space - 0 ");
    status.mode = pool_mode::out_of_metadata_space;
    status.discard = discard_mode::ignore;
    EXPECT_EQ(pool_status_line(status), "0 0/0 0/0 12 ro ignore_discard error_if_no_space - 0 ");
    status.mode = pool_mode::fail;
    EXPECT_EQ(pool_status_line(status), "Fail");
}

TEST(TargetStatus, APoolThatCannotTellSaysSo) {
    EXPECT_EQ(status_line_of_failure(error(error_code::failed, "")), "Fail");
    EXPECT_EQ(status_line_of_failure(error(error_code::io_error, "")), "Error");
}

TEST(TargetStatus, AThinCountsWholeBlocks) {
    // Recorded: a thin of 200 sectors, both blocks of 128 written; one never written.
    EXPECT_EQ(thin_status_line(2, virtual_block(1), 128), "256 255");
    EXPECT_EQ(thin_status_line(0, std::nullopt, 128), "0 -");
    EXPECT_EQ(thin_status_line(1, virtual_block(15), 128), "128 2047");
}

}  // namespace
}  // namespace uthin
