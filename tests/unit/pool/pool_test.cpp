// What a pool promises: durability, snapshots, deletion, space, failures.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using io::operation_kind;
using test::all_zero;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t block = 64 * kib;

rig_options quiet() {
    rig_options with;
    with.pool.commit_interval = 1h;  // only what a test asks for is committed
    with.pool.error_if_no_space = true;
    return with;
}

std::uint64_t superblock_writes(pool_rig& rig) {
    return rig->counters().metadata.superblock_writes;
}

// ---- durability

TEST(PoolFlush, OfAnUnchangedVolumeWritesNoSuperblock) {
    pool_rig rig(quiet());
    auto changed = rig.make(0, mib);
    auto unchanged = rig.make(1, mib);
    ASSERT_OK(changed->write(0, pattern(1, 10)));
    const std::uint64_t before = superblock_writes(rig);
    rig.data_faults.reset_counts();
    ASSERT_OK(unchanged->flush());
    EXPECT_EQ(superblock_writes(rig), before);
    EXPECT_EQ(rig.data_faults.count(operation_kind::flush), 1U);
    ASSERT_OK(changed->flush());
    EXPECT_EQ(superblock_writes(rig), before + 1);
    EXPECT_FALSE(changed->changed_since_durable());
    ASSERT_OK(changed->write(5, pattern(1, 10)));
    ASSERT_OK(changed->flush());
    EXPECT_EQ(superblock_writes(rig), before + 1);
    EXPECT_EQ(rig->counters().clean_flushes, 2U);
}

TEST(PoolFlush, KeepsWhatWasWrittenBeforeItAndOnlyThat) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    ASSERT_OK(volume->flush());
    ASSERT_OK(volume->write(5 * block, pattern(2, 100)));
    volume.reset();
    rig.drop();
    rig.open();
    volume = rig.open_volume(0, mib);
    EXPECT_EQ(read_all(*volume, 0, 100), pattern(1, 100));
    EXPECT_TRUE(all_zero(read_all(*volume, 5 * block, 100)));
}

TEST(PoolFlush, AFuaWriteIsThereAfterACrash) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(block - 50, pattern(1, 100), true));
    ASSERT_OK(volume->write_zeroes(3 * block, 100, {.may_unmap = false, .fua = true}));
    volume.reset();
    rig.drop();
    rig.open();
    volume = rig.open_volume(0, mib);
    EXPECT_EQ(read_all(*volume, block - 50, 100), pattern(1, 100));
    EXPECT_EQ(*volume->mapped_blocks(), 3U);
}

TEST(PoolFlush, OfAnOverwriteWithFuaCommitsNothing) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, block), true));
    const std::uint64_t before = superblock_writes(rig);
    ASSERT_OK(volume->write(100, pattern(2, 100), true));
    EXPECT_EQ(superblock_writes(rig), before);
}

TEST(PoolFlush, DoesNotShareACommitWhoseDataFlushHadBegun) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 10)));
    rig.data_faults.reset_counts();
    rig.slow_data.set_delay(operation_kind::flush, 300ms);
    std::thread first([&] { EXPECT_OK(volume->flush()); });
    std::this_thread::sleep_for(100ms);
    // A hit: completes at once, while the commit's data flush runs.
    ASSERT_OK(volume->write(20, pattern(2, 10)));
    ASSERT_EQ(rig.data_faults.count(operation_kind::flush), 0U);
    ASSERT_OK(volume->flush());
    EXPECT_GE(rig.data_faults.count(operation_kind::flush), 2U);
    first.join();
}

TEST(PoolFlush, ManyAtOnceShareCommits) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, 64 * mib);
    rig.slow_data.set_delay(operation_kind::flush, 20ms);
    const std::uint64_t before = superblock_writes(rig);
    std::vector<std::thread> clients;
    for (std::uint64_t i = 0; i < 16; ++i) {
        clients.emplace_back([&, i] {
            for (std::uint64_t n = 0; n < 4; ++n) {
                EXPECT_OK(volume->write((i * 4 + n) * block, pattern(i, 100), true));
            }
        });
    }
    for (std::thread& one : clients) {
        one.join();
    }
    EXPECT_LT(superblock_writes(rig) - before, 30U);
}

