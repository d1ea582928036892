#include "pool/event_log.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/result.h"
#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using pool_engine::event_log;
using test::HasCode;
using test::pattern;
using test::pool_rig;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t block = 64ULL << 10;

manual_clock& at_second(manual_clock& time, std::int64_t second) {
    time.advance(std::chrono::seconds(second) - time.monotonic());
    return time;
}

TEST(EventLog, GivesWhatCameAfterANumber) {
    manual_clock time;
    event_log log(at_second(time, 100));
    const std::uint64_t start = log.after(0, 0s).last;
    log.add({.event = pool_event::low_data_space, .text = "a"});
    time.advance(2s);
    log.add({.event = pool_event::mode_changed, .mode = pool_mode::read_only, .text = "b"});
    const pool_events all = log.after(0, 0s);
    ASSERT_EQ(all.events.size(), 2U);
    EXPECT_FALSE(all.some_lost);
    EXPECT_EQ(all.events[0].number, start + 1);
    EXPECT_EQ(all.events[0].unix_seconds, 100);
    EXPECT_EQ(all.events[1].unix_seconds, 102);
    EXPECT_EQ(all.events[1].mode, pool_mode::read_only);
    EXPECT_EQ(all.last, start + 2);
    EXPECT_EQ(log.after(start + 1, 0s).events.size(), 1U);
    EXPECT_TRUE(log.after(start + 2, 0s).events.empty());
    EXPECT_FALSE(log.after(start + 2, 0s).some_lost);
}

TEST(EventLog, SaysWhenSomeAreLost) {
    manual_clock time;
    event_log log(at_second(time, 100));
    const std::uint64_t start = log.after(0, 0s).last;
    for (std::size_t i = 0; i < event_log::kept_max + 1; ++i) {
        log.add({});
    }
    EXPECT_EQ(log.after(start + 1, 0s).events.size(), event_log::kept_max);
    EXPECT_FALSE(log.after(start + 1, 0s).some_lost);
    EXPECT_TRUE(log.after(start, 0s).some_lost);
    EXPECT_TRUE(log.after(0, 0s).some_lost);
}

TEST(EventLog, ANumberOfAnEarlierOpeningIsOlderAndTellsOfALoss) {
    manual_clock time;
    event_log first(at_second(time, 100));
    for (int i = 0; i < 1000; ++i) {
        first.add({});
    }
    const std::uint64_t known = first.after(0, 0s).last;
    event_log second(at_second(time, 101));
    const pool_events nothing = second.after(known, 1h);  // does not wait
    EXPECT_TRUE(nothing.some_lost);
    EXPECT_TRUE(nothing.events.empty());
    EXPECT_GT(nothing.last, known);
    second.add({});
    EXPECT_EQ(second.after(known, 0s).events.size(), 1U);
    // The clock went back.
    event_log third(at_second(time, 50));
    EXPECT_TRUE(third.after(known, 1h).some_lost);
}

TEST(EventLog, WaitsForTheNextOneUntilItIsStopped) {
    event_log log(system_clock());
    const std::uint64_t start = log.after(0, 0s).last;
    std::atomic<bool> got{false};
    std::thread waiter([&] { got = log.after(start, 1h).events.size() == 1; });
    log.add({});
    waiter.join();
    EXPECT_TRUE(got);
    EXPECT_TRUE(log.after(start + 1, 1ms).events.empty());
    std::thread other([&] { EXPECT_TRUE(log.after(start + 1, 1h).events.empty()); });
    log.stop();
    other.join();
}

// ---- what a pool raises

std::size_t count(pool_rig& rig, pool_event kind) {
    std::size_t found = 0;
    for (const pool_event_record& one : rig->events(0, 0s).events) {
        found += one.event == kind ? 1 : 0;
    }
    return found;
}

