// What volumes are promised, and what they are limited to.
#include "pool/space_shares.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"
#include "support/tier.h"

namespace uthin {
namespace {

using test::HasCode;
using test::pool_rig;

constexpr std::uint64_t block = 64U << 10;
constexpr std::uint64_t large = 1ULL << 30;

test::rig_options with_blocks(std::uint64_t data_blocks, bool threads = true) {
    test::rig_options options;
    options.data_blocks = data_blocks;
    options.threads = threads;
    options.pool.commit_interval = std::chrono::milliseconds(20);
    return options;
}

result<void> fill(volume& to, std::uint64_t first, std::uint64_t count) {
    return to.write(first * block, test::pattern(first, count * block));
}

std::uint64_t mapped(volume& of) {
    return of.mapped_blocks().value();
}

TEST(SpaceShares, AVolumeAtItsLimitGetsNoSpaceAtOnceAndNobodyElseDoes) {
    pool_rig rig(with_blocks(100));
    const auto limited = rig.make(1, large);
    const auto other = rig.make(2, large);
    ASSERT_OK(rig->set_space_policies({{device_id(1), {.limit_blocks = 10}}}, true));
    ASSERT_OK(fill(*limited, 0, 10));
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_THAT(fill(*limited, 10, 1), HasCode(error_code::no_data_space));
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10))
        << "the timeout of a full pool is 60 s";
    EXPECT_EQ(rig->mode(), pool_mode::write);
    EXPECT_EQ(mapped(*limited), 10U);
    ASSERT_OK(fill(*limited, 3, 2)) << "what it has it may overwrite";
    ASSERT_OK(fill(*other, 0, 30));
    ASSERT_OK(limited->discard(0, block));
    ASSERT_OK(fill(*limited, 10, 1));
    EXPECT_THAT(fill(*limited, 11, 1), HasCode(error_code::no_data_space));
}

TEST(SpaceShares, AWriteOverTheLimitGetsAsFarAsThere) {
    pool_rig rig(with_blocks(100));
    const auto limited = rig.make(1, large);
    ASSERT_OK(rig->set_space_policies({{device_id(1), {.limit_blocks = 5}}}, true));
    EXPECT_THAT(fill(*limited, 0, 8), HasCode(error_code::no_data_space));
    EXPECT_EQ(mapped(*limited), 5U);
    EXPECT_THAT(limited->write_zeroes(20 * block, block, {.may_unmap = false}),
                HasCode(error_code::no_data_space));
    ASSERT_OK(limited->write_zeroes(20 * block, block)) << "a hole reads as zeros already";
}

TEST(SpaceShares, BreakingSharingCountsForThePoolAndNotForTheLimit) {
    pool_rig rig(with_blocks(100));
    const auto limited = rig.make(1, large);
    ASSERT_OK(rig->set_space_policies({{device_id(1), {.limit_blocks = 5}}}, true));
    ASSERT_OK(fill(*limited, 0, 5));
    ASSERT_OK(rig.snapshot(1, 2));
    ASSERT_OK(fill(*limited, 0, 5));
    EXPECT_EQ(rig->status(true)->data_used_blocks, 10U);
}

TEST(SpaceShares, WhatIsReservedIsTakenByNobodyElse) {
    pool_rig rig(with_blocks(50));
    const auto promised = rig.make(1, large);
    const auto other = rig.make(2, large);
    ASSERT_OK(rig->set_space_policies({{device_id(1), {.reserved_blocks = 20}}}, true));
    EXPECT_EQ(rig->status()->data_promised_blocks, 20U);
    EXPECT_THAT(fill(*other, 0, 31), HasCode(error_code::no_data_space));
    EXPECT_EQ(mapped(*other), 30U);
    EXPECT_EQ(rig->mode(), pool_mode::write);
    ASSERT_OK(fill(*promised, 0, 20));
    EXPECT_EQ(rig->status()->data_promised_blocks, 0U);
    // Given back, the promise holds again.
    ASSERT_OK(promised->discard(0, 5 * block));
    EXPECT_EQ(rig->status(true)->data_promised_blocks, 5U);
    EXPECT_THAT(fill(*other, 40, 1), HasCode(error_code::no_data_space));
    ASSERT_OK(other->discard(0, block));
    ASSERT_OK(fill(*other, 40, 1)) << "its own block came back with a commit";
    ASSERT_OK(fill(*promised, 30, 5));
}

