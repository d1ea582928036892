// Allocating ahead: what it spares, and that nobody can tell otherwise.
#include "pool/ready_blocks.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

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
            ready.add(data_block(100 * round + i), round);
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
    ready.add(data_block(1), 0);
    ready.clear();
    EXPECT_EQ(ready.count(), 0U);
    EXPECT_FALSE(ready.take());
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