TEST(PoolEvents, LowDataSpaceComesOnceForEachCrossing) {
    rig_options with;
    with.data_blocks = 64;
    with.pool.low_water_blocks = 16;
    with.pool.commit_interval = 1h;
    with.pool.error_if_no_space = true;
    pool_rig rig(with);
    auto volume = rig.make(0, 128 * block);
    for (std::size_t round = 1; round <= 3; ++round) {
        ASSERT_OK(volume->write(0, pattern(1, 46 * block)));
        EXPECT_EQ(count(rig, pool_event::low_data_space), round - 1);
        for (std::uint64_t i = 46; i < 60; ++i) {
            ASSERT_OK(volume->write(i * block, pattern(1, block)));
        }
        EXPECT_EQ(count(rig, pool_event::low_data_space), round);
        // Around the mark: less than an eighth above it is no other crossing.
        for (int i = 0; i < 10; ++i) {
            ASSERT_OK(volume->discard(47 * block, 13 * block));
            ASSERT_OK(rig->commit());
            ASSERT_OK(volume->write(47 * block, pattern(1, 13 * block)));
            ASSERT_OK(rig->commit());
        }
        EXPECT_EQ(count(rig, pool_event::low_data_space), round);
        ASSERT_OK(volume->discard(0, 128 * block));
        ASSERT_OK(rig->commit());
    }
}

// The kernel raised hundreds of them here: each commit gives transient blocks back.
TEST(PoolEvents, LowMetadataSpaceDoesNotComeWithEveryCommit) {
    rig_options with;
    with.metadata_bytes = 256 * metadata_block_size_bytes;
    with.pool.commit_interval = 1h;
    pool_rig rig(with);
    const std::uint64_t mark = rig->status()->metadata_low_watermark_blocks;
    ASSERT_EQ(mark, 64U);
    const auto raw_free = [&] {
        space_counts space;
        EXPECT_OK(rig->with_metadata([&](metadata& stored) -> result<void> {
            space = UTHIN_TRY(stored.metadata_space());
            return {};
        }));
        return space.raw_free_blocks;
    };
    // A device takes a block; making and deleting one commit.
    std::uint64_t devices = 0;
    const auto make_until = [&](std::uint64_t free) {
        for (; raw_free() > free; ++devices) {
            ASSERT_OK(rig->create_thin(device_id(devices)));
        }
    };
    make_until(mark + 4);
    EXPECT_EQ(count(rig, pool_event::low_metadata_space), 0U);
    make_until(mark);
    EXPECT_EQ(count(rig, pool_event::low_metadata_space), 1U);
    // To and fro over the mark, several hundred commits.
    for (int round = 0; round < 60; ++round) {
        for (std::uint64_t i = 1; i <= 6; ++i) {
            ASSERT_OK(rig->delete_thin(device_id(devices - i)));
        }
        ASSERT_GT(raw_free(), mark);
        for (std::uint64_t i = 1; i <= 6; ++i) {
            ASSERT_OK(rig->create_thin(device_id(devices - i)));
        }
        ASSERT_LE(raw_free(), mark);
    }
    EXPECT_EQ(count(rig, pool_event::low_metadata_space), 1U);
    EXPECT_EQ(count(rig, pool_event::mode_changed), 0U);
    // Much space again, and another crossing.
    while (raw_free() <= mark + mark / 8) {
        ASSERT_OK(rig->delete_thin(device_id(--devices)));
    }
    make_until(mark);
    EXPECT_EQ(count(rig, pool_event::low_metadata_space), 2U);
}

TEST(PoolEvents, AChangeOfModeSaysFromWhichToWhichAndWhy) {
    rig_options with;
    with.data_blocks = 4;
    with.pool.error_if_no_space = true;
    pool_rig rig(with);
    auto volume = rig.make(0, 16 * block);
    EXPECT_THAT(volume->write(0, pattern(1, 5 * block)), HasCode(error_code::no_data_space));
    // The low water mark is 0: that it is reached comes first.
    const pool_events events = rig->events(0, 0s);
    ASSERT_EQ(events.events.size(), 2U);
    EXPECT_EQ(events.events[0].event, pool_event::low_data_space);
    EXPECT_EQ(events.events[1].text, "write -> out_of_data_space: no free data block");
    ASSERT_OK(volume->discard(0, block));
    const pool_events next = rig->events(events.last, 10s);
    ASSERT_EQ(next.events.size(), 1U);
    EXPECT_EQ(next.events[0].text, "out_of_data_space -> write");
    EXPECT_EQ(next.events[0].mode, pool_mode::write);
}

}  // namespace
}  // namespace uthin
