// Allocating ahead: what it spares, and that nobody can tell otherwise.
#include "pool/ready_blocks.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "io/memory_device.h"
#include "io/shared_device.h"
#include "support/forwarding_device.h"
#include "support/mapping_model.h"
#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin::pool_engine {
namespace {

using io::operation_kind;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;

constexpr std::uint64_t block_bytes = 64 << 10;
constexpr std::uint64_t mib = 1 << 20;

TEST(ReadyBlocks, AreTakenInTheirOrderAndEachOnce) {
    ready_blocks ready;
    EXPECT_FALSE(ready.take());
    for (std::uint64_t round = 0; round < 3; ++round) {
        for (std::uint64_t i = 0; i < ready_blocks::blocks_max; ++i) {
            ready.add(data_block(100 * round + i), round, true);
        }
        EXPECT_EQ(ready.count(), ready_blocks::blocks_max);
        for (std::uint64_t i = 0; i < ready_blocks::blocks_max; ++i) {
            const auto one = ready.take();
            ASSERT_TRUE(one);
            EXPECT_EQ(one->block, data_block(100 * round + i));
            EXPECT_EQ(one->era, round);
        }
        EXPECT_FALSE(ready.take());
    }
    ready.add(data_block(1), 0, true);
    ready.clear();
    EXPECT_EQ(ready.count(), 0U);
    EXPECT_FALSE(ready.take());
}

// Adds blocks 0 to 63 and takes the first.
ready_blocks::taken first_of_64(ready_blocks& ready) {
    for (std::uint64_t i = 0; i < ready_blocks::blocks_max; ++i) {
        ready.add(data_block(i), 1, true);
    }
    return *ready.take();
}

constexpr range<data_block> blocks(std::uint64_t begin, std::uint64_t end) {
    return {data_block(begin), data_block(end)};
}

TEST(ReadyBlocks, NeighboursAreHalfOfWhatThereIsAtMost) {
    ready_blocks ready;
    EXPECT_EQ(ready.take_neighbours(first_of_64(ready), 100), blocks(1, 33));
    EXPECT_EQ(ready.lent(), 32U);
    EXPECT_EQ(ready.count(), 31U);
    EXPECT_EQ(ready.take_neighbours(*ready.take(), 5), blocks(34, 39));
    const auto other = *ready.take();
    EXPECT_TRUE(ready.take_neighbours(other, 0).empty());
    ready.clear();
    ready.add(data_block(7), 1, true);
    for (std::uint64_t i = 9; i < 30; ++i) {
        ready.add(data_block(i), 1, true);
    }
    EXPECT_TRUE(ready.take_neighbours(*ready.take(), 100).empty());  // 8 is not here
    EXPECT_TRUE(ready.take_neighbours(other, 100).empty());          // of another round
    EXPECT_EQ(ready.count(), 21U);
    ready.clear();
    for (std::uint64_t i = 0; i < 20; ++i) {
        ready.add(data_block(i), 1, false);
    }
    EXPECT_TRUE(ready.take_neighbours(*ready.take(), 100).empty());  // others may want them
    EXPECT_EQ(ready.lent(), 0U);
}

TEST(ReadyBlocks, NeighboursComeBackInFrontAndZeroedButInTheirRoundOnly) {
    ready_blocks ready;
    const auto first = first_of_64(ready);
    const auto with = ready.take_neighbours(first, 15);
    EXPECT_EQ(ready.lent(), 15U);
    ASSERT_TRUE(ready.bring_back(with, first));
    EXPECT_EQ(ready.count(), 63U);
    EXPECT_EQ(ready.lent(), 0U);
    for (std::uint64_t i = 1; i < 64; ++i) {
        const auto one = *ready.take();
        EXPECT_EQ(one.block, data_block(i));
        EXPECT_EQ(one.zeroed, i < 16);
        EXPECT_EQ(one.era, 1U);
    }
    // Although others were added meanwhile.
    const auto again = first_of_64(ready);
    const auto with_again = ready.take_neighbours(again, 15);
    ASSERT_EQ(with_again, blocks(1, 16));
    while (ready.take()) {
    }
    ASSERT_EQ(first_of_64(ready).block, data_block(0));
    EXPECT_TRUE(ready.bring_back(with_again, again));
    EXPECT_EQ(ready.count(), 78U);
    EXPECT_TRUE(ready.take_neighbours(*ready.take(), 100).empty());  // they are zeroed
    EXPECT_FALSE(ready.bring_back(blocks(100, 200), again));         // no place
    ready.end_round();
    EXPECT_FALSE(ready.bring_back(with_again, again));
    ready.clear();
    EXPECT_FALSE(ready.bring_back(with_again, again));
    EXPECT_EQ(ready.count(), 0U);
}

TEST(ReadyBlocks, SpaceIsTakenForThoseThatFollowOnce) {
    ready_blocks ready;
    const auto first = first_of_64(ready);
    EXPECT_EQ(ready.take_space(first, 16), blocks(0, 16));
    EXPECT_TRUE(ready.take_space(first, 16).empty());
    EXPECT_EQ(ready.count(), 63U) << "they stay";
    for (std::uint64_t i = 1; i < 16; ++i) {
        EXPECT_TRUE(ready.take_space(*ready.take(), 16).empty()) << i;
    }
    // One overtakes the other.
    const auto slow = *ready.take();
    EXPECT_EQ(ready.take_space(*ready.take(), 16), blocks(17, 33));
    EXPECT_TRUE(ready.take_space(slow, 16).empty()) << "it is alone";
    EXPECT_TRUE(ready.take_space(*ready.take(), 16).empty()) << "that took nothing away";
    ready.end_round();
    EXPECT_TRUE(ready.take_space(slow, 16).empty());
}

class AllocatedAhead : public ::testing::Test {
protected:
    static rig_options options(std::uint64_t data_blocks) {
        rig_options with;
        with.data_blocks = data_blocks;
        with.pool.commit_interval = std::chrono::hours(1);
        with.pool.error_if_no_space = true;
        return with;
    }
    static result<void> write_block(volume& to, std::uint64_t block) {
        return to.write(block * block_bytes, pattern(block + 1, 4096));
    }
};

// Notes for what space is taken.
class watched_device final : public test::forwarding_device {
public:
    using forwarding_device::forwarding_device;
    void take_space(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
        calls.push_back({data_block(offset_bytes / block_bytes),
                         data_block((offset_bytes + length_bytes) / block_bytes)});
    }
    [[nodiscard]] result<void> write(std::uint64_t offset_bytes,
                                     std::span<const std::byte> buffer) override {
        if (buffer.size() == block_bytes) {
            copied.push_back(data_block(offset_bytes / block_bytes));
        }
        return forwarding_device::write(offset_bytes, buffer);
    }
    std::vector<range<data_block>> calls;
    std::vector<data_block> copied;
};

// Copies of blocks go to files that have space for many of them at once; what is written in place,
// into a hole, or far from the others takes none.
TEST_F(AllocatedAhead, CopiesTakeSpaceForTheNextOnes) {
    io::memory_device below(64 * mib);
    auto owned = std::make_unique<watched_device>(below);
    watched_device& data = *owned;
    pool_options with = options(1024).pool;
    with.format = true;
    with.data_block_size_sectors = block_bytes / 512;
    const auto metadata = std::make_shared<io::memory_device>(4 * mib);
    ASSERT_OK_AND_ASSIGN(const auto pool, pool::open(std::make_unique<io::shared_device>(metadata),
                                                     std::move(owned), with, system_clock()));
    ASSERT_OK(pool->start());
    ASSERT_OK(pool->create_thin(device_id(0)));
    ASSERT_OK_AND_ASSIGN(const auto volume, pool->open_volume(device_id(0), 64 * mib));
    constexpr std::uint64_t count = 200;
    for (int twice = 0; twice < 2; ++twice) {
        for (std::uint64_t i = 0; i < count; ++i) {
            ASSERT_OK(write_block(*volume, i));
        }
    }
    EXPECT_EQ(data.calls.size(), 0U);
    const snapshot_request one{device_id(0), device_id(1)};
    ASSERT_OK(pool->create_snapshots(std::span(&one, 1)));
    data.copied.clear();
    for (std::uint64_t i = 0; i < count; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    ASSERT_EQ(data.copied.size(), count);
    EXPECT_GE(data.calls.size(), count / 16);
    EXPECT_LE(data.calls.size(), count / 8);
    std::uint64_t blocks_with_space = 0;
    for (const auto& call : data.calls) {
        EXPECT_LE(call.count() * block_bytes, mib);
        blocks_with_space += call.count();
    }
    EXPECT_LE(blocks_with_space, count + 16);
    const auto has_space = [&](data_block block) {
        return std::ranges::any_of(
            data.calls, [&](const auto& call) { return call.begin <= block && block < call.end; });
    };
    EXPECT_GE(std::ranges::count_if(data.copied, has_space),
              static_cast<std::ptrdiff_t>(count) - 16);
    for (std::uint64_t i = 0; i < count; ++i) {
        EXPECT_EQ(read_all(*volume, i * block_bytes, 4096), pattern(i + 1, 4096));
    }
    ASSERT_OK(pool->close());
    test::expect_clean(*metadata);
}

TEST_F(AllocatedAhead, AFirstWriteTakesOneTurnOfTheExecutor) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    const std::uint64_t before = rig->counters().executor_turns;
    constexpr std::uint64_t writes = 512;
    for (std::uint64_t i = 0; i < writes; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    EXPECT_LE(rig->counters().executor_turns - before, writes + 8);
    EXPECT_EQ(*volume->mapped_blocks(), writes);
}

TEST_F(AllocatedAhead, TheStatusCountsWhatIsMappedAndACommitKeepsNothing) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    for (std::uint64_t i = 0; i < 100; ++i) {
        ASSERT_OK(write_block(*volume, 7 * i % 100));
        ASSERT_EQ(rig->status()->data_used_blocks, i + 1);
        if (i % 10 == 9) {
            ASSERT_OK(rig->commit());
            ASSERT_EQ(rig->status()->data_used_blocks, i + 1);
            rig.expect_clean();  // what is ready would be a leak
        }
    }
}

// As if the process had been killed with blocks ready: none of them is lost.
TEST_F(AllocatedAhead, ACrashLosesNoBlock) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    for (std::uint64_t i = 0; i < 20; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    ASSERT_OK(volume->flush());
    ASSERT_OK(write_block(*volume, 20));
    volume.reset();
    rig.drop();
    rig.open();
    EXPECT_EQ(rig->status()->data_used_blocks, 20U);
}

TEST_F(AllocatedAhead, APoolIsFilledToItsLastBlock) {
    for (const std::uint64_t blocks : {5ULL, 64ULL, 200ULL, 1000ULL}) {
        pool_rig rig(options(blocks));
        auto volume = rig.make(0, (blocks + 1) * block_bytes);
        for (std::uint64_t i = 0; i < blocks; ++i) {
            ASSERT_OK(write_block(*volume, i)) << i << " of " << blocks;
        }
        EXPECT_THAT(write_block(*volume, blocks), HasCode(error_code::no_data_space));
        EXPECT_EQ(rig->status()->data_used_blocks, blocks);
    }
}

// ---- zeros written ahead

TEST_F(AllocatedAhead, ZerosAreWrittenForManyBlocksAtOnce) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    constexpr std::uint64_t writes = 1024;
    ASSERT_OK(volume->write(0, pattern(7, writes * block_bytes)));  // not zeros on the device
    ASSERT_OK(volume->discard(0, writes * block_bytes));
    ASSERT_OK(rig->commit());
    const std::uint64_t before = rig.data_faults.count(operation_kind::write_zeroes);
    for (std::uint64_t i = 0; i < writes; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    EXPECT_LE(rig.data_faults.count(operation_kind::write_zeroes) - before, writes / 7);
    for (std::uint64_t i = 0; i < writes; ++i) {
        ASSERT_EQ(read_all(*volume, i * block_bytes, 4096), pattern(i + 1, 4096));
        ASSERT_TRUE(test::all_zero(read_all(*volume, i * block_bytes + 4096, 60 << 10))) << i;
    }
    EXPECT_EQ(rig->status()->data_used_blocks, writes);
}

// Where there is no space for the zeros of many, there may be for one; and nobody's block is lost.
TEST_F(AllocatedAhead, ZerosForManyThatFailAreWrittenForOne) {
    std::uint64_t made_up_for = 0;
    for (const bool persistent : {false, true}) {
        for (std::uint64_t nth = 1; nth <= 8; ++nth) {
            pool_rig rig(options(4096));
            ASSERT_OK(rig.data.write(0, pattern(9, 200 * block_bytes)));  // of an earlier owner
            auto volume = rig.make(0, 256 * mib);
            std::uint64_t failed = 0;
            rig.data_faults.arm(
                {.kinds = {operation_kind::write_zeroes}, .nth = nth, .persistent = persistent});
            constexpr std::uint64_t writes = 100;
            for (std::uint64_t i = 0; i < writes; ++i) {
                failed += write_block(*volume, i) ? 0U : 1U;
            }
            EXPECT_GE(rig.data_faults.injected(), 1U);
            rig.data_faults.disarm();
            EXPECT_TRUE(persistent ? failed > 1 : failed <= 1) << failed;
            for (std::uint64_t i = 0; i < writes; ++i) {
                EXPECT_TRUE(
                    test::all_zero(read_all(*volume, i * block_bytes + 4096, block_bytes - 4096)));
            }
            made_up_for += persistent || failed != 0 ? 0U : 1U;
            EXPECT_EQ(*volume->mapped_blocks(), writes - failed);
            ASSERT_OK(rig->commit());
            EXPECT_EQ(rig->status()->data_used_blocks, writes - failed);
            rig.expect_clean();
        }
    }
    EXPECT_GT(made_up_for, 2U);
}

// In the status, and for promises: only the block that is being written is somebody's.
TEST_F(AllocatedAhead, WhatWasTakenAlongCountsAsFree) {
    for (std::uint64_t nth = 1; nth <= 8; ++nth) {
        pool_rig rig(options(4096));
        auto volume = rig.make(0, 256 * mib);
        std::uint64_t calls = 0;
        rig.hooked_data.before_zeroes([&] {
            if (++calls > nth) {
                return;
            }
            const std::uint64_t mapped = *volume->mapped_blocks();
            EXPECT_EQ(rig->status()->data_used_blocks, mapped + 1) << calls;
            if (calls == nth) {
                EXPECT_OK(
                    rig->set_space_policies({{device_id(0), {.reserved_blocks = 4095}}}, true));
                EXPECT_OK(rig->set_space_policies({}, true));
            }
        });
        for (std::uint64_t i = 0; i < 200; ++i) {
            ASSERT_OK(write_block(*volume, i));
        }
        EXPECT_GT(calls, nth);
        ASSERT_OK(rig->commit());
        EXPECT_EQ(rig->status()->data_used_blocks, 200U);
    }
}

TEST_F(AllocatedAhead, APolicyHoldsForWhatWasTakenAlongToo) {
    for (std::uint64_t nth = 1; nth <= 8; ++nth) {
        pool_rig rig(options(4096));
        auto volume = rig.make(0, 256 * mib);
        std::uint64_t calls = 0;
        std::uint64_t limit = 0;
        rig.hooked_data.before_zeroes([&] {
            if (++calls == nth) {
                limit = *volume->mapped_blocks() + 3;
                EXPECT_OK(rig->set_space_policies({{device_id(0), {.limit_blocks = limit}}}, true));
            }
        });
        std::uint64_t block = 0;
        while (block < 200 && write_block(*volume, block)) {
            ++block;
        }
        ASSERT_NE(limit, 0U);
        EXPECT_EQ(block, limit);
        ASSERT_OK(rig->set_space_policies({}, true));
        EXPECT_OK(write_block(*volume, block));
    }
}

// Where space has run out meanwhile, what was taken along is for whoever waits for space: not after
// the next commit, which is an hour away, but at once.
TEST_F(AllocatedAhead, WhatWasTakenAlongGoesToWhoWaitsForSpace) {
    constexpr std::uint64_t data_blocks = 1280;  // a little more than blocks are lent beyond
    rig_options with = options(data_blocks);
    with.pool.error_if_no_space = false;
    with.pool.no_space_timeout = std::chrono::minutes(5);
    pool_rig rig(with);
    auto volume = rig.make(0, 256 * mib);
    auto greedy = rig.make(1, 256 * mib);
    std::thread waiting;
    result<void> waited;
    std::uint64_t calls = 0;
    rig.hooked_data.before_zeroes([&] {
        if (++calls != 4) {
            return;
        }
        const std::uint64_t free = rig->status()->data_total_blocks - *volume->mapped_blocks();
        waiting =
            std::thread([&, free] { waited = greedy->write(0, pattern(1, free * block_bytes)); });
        for (int i = 0; i < 60000 && rig->mode() != pool_mode::out_of_data_space; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        EXPECT_EQ(rig->mode(), pool_mode::out_of_data_space);
    });
    std::uint64_t written = 0;
    while (calls < 4) {
        ASSERT_OK(write_block(*volume, written++));
    }
    rig.hooked_data.before_zeroes(nullptr);
    const std::uint64_t rest = data_blocks - written;
    for (int i = 0; i < 20000 && *greedy->mapped_blocks() != rest; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(*greedy->mapped_blocks(), rest);
    // The block that was being written is the one that it cannot have.
    rig->set_no_space_timeout(std::chrono::milliseconds(1));
    waiting.join();
    EXPECT_THAT(waited, HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->status()->data_used_blocks, data_blocks);
}

// A commit or an abort in the middle of it: what was taken along does not come back.
class RoundThatEnds : public AllocatedAhead {
protected:
    RoundThatEnds() : rig_(options(4096)), volume_(rig_.make(0, 256 * mib)) {}

    // Writes 600 blocks; `end_round` comes in between with every third writing of zeros.
    void write_all(const std::function<void()>& end_round) {
        std::uint64_t calls = 0;
        rig_.hooked_data.before_zeroes([&] {
            if (++calls % 3 == 0) {
                end_round();
            }
        });
        for (std::uint64_t i = 0; i < 600; ++i) {
            if (!write_block(*volume_, i)) {
                ++failed_;
                ASSERT_OK(rig_->clear_needs_check());
                volume_.reset();  // its changes were lost
                volume_ = rig_.open_volume(0, 256 * mib);
            }
        }
        rig_.hooked_data.before_zeroes(nullptr);
        EXPECT_GT(calls, 9U);
        ASSERT_OK(rig_->commit());
        EXPECT_EQ(rig_->status()->data_used_blocks, *volume_->mapped_blocks());
    }

    pool_rig rig_;
    std::shared_ptr<volume> volume_;
    std::uint64_t failed_ = 0;
};

TEST_F(RoundThatEnds, ByACommitLosesNothing) {
    write_all([&] { EXPECT_OK(rig_->commit()); });
    EXPECT_EQ(failed_, 0U);
    EXPECT_EQ(*volume_->mapped_blocks(), 600U);
}

TEST_F(RoundThatEnds, ByAnAbortLosesWhatWasNotCommitted) {
    write_all([&] {
        rig_.metadata_faults.arm({.kinds = {operation_kind::write}});
        EXPECT_FALSE(rig_->commit());
        rig_.metadata_faults.disarm();
    });
    EXPECT_GT(failed_, 3U);
}

// A large write may take what was ready for small ones.
TEST_F(AllocatedAhead, WhatIsReadyIsThereForLargeWritesToo) {
    pool_rig rig(options(400));
    auto volume = rig.make(0, 401 * block_bytes);
    for (std::uint64_t i = 0; i < 4; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    const auto rest = pattern(9, 396 * block_bytes);
    ASSERT_OK(volume->write(4 * block_bytes, rest));
    EXPECT_EQ(read_all(*volume, 4 * block_bytes, rest.size()), rest);
    EXPECT_EQ(rig->status()->data_used_blocks, 400U);
    EXPECT_THAT(write_block(*volume, 400), HasCode(error_code::no_data_space));
}

TEST_F(AllocatedAhead, APolicyHoldsFromTheNextWriteOn) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    for (std::uint64_t i = 0; i < 10; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    ASSERT_OK(rig->set_space_policies({{device_id(0), {.limit_blocks = 12}}}, true));
    ASSERT_OK(write_block(*volume, 10));
    ASSERT_OK(write_block(*volume, 11));
    EXPECT_THAT(write_block(*volume, 12), HasCode(error_code::no_data_space));
    // Promises can be as large as what is free, whatever was ready.
    ASSERT_OK(rig->set_space_policies({}, true));
    ASSERT_OK(write_block(*volume, 12));
    ASSERT_OK(write_block(*volume, 13));
    EXPECT_THAT(rig->set_space_policies({{device_id(0), {.reserved_blocks = 4097}}}, true),
                HasCode(error_code::no_data_space));
    ASSERT_OK(rig->set_space_policies({{device_id(0), {.reserved_blocks = 4096}}}, true));
}

TEST_F(AllocatedAhead, AnAbortForgetsThem) {
    pool_rig rig(options(4096));
    auto volume = rig.make(0, 256 * mib);
    for (std::uint64_t i = 0; i < 10; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    ASSERT_OK(rig->commit());
    for (std::uint64_t i = 10; i < 15; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    rig.metadata_faults.arm({.kinds = {operation_kind::write}});
    EXPECT_FALSE(rig->commit());
    rig.metadata_faults.disarm();
    EXPECT_EQ(rig->status()->data_used_blocks, 10U);
    EXPECT_THAT(write_block(*volume, 15), HasCode(error_code::read_only));
    ASSERT_OK(rig->clear_needs_check());
    volume.reset();
    volume = rig.open_volume(0, 256 * mib);
    for (std::uint64_t i = 10; i < 30; ++i) {
        ASSERT_OK(write_block(*volume, i));
    }
    ASSERT_OK(rig->commit());
    EXPECT_EQ(rig->status()->data_used_blocks, 30U);
}

// Small writers, a large one and commits side by side: everybody reads what he wrote.
TEST_F(AllocatedAhead, NobodyGetsABlockThatAnotherHas) {
    auto with = options(8192);
    with.pool.commit_interval = std::chrono::milliseconds(1);
    pool_rig rig(with);
    constexpr std::uint64_t writers = 4;
    constexpr std::uint64_t writes = 300;
    std::vector<std::shared_ptr<volume>> volumes;
    for (std::uint64_t w = 0; w < writers; ++w) {
        volumes.push_back(rig.make(w, writes * block_bytes));
    }
    std::vector<std::thread> threads;
    for (std::uint64_t w = 0; w < writers; ++w) {
        threads.emplace_back([&, w] {
            for (std::uint64_t i = 0; i < writes; ++i) {
                const std::uint64_t blocks = w == 0 && i % 8 == 0 ? 8 : 1;
                if (w != 0 || i % 8 == 0) {
                    EXPECT_OK(volumes[w]->write(
                        i * block_bytes,
                        pattern(1000 * w + i, std::min(blocks, writes - i) * block_bytes)));
                }
            }
        });
    }
    for (std::thread& one : threads) {
        one.join();
    }
    for (std::uint64_t w = 0; w < writers; ++w) {
        for (std::uint64_t i = 0; i < writes; i += w == 0 ? 8 : 1) {
            const std::uint64_t blocks = w == 0 ? std::min<std::uint64_t>(8, writes - i) : 1;
            EXPECT_EQ(read_all(*volumes[w], i * block_bytes, blocks * block_bytes),
                      pattern(1000 * w + i, blocks * block_bytes));
        }
    }
    EXPECT_EQ(rig->status()->data_used_blocks, writers * writes);
}

}  // namespace
}  // namespace uthin::pool_engine