TEST(PoolCommit, ComesByItselfAfterTheIntervalAndOnlyOnce) {
    rig_options with = quiet();
    with.pool.commit_interval = 50ms;
    pool_rig rig(with);
    auto volume = rig.make(0, mib);
    const std::uint64_t before = superblock_writes(rig);
    ASSERT_OK(volume->write(0, pattern(1, 10)));
    std::this_thread::sleep_for(500ms);
    EXPECT_EQ(superblock_writes(rig), before + 1);
    EXPECT_FALSE(volume->changed_since_durable());
}

TEST(PoolCommit, OfNothingWritesNothing) {
    pool_rig rig(quiet());
    ASSERT_OK(rig->commit());
    const std::uint64_t before = rig->counters().metadata.blocks_written;
    ASSERT_OK(rig->commit());
    ASSERT_OK(rig->status(true));
    EXPECT_EQ(rig->counters().metadata.blocks_written, before);
}

TEST(PoolCommit, WhileABlockIsInFlightLeaksNothing) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    rig.slow_data.set_delay(operation_kind::write, 300ms);
    std::thread writer([&] { EXPECT_OK(volume->write(0, pattern(1, 100))); });
    std::this_thread::sleep_for(100ms);
    ASSERT_OK(rig->create_thin(device_id(1)));  // commits
    EXPECT_EQ(*volume->mapped_blocks(), 0U);
    rig.expect_clean();  // as a crash would leave it
    writer.join();
    EXPECT_EQ(*volume->mapped_blocks(), 1U);
    ASSERT_OK(volume->flush());
    EXPECT_EQ(rig->status()->data_used_blocks, 1U);
}

TEST(PoolCommit, OfAMetadataSnapshotWhileABlockIsInFlightLeaksNothing) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    rig.slow_data.set_delay(operation_kind::write, 300ms);
    std::thread writer([&] { EXPECT_OK(volume->write(0, pattern(1, 100))); });
    std::this_thread::sleep_for(100ms);
    ASSERT_OK(rig->reserve_metadata_snap());
    rig.expect_clean();
    writer.join();
    ASSERT_OK(rig->release_metadata_snap());
    ASSERT_OK(volume->flush());
    EXPECT_EQ(rig->status()->data_used_blocks, 1U);
}

// ---- discards beside other requests

TEST(PoolDiscard, DuringACopyWinsAndNothingOldComesBack) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    ASSERT_OK(rig.snapshot(0, 1));
    rig.slow_data.set_delay(operation_kind::write, 300ms);
    std::thread writer([&] { EXPECT_OK(volume->write(100, pattern(2, 10))); });
    std::this_thread::sleep_for(100ms);
    ASSERT_OK(volume->discard(0, block));
    writer.join();
    auto content = read_all(*volume, 0, block);
    EXPECT_EQ(std::memcmp(content.data() + 100, pattern(2, 10).data(), 10), 0);
    EXPECT_TRUE(all_zero(std::span(content).first(100)));
    EXPECT_TRUE(all_zero(std::span(content).subspan(110)));
    EXPECT_EQ(rig->status(true)->data_used_blocks, 2U);
}

// A freed block that is in the committed state needs a commit before it is used again; one that was
// also allocated in the open transaction does not, for the metadata.
TEST(PoolDiscard, AFreedBlockIsNotUsedAgainWhileAReadOfItIsInFlight) {
    for (const bool committed : {false, true}) {
        rig_options with = quiet();
        with.data_blocks = 16;
        pool_rig rig(with);
        auto volume = rig.make(0, 4 * mib);
        const auto old = pattern(1, 16 * block);
        ASSERT_OK(volume->write(0, old));
        if (committed) {
            ASSERT_OK(rig->commit());
        }
        rig.slow_data.set_delay(operation_kind::read, 400ms);
        std::vector<std::byte> seen(block);
        std::thread reader([&] { EXPECT_OK(volume->read(3 * block, seen)); });
        std::this_thread::sleep_for(100ms);
        rig.slow_data.set_delay(operation_kind::read, 0ms);
        EXPECT_OK(volume->discard(3 * block, block));
        EXPECT_OK(volume->write(2 * mib, pattern(2, block)));  // the only free block
        reader.join();
        EXPECT_EQ(std::memcmp(seen.data(), old.data() + 3 * block, block), 0)
            << (committed ? "committed" : "not committed");
    }
}

