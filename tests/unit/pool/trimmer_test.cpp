// Passing discards down to the data device.
#include "pool/trimmer.h"

#include <chrono>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using namespace std::chrono_literals;
using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;

constexpr std::uint64_t block_bytes = 64 << 10;

test::rig_options with(discard_mode mode, bool threads) {
    test::rig_options options;
    options.threads = threads;
    options.pool.discard = mode;
    options.pool.commit_interval = 1h;
    return options;
}

std::uint64_t discards(pool_rig& rig) {
    return rig.data_faults.count(operation_kind::discard);
}

// The trimmer works beside us.
void wait_for_blocks(pool_rig& rig, std::uint64_t blocks) {
    for (int i = 0; i < 2000 && rig->counters().passed_down_blocks < blocks; ++i) {
        std::this_thread::sleep_for(5ms);
    }
    EXPECT_EQ(rig->counters().passed_down_blocks, blocks);
}

TEST(Trimmer, DiscardsWhatAVolumeDiscardedAfterTheCommit) {
    for (const bool threads : {true, false}) {
        pool_rig rig(with(discard_mode::passdown, threads));
        auto volume = rig.make(0, 32 * block_bytes);
        ASSERT_OK(volume->write(0, pattern(1, 32 * block_bytes)));
        ASSERT_OK(rig->commit());
        ASSERT_OK(volume->discard(4 * block_bytes, 8 * block_bytes));
        EXPECT_EQ(discards(rig), 0U);
        ASSERT_OK(rig->commit());
        wait_for_blocks(rig, 8);
        EXPECT_EQ(discards(rig), 1U) << "neighbours go down in one piece";
        EXPECT_EQ(read_all(*volume, 0, 4 * block_bytes), pattern(1, 4 * block_bytes));
    }
}

TEST(Trimmer, LeavesSharedBlocksAlone) {
    pool_rig rig(with(discard_mode::passdown, false));
    auto volume = rig.make(0, 8 * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 8 * block_bytes)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->discard(0, 8 * block_bytes));
    ASSERT_OK(rig->commit());
    EXPECT_EQ(discards(rig), 0U);
    EXPECT_EQ(read_all(*rig.open_volume(1, 8 * block_bytes), 0, 8 * block_bytes),
              pattern(1, 8 * block_bytes));
    ASSERT_OK(rig->delete_thin(device_id(1)));
    EXPECT_EQ(rig->counters().passed_down_blocks, 8U) << "its last owner is gone";
}

TEST(Trimmer, LeavesWhatAMetadataSnapshotOrAViewNeedsAlone) {
    pool_rig rig(with(discard_mode::passdown, false));
    auto volume = rig.make(0, 8 * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 8 * block_bytes)));
    ASSERT_OK(rig->reserve_metadata_snap());
    ASSERT_OK(volume->discard(0, 2 * block_bytes));
    ASSERT_OK(rig->commit());
    EXPECT_EQ(discards(rig), 0U);
    ASSERT_OK(rig->release_metadata_snap());
    EXPECT_EQ(rig->counters().passed_down_blocks, 2U);
    {
        ASSERT_OK_AND_ASSIGN(const auto view, rig->create_view());
        ASSERT_OK(volume->discard(2 * block_bytes, 2 * block_bytes));
        ASSERT_OK(rig->commit());
        EXPECT_EQ(rig->counters().passed_down_blocks, 2U);
    }
    ASSERT_OK(rig->commit());
    // Forgotten meanwhile; trim() finds it, with all that never was in use.
    ASSERT_OK_AND_ASSIGN(const std::uint64_t trimmed, rig->trim());
    EXPECT_EQ(trimmed, (1024 - 4) * block_bytes);
}

TEST(Trimmer, OtherModesPassNothingDown) {
    for (const discard_mode mode : {discard_mode::no_passdown, discard_mode::ignore}) {
        pool_rig rig(with(mode, true));
        auto volume = rig.make(0, 8 * block_bytes);
        ASSERT_OK(volume->write(0, pattern(1, 8 * block_bytes)));
        ASSERT_OK(rig.snapshot(0, 1));
        ASSERT_OK(rig->delete_thin(device_id(1)));
        static_cast<void>(volume->discard(0, 8 * block_bytes));
        ASSERT_OK(rig->commit());
        EXPECT_THAT(rig->trim(), HasCode(error_code::unsupported));
        EXPECT_EQ(discards(rig), 0U);
    }
}

