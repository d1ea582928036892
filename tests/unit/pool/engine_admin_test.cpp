// Sizes and repairs of an open pool.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"
#include "thin_metadata/checker.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::all_zero;
using test::HasCode;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t block = 64ULL << 10;
constexpr std::uint64_t volume_bytes = 64 * block;

rig_options quiet() {
    rig_options with;
    with.data_blocks = 64;
    with.pool.commit_interval = 1h;
    with.pool.error_if_no_space = true;
    return with;
}

// Data blocks that are allocated and belong to nobody, in a pool that is closed.
void leak(pool_rig& rig, std::uint64_t blocks) {
    ASSERT_OK_AND_ASSIGN(const auto stored, metadata::open(rig.metadata, {}));
    for (std::uint64_t i = 0; i < blocks; ++i) {
        ASSERT_OK(stored->alloc_data_block());
    }
    ASSERT_OK(stored->commit());
    ASSERT_OK(stored->close());
}

thin_metadata::check_report check(pool_rig& rig) {
    EXPECT_OK(rig->commit());
    const auto view = rig->create_view();
    EXPECT_OK(view);
    const auto report = thin_metadata::check_metadata(**view, {});
    EXPECT_OK(report);
    return *report;
}

// ---- repair

TEST(RepairLeaks, GivesTheBlocksBackWhileClientsReadAndWrite) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.make(0, volume_bytes)->write(0, pattern(1, 8 * block)));
    rig.close();
    leak(rig, 20);
    rig.open();
    EXPECT_TRUE(check(rig).has_only_leaks());
    EXPECT_EQ(rig->status()->data_used_blocks, 28U);
    auto volume = rig.open_volume(0, volume_bytes);
    std::atomic<bool> stop{false};
    std::thread client([&] {
        for (std::uint64_t round = 0; !stop; ++round) {
            ASSERT_OK(volume->write(10 * block, pattern(round, 2 * block)));
            ASSERT_EQ(read_all(*volume, 10 * block, 2 * block), pattern(round, 2 * block));
            ASSERT_EQ(read_all(*volume, 0, block), pattern(1, block));
            ASSERT_OK(volume->discard(10 * block, 2 * block));
        }
    });
    for (int i = 0; i < 20; ++i) {
        EXPECT_OK(rig->repair_leaks());
    }
    stop = true;
    client.join();
    EXPECT_TRUE(check(rig).is_clean());
    EXPECT_EQ(rig->status(true)->data_used_blocks, 8U);
    EXPECT_EQ(rig->mode(), pool_mode::write);
    ASSERT_OK(volume->write(8 * block, pattern(2, 56 * block)));  // all of it can be had
    EXPECT_EQ(read_all(*volume, 0, 8 * block), pattern(1, 8 * block));
}

TEST(RepairLeaks, KeepsWhatNoCommitHoldsYet) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.make(0, volume_bytes)->write(0, pattern(1, 8 * block)));
    rig.close();
    leak(rig, 3);
    rig.open();
    auto volume = rig.open_volume(0, volume_bytes);
    ASSERT_OK(volume->write(10 * block, pattern(2, 4 * block)));
    ASSERT_OK(volume->discard(0, 2 * block));
    ASSERT_OK(rig->repair_leaks());
    EXPECT_TRUE(check(rig).is_clean());
    EXPECT_EQ(rig->status()->data_used_blocks, 10U);
    EXPECT_EQ(read_all(*volume, 10 * block, 4 * block), pattern(2, 4 * block));
    EXPECT_TRUE(all_zero(read_all(*volume, 0, 2 * block)));
}

TEST(RepairLeaks, OfAPoolThatNeedsACheckBringsItBack) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.make(0, volume_bytes)->write(0, pattern(1, 8 * block)));
    rig.close();
    leak(rig, 1);
    {
        ASSERT_OK_AND_ASSIGN(const auto stored, metadata::open(rig.metadata, {}));
        ASSERT_OK(stored->set_needs_check());
    }
    rig.open();
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    auto volume = rig.open_volume(0, volume_bytes);
    ASSERT_OK(rig->repair_leaks());
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_FALSE(rig->status()->needs_check);
    EXPECT_OK(volume->write(20 * block, pattern(3, block)));
    EXPECT_EQ(read_all(*volume, 0, 8 * block), pattern(1, 8 * block));
    volume.reset();
    rig.close();
    rig.open();
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_TRUE(check(rig).is_clean());
}