// The same for a client that does its I/O itself.
TEST(PoolDiscard, AFreedBlockIsNotUsedAgainWhileAClientHasItsExtent) {
    rig_options with = quiet();
    with.data_blocks = 16;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    const auto old = pattern(1, 16 * block);
    ASSERT_OK(volume->write(0, old));
    ASSERT_OK_AND_ASSIGN(io_ticket ticket, volume->begin(io_kind::read));
    ASSERT_OK_AND_ASSIGN(mapped_extent extent, volume->map(ticket, 3 * block, block));
    std::thread other([&] {
        EXPECT_OK(volume->discard(3 * block, block));
        EXPECT_OK(volume->write(2 * mib, pattern(2, block)));  // the only free block
    });
    std::this_thread::sleep_for(200ms);
    std::vector<std::byte> seen(block);
    EXPECT_OK(rig->data_device().read(extent.data_offset_bytes, seen));
    EXPECT_EQ(std::memcmp(seen.data(), old.data() + 3 * block, block), 0);
    extent = {};
    ticket = {};
    other.join();
    EXPECT_EQ(read_all(*volume, 2 * mib, block), pattern(2, block));
}

// ---- snapshots, rollback, deletion

TEST(PoolSnapshots, OfOneCallAreMadeTogetherOrNotAtAll) {
    pool_rig rig(quiet());
    auto a = rig.make(0, mib);
    auto b = rig.make(1, mib);
    ASSERT_OK(a->write(0, pattern(1, 100)));
    ASSERT_OK(b->write(0, pattern(2, 100)));
    const snapshot_request bad[] = {{device_id(0), device_id(10)},
                                    {device_id(10), device_id(11)},
                                    {device_id(9), device_id(12)}};
    EXPECT_THAT(rig->create_snapshots(bad), HasCode(error_code::not_found));
    EXPECT_EQ(rig->list_devices()->size(), 2U);
    const snapshot_request taken[] = {{device_id(0), device_id(10)}, {device_id(1), device_id(0)}};
    EXPECT_THAT(rig->create_snapshots(taken), HasCode(error_code::already_exists));
    EXPECT_EQ(rig->list_devices()->size(), 2U);
    const std::uint64_t before = superblock_writes(rig);
    const snapshot_request good[] = {{device_id(0), device_id(10)}, {device_id(1), device_id(11)}};
    ASSERT_OK(rig->create_snapshots(good));
    EXPECT_EQ(superblock_writes(rig), before + 1);
    EXPECT_EQ(read_all(*rig.open_volume(10, mib), 0, 100), pattern(1, 100));
    EXPECT_EQ(read_all(*rig.open_volume(11, mib), 0, 100), pattern(2, 100));
}

TEST(PoolSnapshots, AreDurableOnReturn) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    ASSERT_OK(rig.snapshot(0, 1));
    volume.reset();
    rig.drop();
    rig.open();
    EXPECT_EQ(read_all(*rig.open_volume(1, mib), 0, 100), pattern(1, 100));
}

TEST(PoolSnapshots, WaitForAWriteInFlightWhileReadsGoOn) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    const auto second = pattern(2, mib);
    rig.slow_data.set_delay(operation_kind::write, 300ms);
    std::atomic<bool> writing = false;
    std::thread writer([&] {
        writing = true;
        EXPECT_OK(volume->write(0, second));
    });
    while (!writing) {
        std::this_thread::yield();
    }
    std::this_thread::sleep_for(100ms);
    std::thread taker([&] { EXPECT_OK(rig.snapshot(0, 1)); });
    std::this_thread::sleep_for(50ms);
    const auto start = std::chrono::steady_clock::now();
    static_cast<void>(read_all(*volume, 0, 100));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 100ms);
    writer.join();
    taker.join();
    EXPECT_EQ(read_all(*rig.open_volume(1, mib), 0, mib), second);
}

TEST(PoolSnapshots, OpenTheDoorBeforeTheyAreDurable) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    rig.slow_metadata.set_delay(operation_kind::flush, 300ms);
    std::thread taker([&] { EXPECT_OK(rig.snapshot(0, 1)); });
    std::this_thread::sleep_for(100ms);
    const auto start = std::chrono::steady_clock::now();
    ASSERT_OK(volume->begin(io_kind::write));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 100ms);
    taker.join();
}

