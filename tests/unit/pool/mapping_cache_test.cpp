#include "pool/mapping_cache.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace uthin::pool_engine {
namespace {

constexpr lookup_result at(std::uint64_t block, bool shared = false) {
    return {data_block(block), shared};
}

TEST(MappingCache, FindsWhatWasFilledAfterAMiss) {
    mapping_cache cache(64);
    mapping_cache::miss miss;
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    cache.fill(virtual_block(7), miss, at(70, true));
    EXPECT_EQ(cache.find(virtual_block(7), miss), at(70, true));
    EXPECT_FALSE(cache.find(virtual_block(8), miss));
}

TEST(MappingCache, BlockZeroIsNotFoundInAnEmptyCache) {
    mapping_cache cache(64);
    mapping_cache::miss miss;
    EXPECT_FALSE(cache.find(virtual_block(0), miss));
    cache.fill(virtual_block(0), miss, at(0));
    EXPECT_EQ(cache.find(virtual_block(0), miss), at(0));
}

TEST(MappingCache, HoldsTheLargestNumbersAndRefusesLargerOnes) {
    mapping_cache cache(64);
    const std::uint64_t largest_data = (1ULL << 40) - 1;
    cache.put(virtual_block((1ULL << 48) - 1), at(largest_data, true));
    mapping_cache::miss miss;
    EXPECT_EQ(cache.find(virtual_block((1ULL << 48) - 1), miss), at(largest_data, true));
    cache.put(virtual_block(1ULL << 48), at(1));
    EXPECT_FALSE(cache.find(virtual_block(1ULL << 48), miss));
    cache.fill(virtual_block(1ULL << 48), miss, at(1));
    EXPECT_FALSE(cache.find(virtual_block(1ULL << 48), miss));
    EXPECT_FALSE(cache.find(virtual_block(0), miss));
}

TEST(MappingCache, AFillThatLookedUpBeforeAnInvalidationIsRefused) {
    mapping_cache cache(64);
    mapping_cache::miss miss;
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    cache.invalidate(virtual_block(7));
    cache.fill(virtual_block(7), miss, at(70));
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
}

TEST(MappingCache, AFillThatLookedUpBeforeTheEpochAdvancedIsNeverFound) {
    mapping_cache cache(64);
    mapping_cache::miss miss;
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    cache.advance_epoch();
    cache.fill(virtual_block(7), miss, at(70));
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
}

TEST(MappingCache, AdvancingTheEpochForgetsEverything) {
    mapping_cache cache(64);
    for (std::uint64_t i = 0; i < 10; ++i) {
        cache.put(virtual_block(i), at(i));
    }
    cache.advance_epoch();
    mapping_cache::miss miss;
    for (std::uint64_t i = 0; i < 10; ++i) {
        EXPECT_FALSE(cache.find(virtual_block(i), miss));
    }
}

TEST(MappingCache, APutReplacesTheOldMapping) {
    mapping_cache cache(64);
    cache.put(virtual_block(7), at(70, true));
    cache.put(virtual_block(7), at(71));
    mapping_cache::miss miss;
    EXPECT_EQ(cache.find(virtual_block(7), miss), at(71));
    cache.invalidate(virtual_block(7));
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
}

TEST(MappingCache, InvalidatingARangeForgetsItWhetherSmallOrLarge) {
    for (const std::uint64_t count : {3ULL, 1000000ULL}) {
        mapping_cache cache(4096);
        mapping_cache::miss miss;
        cache.put(virtual_block(9), at(1));
        cache.put(virtual_block(10), at(2));
        cache.put(virtual_block(12), at(3));
        cache.invalidate(range<virtual_block>{virtual_block(10), virtual_block(10 + count)});
        EXPECT_FALSE(cache.find(virtual_block(10), miss));
        EXPECT_FALSE(cache.find(virtual_block(12), miss));
    }
}

TEST(MappingCache, WhatIsAboutToChangeIsNeitherFoundNorFilledBeforeItIsTold) {
    mapping_cache cache(64);
    cache.put(virtual_block(7), at(70));
    cache.put(virtual_block(8), at(90));
    cache.expect({virtual_block(7), virtual_block(8)});
    mapping_cache::miss miss;
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    EXPECT_EQ(cache.find(virtual_block(8), miss), at(90));
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    cache.put(virtual_block(7), at(71));
    cache.fill(virtual_block(7), miss, at(70));
    cache.told();
    EXPECT_EQ(cache.find(virtual_block(7), miss), at(71));
    cache.expect({virtual_block(0), virtual_block(1000)});
    EXPECT_FALSE(cache.find(virtual_block(7), miss));
    EXPECT_FALSE(cache.find(virtual_block(8), miss));
    cache.told();
    EXPECT_EQ(cache.find(virtual_block(8), miss), at(90));
}

TEST(MappingCache, MoreBlocksThanFitPushEachOtherOut) {
    mapping_cache cache(3);  // one set
    mapping_cache::miss miss;
    for (std::uint64_t i = 1; i <= 4; ++i) {
        cache.put(virtual_block(i), at(10 * i));
    }
    int found = 0;
    for (std::uint64_t i = 1; i <= 4; ++i) {
        found += cache.find(virtual_block(i), miss) ? 1 : 0;
    }
    EXPECT_EQ(found, 3);
    EXPECT_TRUE(cache.find(virtual_block(4), miss));
}

// The "metadata" is one atomic that a changer moves from value to value, telling the cache after
// each change as the executor does. Finders fill and must never find a value older than the last
// one that had been told before they began.
TEST(MappingCache, NeverGivesAMappingThatWasOutOfDateWhenAskedFor) {
    mapping_cache cache(3);
    std::atomic<std::uint64_t> published{1};
    std::atomic<std::uint64_t> told{1};
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> hits{0};
    std::atomic<std::uint64_t> stale{0};
    std::vector<std::thread> finders;
    for (std::uint64_t f = 0; f < 3; ++f) {
        finders.emplace_back([&, f] {
            while (!stop.load()) {
                const std::uint64_t least = told.load();
                mapping_cache::miss miss;
                if (const auto found = cache.find(virtual_block(5), miss)) {
                    hits.fetch_add(1);
                    stale.fetch_add(found->block.value() < least ? 1 : 0);
                } else {
                    cache.fill(virtual_block(5), miss, at(published.load()));
                }
                // Neighbours in the same set keep its version moving.
                if (!cache.find(virtual_block(10 + f), miss)) {
                    cache.fill(virtual_block(10 + f), miss, at(1));
                }
            }
        });
    }
    // On a busy machine the finders may start late.
    for (std::uint64_t i = 2; i < 30000 || hits.load() < 1000; ++i) {
        published.store(i);
        if (i % 3 == 0) {
            cache.invalidate(virtual_block(5));
        } else if (i % 3 == 1) {
            cache.advance_epoch();
        } else {
            cache.put(virtual_block(5), at(i));
        }
        told.store(i);
    }
    stop.store(true);
    for (std::thread& one : finders) {
        one.join();
    }
    EXPECT_EQ(stale.load(), 0U);
    EXPECT_GT(hits.load(), 0U);
}

}  // namespace
}  // namespace uthin::pool_engine