// Once the superblock was written, only a flush says whether it or the old one is found again.
TEST(RepairLeaks, ThatCannotBeWrittenLeavesThePoolAsItWas) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.make(0, volume_bytes)->write(0, pattern(1, 8 * block)));
    rig.close();
    leak(rig, 3);
    rig.open();
    std::uint64_t in_doubt = 0;
    for (std::uint64_t n = 1;; ++n) {
        ASSERT_LT(n, 100U);
        rig.metadata_faults.arm(
            {.kinds = {operation_kind::write, operation_kind::flush}, .nth = n});
        const auto repaired = rig->repair_leaks();
        const bool injected = rig.metadata_faults.injected() != 0;
        rig.metadata_faults.disarm();
        if (!injected) {
            EXPECT_OK(repaired);
            EXPECT_GT(n, 3U);
            break;
        }
        EXPECT_THAT(repaired, HasCode(error_code::io_error));
        if (rig->mode() == pool_mode::fail) {
            ++in_doubt;
            rig.close();
            rig.open();
        }
        ASSERT_EQ(rig->mode(), pool_mode::write);
        EXPECT_EQ(read_all(*rig.open_volume(0, volume_bytes), 0, block), pattern(1, block));
    }
    EXPECT_EQ(in_doubt, 2U);  // the superblock and its flush
    EXPECT_TRUE(check(rig).is_clean());
}

TEST(ClearNeedsCheck, LetsThePoolGoOnButKeepsWhatWasLostLost) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    ASSERT_OK(rig->clear_needs_check());
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_TRUE(all_zero(read_all(*volume, 0, block)));
    EXPECT_OK(volume->write(0, pattern(2, block)));
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    volume.reset();
    volume = rig.open_volume(0, volume_bytes);
    EXPECT_OK(volume->flush());
    EXPECT_EQ(read_all(*volume, 0, block), pattern(2, block));
}

// The block that a slow write still fills was freed by the abort: nobody may get it before.
TEST(ClearNeedsCheck, WaitsForWritesThatBeganBeforeTheFailure) {
    pool_rig rig(quiet());
    auto slow = rig.make(0, volume_bytes);
    auto other = rig.make(1, volume_bytes);
    rig.slow_data.set_delay(io::operation_kind::write, 300ms);
    std::thread writer([&] {
        const auto done = slow->write(0, pattern(1, block));
        EXPECT_THAT(done, HasCode(error_code::io_error));  // its transaction is gone
    });
    while (rig->counters().executor_requests < 5) {
        std::this_thread::sleep_for(1ms);
    }
    std::this_thread::sleep_for(50ms);
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    static_cast<void>(
        rig->with_metadata([](metadata& stored) { return stored.set_transaction_id(0, 5); }));
    EXPECT_FALSE(rig->commit());
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    ASSERT_OK(rig->clear_needs_check());
    rig.slow_data.set_delay(io::operation_kind::write, 0ms);
    ASSERT_OK(other->write(0, pattern(2, 60 * block)));
    writer.join();
    EXPECT_EQ(read_all(*other, 0, 60 * block), pattern(2, 60 * block));
}

// The same of a read: the block was freed by the abort, and what it holds is soon somebody else's.
TEST(ClearNeedsCheck, WaitsForReadsThatBeganBeforeTheFailure) {
    pool_rig rig(quiet());
    auto slow = rig.make(0, volume_bytes);
    auto other = rig.make(1, volume_bytes);
    ASSERT_OK(slow->write(0, pattern(1, block)));  // no commit holds it
    rig.slow_data.set_delay(io::operation_kind::read, 500ms);
    std::vector<std::byte> bytes(block);
    std::thread reader([&] { EXPECT_OK(slow->read(0, bytes)); });
    std::this_thread::sleep_for(50ms);
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_FALSE(rig->commit());
    ASSERT_EQ(rig->mode(), pool_mode::read_only);
    ASSERT_OK(rig->clear_needs_check());
    rig.slow_data.set_delay(io::operation_kind::read, 0ms);
    ASSERT_OK(other->write(0, pattern(2, 60 * block)));
    reader.join();
    EXPECT_EQ(bytes, pattern(1, block));
}

TEST(ClearNeedsCheck, OfAPoolThatWasOpenedReadOnlyIsRefused) {
    pool_rig rig(quiet());
    rig.close();
    {
        ASSERT_OK_AND_ASSIGN(const auto stored, metadata::open(rig.metadata, {}));
        ASSERT_OK(stored->set_needs_check());
    }
    rig.open({.read_only = true});
    EXPECT_FALSE(rig->clear_needs_check());
    EXPECT_THAT(rig->repair_leaks(), HasCode(error_code::read_only));
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(rig->status()->needs_check);
    rig.close();
    rig.open();
    ASSERT_OK(rig->clear_needs_check());
}

// ---- sizes