TEST(PoolRollback, GivesTheOldContentBackAndKeepsTheSnapshot) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->write(0, pattern(2, mib)));
    EXPECT_THAT(rig->rollback(device_id(0), device_id(9), device_id(7)),
                HasCode(error_code::not_found));
    EXPECT_THAT(rig->rollback(device_id(0), device_id(1), device_id(1)),
                HasCode(error_code::already_exists));
    ASSERT_OK(rig->rollback(device_id(0), device_id(1), device_id(7)));
    EXPECT_EQ(read_all(*volume, 0, mib), pattern(1, mib));
    ASSERT_OK(volume->write(0, pattern(3, 100)));
    EXPECT_EQ(read_all(*rig.open_volume(1, mib), 0, mib), pattern(1, mib));
    EXPECT_EQ(read_all(*rig.open_volume(7, mib), 0, mib), pattern(2, mib));
    ASSERT_OK(rig->delete_in_background(device_id(7)));
    ASSERT_OK(rig->wait_for_deletion(device_id(7)));
    EXPECT_EQ(rig->status(true)->data_used_blocks, 17U);
}

TEST(PoolDelete, RefusesWhatIsOpenUnknownOrTaken) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    EXPECT_THAT(rig->delete_thin(device_id(0)), HasCode(error_code::busy));
    EXPECT_THAT(rig->delete_in_background(device_id(0)), HasCode(error_code::busy));
    EXPECT_THAT(rig->delete_thin(device_id(3)), HasCode(error_code::not_found));
    EXPECT_THAT(rig->delete_in_background(device_id(3)), HasCode(error_code::not_found));
    EXPECT_THAT(rig->wait_for_deletion(device_id(3)), HasCode(error_code::not_found));
    EXPECT_THAT(rig->create_thin(device_id(0)), HasCode(error_code::already_exists));
    EXPECT_THAT(rig->create_thin(device_id(1ULL << 24)), HasCode(error_code::invalid_argument));
    EXPECT_THAT(rig->open_volume(device_id(3), mib), HasCode(error_code::not_found));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    volume.reset();
    ASSERT_OK(rig->delete_thin(device_id(0)));
    EXPECT_TRUE(rig->list_devices()->empty());
}

TEST(PoolDelete, InTheBackgroundFreesEverythingAndTheId) {
    rig_options with = quiet();
    with.data_blocks = 40000;
    with.metadata_bytes = 16 * mib;
    with.pool.zero_new_blocks = false;
    pool_rig rig(with);
    auto volume = rig.make(0, 40000 * block);
    // Every other block, so that no leaf is cheap.
    for (std::uint64_t i = 0; i < 6000; ++i) {
        ASSERT_OK(volume->write(2 * i * block, pattern(i, 16)));
    }
    volume.reset();
    ASSERT_OK(rig->delete_in_background(device_id(0)));
    EXPECT_THAT(rig->open_volume(device_id(0), mib), ::testing::Not(IsOk()));
    ASSERT_OK(rig->wait_for_deletion(device_id(0)));
    EXPECT_TRUE(rig->deletions().at(0).done);
    EXPECT_EQ(rig->status()->data_used_blocks, 0U);
    ASSERT_OK(rig->create_thin(device_id(0)));
}

TEST(PoolDelete, InTheBackgroundGoesOnAfterACrash) {
    rig_options with = quiet();
    with.data_blocks = 30000;
    with.metadata_bytes = 16 * mib;
    with.pool.zero_new_blocks = false;
    pool_rig rig(with);
    {
        auto volume = rig.make(0, 30000 * block);
        for (std::uint64_t i = 0; i < 15000; ++i) {
            ASSERT_OK(volume->write(2 * (i % 7500) * block + (i / 7500) * block, pattern(i, 1)));
        }
    }
    rig.slow_metadata.set_delay(operation_kind::flush, 20ms);
    ASSERT_OK(rig->delete_in_background(device_id(0)));
    rig.drop();
    rig.slow_metadata.set_delay(operation_kind::flush, 0ms);
    rig.expect_clean();
    rig.open();
    if (!rig->list_devices()->empty()) {
        ASSERT_OK(rig->delete_in_background(device_id(0)));
        ASSERT_OK(rig->wait_for_deletion(device_id(0)));
    }
    EXPECT_EQ(rig->status(true)->data_used_blocks, 0U);
    EXPECT_TRUE(rig->list_devices()->empty());
}

// ---- space