TEST(SpaceShares, APromiseThatDoesNotFitIsRefusedAndOneThatIsTakenBackIsFree) {
    pool_rig rig(with_blocks(50));
    const auto one = rig.make(1, large);
    ASSERT_OK(fill(*one, 0, 20));
    EXPECT_THAT(rig->set_space_policies({{device_id(9), {.reserved_blocks = 31}}}, true),
                HasCode(error_code::no_data_space));
    EXPECT_EQ(rig->status()->data_promised_blocks, 0U);
    ASSERT_OK(rig->set_space_policies({{device_id(9), {.reserved_blocks = 30}}}, true));
    EXPECT_THAT(fill(*one, 20, 1), HasCode(error_code::no_data_space));
    ASSERT_OK(rig->set_space_policies({}, true));
    ASSERT_OK(fill(*one, 20, 30));
    // Somebody else used the pool meanwhile: more is promised than is free, and that is told.
    ASSERT_OK(rig->set_space_policies({{device_id(9), {.reserved_blocks = 7}}}, false));
    EXPECT_EQ(rig->status()->data_promised_blocks, 7U);
}

TEST(SpaceShares, AnAbortForgetsWhatWasInFlight) {
    pool_rig rig(with_blocks(50, false));
    rig.do_not_judge();
    const auto one = rig.make(1, large);
    ASSERT_OK(rig->set_space_policies({{device_id(1), {.reserved_blocks = 10}}}, true));
    ASSERT_OK(fill(*one, 0, 4));
    io::fault_rule rule;
    rule.kinds = {io::operation_kind::write};
    rig.metadata_faults.arm(rule);
    EXPECT_FALSE(rig->commit());
    EXPECT_EQ(rig->mode(), pool_mode::read_only);
    EXPECT_EQ(rig->status()->data_promised_blocks, 10U);
}

// Several volumes at the edge: promises are kept and limits held at every moment, whoever is first.
TEST(SpaceShares, HoldWhileSeveralVolumesWriteAtTheEdge) {
    constexpr std::uint64_t volumes = 5;
    constexpr std::uint64_t pool_blocks = 120;
    // 3 and 4 are promised, 2 and 3 are limited.
    const std::map<device_id, space_policy> policies = {
        {device_id(2), {.limit_blocks = 15}},
        {device_id(3), {.reserved_blocks = 20, .limit_blocks = 25}},
        {device_id(4), {.reserved_blocks = 30}}};
    for (std::uint64_t round = 0; round < 3 * test::tier_scale(); ++round) {
        // When all promises are used up the pool can be full for everybody.
        test::rig_options options = with_blocks(pool_blocks);
        options.pool.error_if_no_space = true;
        pool_rig rig(options);
        std::vector<std::shared_ptr<volume>> open;
        for (std::uint64_t id = 0; id < volumes; ++id) {
            open.push_back(rig.make(id, large));
        }
        ASSERT_OK(rig->set_space_policies(policies, true));
        std::atomic<std::uint64_t> refused{0};
        std::vector<std::thread> writers;
        for (std::uint64_t id = 0; id < volumes; ++id) {
            writers.emplace_back([&, id] {
                random_generator random(test::seed() + 16 * round + id);
                for (int step = 0; step < 150; ++step) {
                    volume& to = *open[id];
                    const std::uint64_t at = random.below(60);
                    if (random.one_in(4)) {
                        EXPECT_OK(to.discard(at * block, (1 + random.below(6)) * block));
                        continue;
                    }
                    const auto written = fill(to, at, 1 + random.below(4));
                    if (!written) {
                        EXPECT_EQ(written.error().code(), error_code::no_data_space);
                        // Who has not used up what it was promised is never refused.
                        const auto of = policies.find(device_id(id));
                        if (of != policies.end()) {
                            EXPECT_GE(mapped(to) + 4, of->second.reserved_blocks) << id;
                        }
                        refused.fetch_add(1);
                    }
                    const auto limit = policies.find(device_id(id));
                    if (limit != policies.end() && limit->second.limit_blocks != 0) {
                        EXPECT_LE(mapped(to), limit->second.limit_blocks);
                    }
                }
            });
        }
        for (std::thread& one : writers) {
            one.join();
        }
        EXPECT_GT(refused.load(), 0U);
        // The promises can be used up to the last block.
        for (const std::uint64_t id : {3U, 4U}) {
            const std::uint64_t want = policies.at(device_id(id)).reserved_blocks;
            std::uint64_t at = 100;
            while (mapped(*open[id]) < want) {
                ASSERT_OK(fill(*open[id], at++, 1)) << "device " << id;
            }
        }
    }
}

}  // namespace
}  // namespace uthin