TEST(Trimmer, AFailedDiscardHarmsNobody) {
    pool_rig rig(with(discard_mode::passdown, false));
    auto volume = rig.make(0, 8 * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 8 * block_bytes)));
    io::fault_rule rule;
    rule.kinds = {operation_kind::discard};
    rule.persistent = true;
    rig.data_faults.arm(rule);
    ASSERT_OK(volume->discard(0, 8 * block_bytes));
    ASSERT_OK(rig->commit());
    EXPECT_EQ(rig->counters().passed_down_blocks, 0U);
    EXPECT_EQ(rig->mode(), pool_mode::write);
    rig.data_faults.disarm();
    ASSERT_OK(volume->write(0, pattern(2, 8 * block_bytes)));
    EXPECT_EQ(read_all(*volume, 0, 8 * block_bytes), pattern(2, 8 * block_bytes));
}

TEST(Trimmer, AFullPoolWaitsForItInsteadOfRefusing) {
    test::rig_options options = with(discard_mode::passdown, true);
    options.data_blocks = 16;
    options.pool.error_if_no_space = true;
    pool_rig rig(options);
    auto volume = rig.make(0, 64 * block_bytes);
    rig.slow_data.set_delay(operation_kind::discard, 100ms);
    for (std::uint64_t round = 0; round < 6; ++round) {
        ASSERT_OK(volume->write(0, pattern(round, 16 * block_bytes)));
        ASSERT_OK(volume->discard(0, 16 * block_bytes));
        ASSERT_OK(rig->commit());
        std::this_thread::sleep_for(10ms);  // the discard is at the device
    }
    ASSERT_OK(volume->write(32 * block_bytes, pattern(9, 16 * block_bytes)));
    EXPECT_EQ(read_all(*volume, 32 * block_bytes, 16 * block_bytes), pattern(9, 16 * block_bytes));
    EXPECT_GE(discards(rig), 6U);
}

// 16 MiB at 16 MiB/s, in steps of a quarter of a second.
TEST(Trimmer, KeepsToTheRateUntilItIsLifted) {
    test::rig_options options = with(discard_mode::passdown, true);
    options.pool.discard_bytes_per_s = 16ULL << 20;
    options.data_blocks = 256;
    pool_rig rig(options);
    const auto begun = std::chrono::steady_clock::now();
    ASSERT_OK_AND_ASSIGN(const std::uint64_t trimmed, rig->trim());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    EXPECT_EQ(trimmed, 256 * block_bytes);
    EXPECT_GE(took.count(), 0.7) << "the last step need not be waited for";
    EXPECT_EQ(discards(rig), 4U);
    rig->set_discard_rate(1);
    std::thread lift([&] {
        system_clock().sleep_for(std::chrono::milliseconds(200));
        rig->set_discard_rate(0);
    });
    ASSERT_OK(rig->trim());
    lift.join();
}

// The space maps are read anew, and know nothing of the discard that is under way.
void expect_whole_after(const std::function<void(pool_rig&)>& repair) {
    test::rig_options options = with(discard_mode::passdown, true);
    options.data_blocks = 16;
    pool_rig rig(options);
    auto volume = rig.make(0, 64 * block_bytes);
    ASSERT_OK(volume->write(0, pattern(1, 16 * block_bytes)));
    ASSERT_OK(volume->discard(0, 16 * block_bytes));
    rig.slow_data.set_delay(operation_kind::discard, 500ms);
    ASSERT_OK(rig->commit());
    std::this_thread::sleep_for(100ms);  // the discard is at the device
    repair(rig);
    ASSERT_OK(volume->write(32 * block_bytes, pattern(2, 16 * block_bytes)));
    while (discards(rig) == 0) {
        std::this_thread::sleep_for(5ms);
    }
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(read_all(*volume, 32 * block_bytes, 16 * block_bytes), pattern(2, 16 * block_bytes));
}

TEST(Trimmer, ALeakRepairWaitsForTheDiscardUnderWay) {
    expect_whole_after([](pool_rig& rig) { ASSERT_OK(rig->repair_leaks()); });
}

TEST(Trimmer, ThePoolDoesNotGoOnAfterAFailureBeforeTheDiscardUnderWayEnded) {
    expect_whole_after([](pool_rig& rig) {
        rig.metadata_faults.arm({.kinds = {operation_kind::write}});
        EXPECT_FALSE(rig->create_thin(device_id(1)));
        rig.metadata_faults.disarm();
        ASSERT_EQ(rig->mode(), pool_mode::read_only);
        ASSERT_OK(rig->clear_needs_check());
    });
}

}  // namespace
}  // namespace uthin