TEST(PoolSpace, AFullPoolRefusesNewBlocksAndRecoversByDeleting) {
    rig_options with = quiet();
    with.data_blocks = 16;
    pool_rig rig(with);
    auto volume = rig.make(0, 2 * mib);
    auto other = rig.make(1, 2 * mib);
    ASSERT_OK(other->write(0, pattern(1, 4 * block)));
    ASSERT_OK(volume->write(0, pattern(2, 12 * block)));
    EXPECT_THAT(volume->write(mib, pattern(3, 10)), HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
    EXPECT_OK(volume->write(5, pattern(3, 10)));  // mapped
    EXPECT_OK(volume->flush());
    EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
    other.reset();
    ASSERT_OK(rig->delete_thin(device_id(1)));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_OK(volume->write(mib, pattern(3, 4 * block)));
    EXPECT_EQ(read_all(*volume, mib, 4 * block), pattern(3, 4 * block));
}

TEST(PoolSpace, BlocksFreedInTheOpenTransactionAreFoundByACommit) {
    rig_options with = quiet();
    with.data_blocks = 16;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    for (std::uint64_t round = 0; round < 10; ++round) {
        ASSERT_OK(volume->write(0, pattern(round, 16 * block)));
        ASSERT_OK(volume->discard(0, 16 * block));
    }
    EXPECT_EQ(rig->mode(), pool_mode::write);
}

TEST(PoolSpace, AHeldWriteGoesOnWhenThereIsSpace) {
    rig_options with = quiet();
    with.data_blocks = 16;
    with.pool.error_if_no_space = false;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    ASSERT_OK(volume->write(0, pattern(1, 14 * block)));
    std::thread writer([&] { EXPECT_OK(volume->write(2 * mib, pattern(2, 5 * block))); });
    while (rig->counters().held_requests == 0) {
        std::this_thread::sleep_for(1ms);
    }
    ASSERT_OK(rig.snapshot(0, 1));  // a held request holds no ticket
    EXPECT_EQ(read_all(*volume, 0, 100), pattern(1, 100));
    ASSERT_OK(rig->delete_thin(device_id(1)));
    ASSERT_OK(volume->discard(0, 8 * block));
    writer.join();
    EXPECT_EQ(read_all(*volume, 2 * mib, 5 * block), pattern(2, 5 * block));
    EXPECT_EQ(rig->mode(), pool_mode::write);
}

TEST(PoolSpace, AHeldWriteFailsAfterTheTimeout) {
    rig_options with = quiet();
    with.data_blocks = 16;
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = 200ms;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT(volume->write(0, pattern(1, 20 * block)), HasCode(error_code::no_data_space));
    EXPECT_GE(std::chrono::steady_clock::now() - start, 200ms);
    EXPECT_TRUE(rig->status()->error_if_no_space);
    EXPECT_THAT(volume->write(0, pattern(1, 20 * block)), HasCode(error_code::no_data_space));
}

TEST(PoolSpace, GrowingTheDataDeviceEndsTheShortage) {
    rig_options with = quiet();
    with.data_blocks = 16;
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    EXPECT_THAT(volume->write(0, pattern(1, 20 * block)), HasCode(error_code::no_data_space));
    EXPECT_THAT(rig->grow_data(17), HasCode(error_code::invalid_argument));
    ASSERT_OK(rig.data.grow(32 * block));
    EXPECT_THAT(rig->grow_data(15), HasCode(error_code::invalid_argument));
    ASSERT_OK(rig->grow_data());
    EXPECT_EQ(rig->mode(), pool_mode::write);
    ASSERT_OK(volume->write(0, pattern(1, 20 * block)));
    EXPECT_EQ(rig->status()->data_total_blocks, 32U);
}

TEST(PoolSpace, LowWaterRaisesAnEvent) {
    rig_options with = quiet();
    with.data_blocks = 16;
    with.pool.low_water_blocks = 5;
    std::atomic<int> events{0};
    with.pool.on_event = [&](pool_event event) {
        events += event == pool_event::low_data_space ? 1 : 0;
    };
    pool_rig rig(with);
    auto volume = rig.make(0, 4 * mib);
    ASSERT_OK(volume->write(0, pattern(1, 10 * block)));
    EXPECT_EQ(events.load(), 0);
    ASSERT_OK(volume->write(10 * block, pattern(1, 3 * block)));
    EXPECT_EQ(events.load(), 1);
}

// ---- failures

TEST(PoolFailure, OfTheCommitLeavesThePoolReadOnlyAndFlushesFailUntilReopened) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    auto clean = rig.make(1, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    ASSERT_OK(volume->flush());
    ASSERT_OK(volume->write(5 * block, pattern(2, 100)));
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(rig->status()->needs_check);
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    EXPECT_TRUE(volume->lost_changes());
    EXPECT_OK(clean->flush());
    EXPECT_EQ(read_all(*volume, 0, 100), pattern(1, 100));
    EXPECT_TRUE(all_zero(read_all(*volume, 5 * block, 100)));
    EXPECT_OK(volume->write(10, pattern(3, 10)));
    EXPECT_THAT(volume->write(7 * block, pattern(3, 10)), HasCode(error_code::read_only));
    EXPECT_THAT(rig->create_thin(device_id(5)), HasCode(error_code::read_only));
    EXPECT_OK(volume->discard(0, mib));
    EXPECT_EQ(rig->counters().ignored_discards, 1U);
    EXPECT_EQ(*volume->mapped_blocks(), 1U);
    volume.reset();
    volume = rig.open_volume(0, mib);
    EXPECT_OK(volume->flush());
}

TEST(PoolFailure, WithADeadMetadataDeviceOnlyCloseWorks) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    rig.metadata_faults.arm({.persistent = true});
    EXPECT_FALSE(volume->flush());
    EXPECT_EQ(rig->mode(), pool_mode::fail);
    EXPECT_THAT(volume->flush(), HasCode(error_code::failed));
    EXPECT_THAT(volume->write(0, pattern(1, 1)), HasCode(error_code::failed));
    std::vector<std::byte> one(1);
    EXPECT_THAT(volume->read(0, one), HasCode(error_code::failed));
    EXPECT_THAT(rig->create_thin(device_id(4)), HasCode(error_code::failed));
    EXPECT_THAT(rig->status(), HasCode(error_code::failed));
    volume.reset();
    static_cast<void>(rig->close());
    rig.drop();
    rig.metadata_faults.disarm();
}

