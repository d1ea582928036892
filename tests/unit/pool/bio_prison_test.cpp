#include "pool/bio_prison.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace uthin::pool_engine {
namespace {

TEST(BioPrison, GivesConsecutiveFreeCells) {
    bio_prison prison;
    bio_prison::cells third(prison, device_id(1), virtual_block(12), 1);
    EXPECT_EQ(third.count(), 1U);
    bio_prison::cells first(prison, device_id(1), virtual_block(10), 5);
    EXPECT_EQ(first.count(), 2U);
    bio_prison::cells other_device(prison, device_id(2), virtual_block(10), 5);
    EXPECT_EQ(other_device.count(), 5U);
    first.keep(1);
    bio_prison::cells second(prison, device_id(1), virtual_block(11), 5);
    EXPECT_EQ(second.count(), 1U);
}

TEST(BioPrison, WhoFindsTheFirstCellTakenWaitsAndComesBackEmptyHanded) {
    bio_prison prison;
    std::atomic<bool> came_back{false};
    auto holder = std::make_unique<bio_prison::cells>(prison, device_id(1), virtual_block(10), 2);
    std::thread waiter([&] {
        const bio_prison::cells none(prison, device_id(1), virtual_block(11), 3);
        EXPECT_TRUE(none.empty());
        came_back.store(true);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(came_back.load());
    holder.reset();
    waiter.join();
}

TEST(BioPrison, ACellHasOneHolder) {
    bio_prison prison;
    std::vector<int> holders(8);  // unguarded: the cells are the guard
    std::atomic<int> violations{0};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (std::uint64_t round = 0; round < 5000; ++round) {
                const std::uint64_t first = (round + t) % 6;
                const bio_prison::cells held(prison, device_id(3), virtual_block(first), 2);
                for (std::uint64_t i = 0; i < held.count(); ++i) {
                    violations.fetch_add(holders[first + i]++ == 0 ? 0 : 1);
                }
                for (std::uint64_t i = 0; i < held.count(); ++i) {
                    --holders[first + i];
                }
            }
        });
    }
    for (std::thread& one : threads) {
        one.join();
    }
    EXPECT_EQ(violations.load(), 0);
}

}  // namespace
}  // namespace uthin::pool_engine