TEST(Growth, OfDataThatTheMetadataCannotDescribeIsRefusedAndHarmless) {
    rig_options with = quiet();
    with.metadata_bytes = 128 * metadata_block_size_bytes;
    pool_rig rig(with);
    auto volume = rig.make(0, volume_bytes);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    // 200 bitmaps more.
    constexpr std::uint64_t wanted = 200 * 16'000;
    ASSERT_OK(rig.data.grow(wanted * block));
    const auto refused = rig->grow_data();
    ASSERT_THAT(refused, HasCode(error_code::no_metadata_space));
    EXPECT_NE(refused.error().message().find("grow the metadata first"), std::string::npos);
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_EQ(rig->status()->data_total_blocks, 64U);
    ASSERT_OK(rig->grow_data(100));
    ASSERT_OK(rig.metadata.grow(400 * metadata_block_size_bytes));
    ASSERT_OK(rig->grow_metadata());
    ASSERT_OK(rig->grow_data());
    EXPECT_EQ(rig->status()->data_total_blocks, wanted);
    EXPECT_EQ(rig->mode(), pool_mode::write);
}

TEST(Growth, UpToTheLastBlockThatFitsNeverCostsTheWriteMode) {
    for (std::uint64_t bitmaps = 70; bitmaps < 130; bitmaps += 3) {
        rig_options with = quiet();
        with.metadata_bytes = 128 * metadata_block_size_bytes;
        pool_rig rig(with);
        rig.do_not_judge();
        const std::uint64_t wanted = bitmaps * 16'320;
        ASSERT_OK(rig.data.grow(wanted * block));
        const auto grown = rig->grow_data();
        EXPECT_TRUE(grown || grown.error().code() == error_code::no_metadata_space)
            << grown.error().to_string();
        EXPECT_FALSE(rig->status()->needs_check);
        EXPECT_NE(rig->mode(), pool_mode::read_only) << rig->mode_cause();
        EXPECT_TRUE(check(rig).is_clean());
    }
}

TEST(Growth, IsRefusedReadOnlyBeyondTheDeviceAndBackwards) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.data.grow(100 * block));
    ASSERT_OK(rig.metadata.grow((4ULL << 20) + 64 * metadata_block_size_bytes));
    const std::uint64_t metadata_blocks = rig->status()->metadata_total_blocks;
    EXPECT_THAT(rig->grow_data(101), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->grow_data(63), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->grow_data(UINT64_MAX), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->grow_metadata(metadata_blocks + 65), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->grow_metadata(metadata_blocks - 1), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->grow_metadata(UINT64_MAX), HasCode(error_code::invalid_argument));
    rig.close();
    rig.metadata_faults.reset_counts();
    rig.open({.read_only = true});
    EXPECT_THAT(rig->grow_data(), HasCode(error_code::read_only));
    EXPECT_THAT(rig->grow_metadata(), HasCode(error_code::read_only));
    EXPECT_EQ(rig->status()->data_total_blocks, 64U);
    EXPECT_EQ(rig->status()->metadata_total_blocks, metadata_blocks);
    rig.close();
    EXPECT_EQ(rig.metadata_faults.count(operation_kind::write), 0U);
    rig.open();
    ASSERT_OK(rig->grow_data(70));
    ASSERT_OK(rig->grow_metadata());
    EXPECT_EQ(rig->status()->data_total_blocks, 70U);
    EXPECT_EQ(rig->status()->metadata_total_blocks, metadata_blocks + 64);
}

TEST(Growth, AfterTheTimeoutBringsWritingBack) {
    rig_options with = quiet();
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 50ms;
    pool_rig rig(with);
    auto volume = rig.make(0, 2 * volume_bytes);
    EXPECT_THAT(volume->write(0, pattern(1, 70 * block)), HasCode(error_code::no_data_space));
    ASSERT_TRUE(rig->status()->error_if_no_space);
    ASSERT_OK(rig.data.grow(80 * block));
    ASSERT_OK(rig->grow_data());
    EXPECT_FALSE(rig->status()->error_if_no_space);
    ASSERT_OK(volume->write(0, pattern(1, 70 * block)));
}

// ---- sizes of volumes

TEST(Shrinking, ThatFindsNoSpaceForTheLastBlockCanBeRepeated) {
    rig_options with = quiet();
    with.data_blocks = 4;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * block);
    ASSERT_OK(volume->write(0, pattern(1, 4 * block)));
    ASSERT_OK(rig.snapshot(0, 1));  // the last block is to be copied, and no block is free
    EXPECT_THAT(volume->set_size(3 * block + 512), HasCode(error_code::no_data_space));
    EXPECT_EQ(volume->size_bytes(), 4 * block);
    EXPECT_THAT(volume->set_size(3 * block + 512), HasCode(error_code::no_data_space));
    ASSERT_OK(rig.data.grow(5 * block));
    ASSERT_OK(rig->grow_data());
    ASSERT_OK(volume->set_size(3 * block + 512));
    ASSERT_OK(volume->set_size(4 * block));
    std::vector<std::byte> kept = pattern(1, 4 * block);
    kept.resize(3 * block + 512);
    EXPECT_EQ(read_all(*volume, 0, kept.size()), kept);
    EXPECT_TRUE(all_zero(read_all(*volume, 3 * block + 512, block - 512)));
}

}  // namespace
}  // namespace uthin