TEST(PoolFailure, OfADataFlushMakesEveryFlushFail) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    auto other = rig.make(1, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    ASSERT_OK(volume->flush());
    ASSERT_OK(other->write(0, pattern(1, 100)));
    rig.data_faults.arm({.kinds = {operation_kind::flush}});
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    EXPECT_THAT(volume->flush(), HasCode(error_code::io_error));
    EXPECT_THAT(other->flush(), HasCode(error_code::io_error));
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_TRUE(all_zero(read_all(*other, 0, 100)));
}

TEST(PoolFailure, OfTheFirstWriteLeavesTheHoleAndLeaksNothing) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    rig.data_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_THAT(volume->write(0, pattern(1, 3 * block)), HasCode(error_code::io_error));
    EXPECT_TRUE(all_zero(read_all(*volume, 0, block)));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_EQ(rig->status(true)->data_used_blocks, 0U);
    ASSERT_OK(volume->write(0, pattern(1, 3 * block)));
}

TEST(PoolFailure, OfTheCopyLeavesTheSharedBlock) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, block)));
    ASSERT_OK(rig.snapshot(0, 1));
    for (const auto kind : {operation_kind::read, operation_kind::write}) {
        rig.data_faults.arm({.kinds = {kind}});
        EXPECT_THAT(volume->write(10, pattern(2, 10)), HasCode(error_code::io_error));
    }
    EXPECT_EQ(read_all(*volume, 0, block), pattern(1, block));
    EXPECT_EQ(rig->status(true)->data_used_blocks, 1U);
}

// ---- the pool as a whole

TEST(Pool, ShowsWhatTheKernelsStatusLineNeeds) {
    rig_options with = quiet();
    with.metadata_bytes = 64 * mib;
    pool_rig rig(with);
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 3 * block)));
    ASSERT_OK(rig->set_transaction_id(0, 7));
    EXPECT_THAT(rig->set_transaction_id(0, 8), HasCode(error_code::invalid_argument));
    ASSERT_OK(rig->reserve_metadata_snap());
    EXPECT_THAT(rig->reserve_metadata_snap(), HasCode(error_code::busy));
    const pool_status now = *rig->status(true);
    EXPECT_EQ(now.transaction_id, 7U);
    EXPECT_EQ(now.metadata_total_blocks, 16384U);
    EXPECT_GT(now.metadata_used_blocks, 1638U);
    EXPECT_EQ(now.data_total_blocks, 1024U);
    EXPECT_EQ(now.data_used_blocks, 3U);
    EXPECT_TRUE(now.metadata_snap.has_value());
    EXPECT_EQ(now.metadata_low_watermark_blocks, 1024U);
    EXPECT_EQ(now.mode, pool_mode::write);
    EXPECT_EQ(now.device_count, 1U);
    ASSERT_OK(rig->release_metadata_snap());
    EXPECT_THAT(rig->release_metadata_snap(), HasCode(error_code::invalid_argument));
    EXPECT_EQ(rig->mode(), pool_mode::write);
}

TEST(Pool, OpenedReadOnlyWritesNothing) {
    pool_rig rig(quiet());
    ASSERT_OK(rig.make(0, mib)->write(0, pattern(1, 100)));
    rig.close();
    rig.metadata_faults.reset_counts();
    rig.data_faults.reset_counts();
    rig.open({.read_only = true});
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    auto volume = rig.open_volume(0, mib);
    EXPECT_EQ(read_all(*volume, 0, 100), pattern(1, 100));
    EXPECT_THAT(volume->write(0, pattern(1, 1)), HasCode(error_code::read_only));
    EXPECT_OK(volume->flush());
    EXPECT_THAT(rig->create_thin(device_id(1)), HasCode(error_code::read_only));
    volume.reset();
    rig.close();
    const io::operation_kinds changes{operation_kind::write, operation_kind::flush,
                                      operation_kind::discard, operation_kind::write_zeroes};
    EXPECT_EQ(rig.metadata_faults.count(changes), 0U);
    EXPECT_EQ(rig.data_faults.count(changes), 0U);
}

TEST(Pool, MerelyOpenedAndClosedWritesNothing) {
    pool_rig rig(quiet());
    rig.close();
    rig.metadata_faults.reset_counts();
    rig.open();
    ASSERT_OK(rig->status(true));
    rig.close();
    EXPECT_EQ(rig.metadata_faults.count(operation_kind::write), 0U);
}

TEST(Pool, RefusesADataDeviceThatIsTooSmall) {
    pool_rig rig(quiet());
    rig.close();
    io::memory_device small(100 * block);
    pool_options with;
    auto opened = pool::open(std::make_unique<test::borrowed_device>(rig.metadata),
                             std::make_unique<test::borrowed_device>(small), with, system_clock());
    EXPECT_THAT(opened, HasCode(error_code::invalid_argument));
}

TEST(Pool, VolumesOfAClosedPoolSayFailed) {
    pool_rig rig(quiet());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 100)));
    rig.close();
    std::vector<std::byte> one(1);
    EXPECT_THAT(volume->read(0, one), HasCode(error_code::failed));
    EXPECT_THAT(volume->write(0, one), HasCode(error_code::failed));
    EXPECT_THAT(volume->flush(), HasCode(error_code::failed));
    volume.reset();
    rig.open();
    EXPECT_EQ(read_all(*rig.open_volume(0, mib), 0, 100), pattern(1, 100));
}

TEST(Pool, RunsMetadataChangesOnItsExecutor) {
    pool_rig rig(quiet());
    ASSERT_OK(rig->with_metadata([](metadata& inner) { return inner.create_thin(device_id(3)); }));
    ASSERT_OK(rig->commit());
    EXPECT_EQ(rig->list_devices()->size(), 1U);
    EXPECT_THAT(rig->with_metadata([](metadata& inner) { return inner.create_thin(device_id(3)); }),
                HasCode(error_code::already_exists));
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_THAT(rig->with_metadata([](metadata&) -> result<void> {
        return fail(error_code::corrupt, "invented");
    }),
                HasCode(error_code::corrupt));
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_NE(rig->mode_cause(), "");
}

TEST(Pool, ComesUpReadOnlyWhenItNeedsACheck) {
    pool_rig rig(quiet());
    ASSERT_OK(rig->with_metadata([](metadata& inner) { return inner.set_needs_check(); }));
    rig.close();
    rig.open();
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_THAT(rig->grow_data(), HasCode(error_code::needs_check));
}

}  // namespace
}  // namespace uthin
