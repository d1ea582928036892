#include "pool/mapping_runs.h"

#include <atomic>
#include <map>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "pool/mapping_cache.h"
#include "support/seed.h"

namespace uthin::pool_engine {
namespace {

constexpr std::uint64_t epoch = 1;

constexpr lookup_result at(std::uint64_t block, bool shared = false) {
    return {data_block(block), shared};
}

std::optional<lookup_result> found(const mapping_runs& runs, std::uint64_t block) {
    std::uint64_t unused = 0;
    return runs.find(virtual_block(block), epoch, unused);
}

bool put(mapping_runs& runs, std::uint64_t block, const lookup_result& mapping, bool starts) {
    return runs.put(virtual_block(block), epoch, mapping, starts) != mapping_runs::kept::no;
}

TEST(MappingRuns, KeepsARunThatWasStartedAndNothingElse) {
    mapping_runs runs(1, 0);
    EXPECT_FALSE(put(runs, 40, at(140), false));
    EXPECT_TRUE(put(runs, 41, at(141, true), true));
    EXPECT_TRUE(put(runs, 40, at(140), false));
    EXPECT_FALSE(put(runs, 42, at(7), false));
    EXPECT_EQ(found(runs, 40), at(140));
    EXPECT_EQ(found(runs, 41), at(141, true));
    EXPECT_FALSE(found(runs, 42));
    EXPECT_FALSE(found(runs, 43));
}

TEST(MappingRuns, TheBaseOfARunMayLieBelowZeroAndBlocksMayBeTheLargest) {
    mapping_runs runs(1, 0);
    EXPECT_TRUE(put(runs, 31, at(0), true));
    EXPECT_EQ(found(runs, 31), at(0));
    const std::uint64_t last = (1ULL << 48) - 1;
    const std::uint64_t last_data = (1ULL << 40) - 1;
    EXPECT_TRUE(put(runs, last, at(last_data, true), true));
    EXPECT_EQ(found(runs, last), at(last_data, true));
    const std::uint64_t beyond = last + 1;
    std::uint64_t version = 0;
    EXPECT_FALSE(runs.find(virtual_block(beyond), epoch, version));
    EXPECT_FALSE(runs.start(virtual_block(beyond), epoch, version, at(1)));
}

TEST(MappingRuns, AnotherMappingAnInvalidationAndAnotherEpochForget) {
    mapping_runs runs(1, 0);
    for (std::uint64_t i = 0; i < 4; ++i) {
        EXPECT_TRUE(put(runs, i, at(100 + i), true));
    }
    EXPECT_FALSE(put(runs, 1, at(7), false));
    runs.invalidate(virtual_block(2));
    EXPECT_EQ(found(runs, 0), at(100));
    EXPECT_FALSE(found(runs, 1));
    EXPECT_FALSE(found(runs, 2));
    EXPECT_EQ(found(runs, 3), at(103));
    std::uint64_t unused = 0;
    EXPECT_FALSE(runs.find(virtual_block(3), epoch + 1, unused));
    EXPECT_FALSE(runs.find(virtual_block(3), epoch + (1 << 16), unused));
}

TEST(MappingRuns, WhatWasLookedUpBeforeAnInvalidationIsRefused) {
    mapping_runs runs(1, 0);
    EXPECT_TRUE(put(runs, 6, at(106), true));
    std::uint64_t version = 0;
    EXPECT_FALSE(runs.find(virtual_block(7), epoch, version));
    std::uint64_t before = version;
    EXPECT_EQ(runs.fill(virtual_block(7), epoch, version, at(107)), mapping_runs::kept::yes);
    runs.invalidate(virtual_block(7));
    version = before;
    EXPECT_EQ(runs.fill(virtual_block(7), epoch, version, at(107)), mapping_runs::kept::no);
    EXPECT_FALSE(runs.start(virtual_block(7), epoch, before, at(107)));
    EXPECT_FALSE(found(runs, 7));
}

TEST(MappingRuns, OfOneLineTheShorterRunGivesWayToWhoComesAsOftenAsItIsLong) {
    mapping_runs runs(1, 0);
    for (std::uint64_t i = 0; i < 32; ++i) {
        EXPECT_TRUE(put(runs, i, at(1000 + i), true));
    }
    for (std::uint64_t i = 32; i < 36; ++i) {
        EXPECT_TRUE(put(runs, i, at(2000 + i), true));
    }
    EXPECT_FALSE(put(runs, 64, at(5), true));
    EXPECT_FALSE(put(runs, 96, at(6), true));
    EXPECT_FALSE(put(runs, 128, at(7), true));
    EXPECT_TRUE(put(runs, 160, at(8), true));
    EXPECT_EQ(found(runs, 160), at(8));
    EXPECT_EQ(found(runs, 31), at(1031));
    EXPECT_FALSE(found(runs, 33));
}

TEST(MappingRuns, SayWhenAllUnitsAreKnownAndAlike) {
    using kept = mapping_runs::kept;
    mapping_runs runs(1, 0);
    for (std::uint64_t i = 0; i < 31; ++i) {
        EXPECT_TRUE(put(runs, i, at(64 + i, i < 16), true));
    }
    EXPECT_EQ(runs.put(virtual_block(31), epoch, at(95), false), kept::yes);
    for (std::uint64_t i = 0; i < 16; ++i) {
        EXPECT_EQ(runs.put(virtual_block(i), epoch, at(64 + i), false),
                  i == 15 ? kept::whole : kept::yes);
    }
    for (std::uint64_t i = 0; i < 32; ++i) {
        EXPECT_EQ(runs.put(virtual_block(i), epoch, at(64 + i, true), false),
                  i == 31 ? kept::whole : kept::yes);
    }
}

TEST(MappingRuns, OfLargerUnitsKnowEachBlockOfThem) {
    mapping_runs runs(1, mapping_runs::run_bits);
    EXPECT_TRUE(put(runs, 32 + 7, at(1000 + 32 + 7, true), true));
    for (std::uint64_t i = 32; i < 64; ++i) {
        EXPECT_EQ(found(runs, i), at(1000 + i, true));
    }
    EXPECT_FALSE(found(runs, 31));
    EXPECT_FALSE(found(runs, 64));
    runs.invalidate(virtual_block(50));
    EXPECT_FALSE(found(runs, 39));
    // The base may lie below zero here, too.
    EXPECT_TRUE(put(runs, 1023, at(31), true));
    EXPECT_EQ(found(runs, 1023 - 31), at(0));
}

// What was written in order needs a fraction of the single entries.
TEST(MappingRuns, MakeASmallCacheKnowALargeVolumeThatWasWrittenInOrder) {
    constexpr std::uint64_t blocks = 8 * 3 * 64;
    mapping_cache cache(3 * 64);
    for (std::uint64_t i = 0; i < blocks; ++i) {
        cache.put(virtual_block(i), at(5000 + i, i % 3 == 0));
    }
    mapping_cache::miss miss;
    std::uint64_t hits = 0;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        if (const auto hit = cache.find(virtual_block(i), miss)) {
            EXPECT_EQ(hit, at(5000 + i, i % 3 == 0));
            ++hits;
        }
    }
    EXPECT_GE(hits, blocks - 1);
}

TEST(MappingRuns, LookupsInAnyOrderMakeRunsToo) {
    constexpr std::uint64_t blocks = 8 * 3 * 64;
    mapping_cache cache(3 * 64);
    random_generator random(test::seed());
    mapping_cache::miss miss;
    for (std::uint64_t i = 0; i < 30 * blocks; ++i) {
        const virtual_block block(random.below(blocks));
        if (!cache.find(block, miss)) {
            cache.fill(block, miss, at(5000 + block.value()));
        }
    }
    std::uint64_t hits = 0;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        hits += cache.find(virtual_block(i), miss) ? 1U : 0U;
    }
    EXPECT_GE(hits, blocks * 9 / 10);
}

// A block that was looked up before its neighbours is not left behind: when all were, in whatever
// order, the runs are whole, and pushing all single mappings out loses none.
TEST(MappingRuns, TakeInTheNeighboursThatWereSingle) {
    constexpr std::uint64_t blocks = 8 * 32;
    mapping_cache cache(3 * 512);
    random_generator random(test::seed());
    std::vector<std::uint64_t> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    for (std::uint64_t i = blocks; i > 1; --i) {
        std::swap(order[i - 1], order[random.below(i)]);
    }
    mapping_cache::miss miss;
    for (const std::uint64_t block : order) {
        ASSERT_FALSE(cache.find(virtual_block(block), miss));
        cache.fill(virtual_block(block), miss, at(5000 + block, block < 64));
    }
    for (std::uint64_t i = 0; i < 3 * 512; ++i) {
        const virtual_block other(3 * 512 + 2 * i);
        static_cast<void>(cache.find(other, miss));
        cache.fill(other, miss, at(900000 + 1000 * i));
    }
    for (std::uint64_t i = 0; i < blocks; ++i) {
        EXPECT_EQ(cache.find(virtual_block(i), miss), at(5000 + i, i < 64)) << i;
    }
}

// MC2 for the line of the long run, which others share: it is not filled when it changed after the
// lookup, although the line of the run did not. (A change of the run itself gets between the two
// lines only while a fill is under way.)
TEST(MappingRuns, AWholeRunIsNotStoredWhenItsLongLineChangedSinceTheLookup) {
    constexpr std::uint64_t run_blocks = 1U << mapping_runs::run_bits;
    constexpr std::uint64_t lines = 4;  // of runs; one of long runs
    const auto put = [](mapping_cache& cache, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t block = first; block < first + count; ++block) {
            cache.put(virtual_block(block), at(100 + block));
        }
        cache.put(virtual_block(first), at(100 + first));  // the second one began the run
    };
    for (const bool changes : {false, true}) {
        mapping_cache cache(lines * 8);
        put(cache, 0, run_blocks - 1);
        const virtual_block last(run_blocks - 1);
        mapping_cache::miss miss;
        EXPECT_FALSE(cache.find(last, miss));
        if (changes) {
            cache.invalidate(virtual_block(run_blocks));  // of the next line of runs
        }
        cache.fill(last, miss, at(100 + last.value()));
        EXPECT_EQ(cache.find(last, miss), at(100 + last.value()));
        // Others take its place among the runs, until only the long run can know it.
        put(cache, lines * run_blocks, run_blocks);
        for (int i = 0; i < 3; ++i) {
            put(cache, 2 * lines * run_blocks, run_blocks);
        }
        const auto found = cache.find(virtual_block(7), miss);
        EXPECT_EQ(found, changes ? std::nullopt : std::optional(at(107)));
    }
}

// Against a plain map, with all that changes it: what is found is always what is there.
TEST(MappingRuns, AndSinglesNeverDisagreeWithAPlainMap) {
    for (std::uint64_t round = 0; round < 20; ++round) {
        mapping_cache cache(round % 2 == 0 ? 3 : 48);
        random_generator random(test::seed() + round);
        std::map<std::uint64_t, lookup_result> truth;
        constexpr std::uint64_t blocks = 100;
        std::uint64_t hits = 0;
        for (std::uint64_t step = 0; step < 40000; ++step) {
            const std::uint64_t block = random.below(blocks);
            const std::uint64_t what = random.below(100);
            // Mostly in runs: one for all blocks, or two.
            const bool calm = round % 4 >= 2;
            const lookup_result mapping =
                at(random.below(calm ? 100 : 10) == 0 ? random.below(1000)
                                                      : 300 * (calm ? 1 : random.below(2)) + block,
                   random.below(calm ? 200 : 4) == 0);
            if (what < 10) {
                truth.insert_or_assign(block, mapping);
                cache.put(virtual_block(block), mapping);
            } else if (what < 14 && (!calm || random.below(40) == 0)) {
                truth.erase(block);
                cache.invalidate(virtual_block(block));
            } else if (what < 15 && random.below(10) == 0) {
                truth.clear();
                cache.advance_epoch();
            } else {
                mapping_cache::miss miss;
                const auto is = truth.find(block);
                if (const auto hit = cache.find(virtual_block(block), miss)) {
                    ++hits;
                    ASSERT_TRUE(is != truth.end()) << "round " << round << " step " << step;
                    ASSERT_EQ(*hit, is->second) << "round " << round << " step " << step;
                } else if (is != truth.end()) {
                    cache.fill(virtual_block(block), miss, is->second);
                }
            }
        }
        EXPECT_GT(hits, 0U);
    }
}

// As in MappingCache, with 32 blocks that move together, so that runs and whole runs come and go.
TEST(MappingRuns, NeverGiveAMappingThatWasOutOfDateWhenAskedFor) {
    constexpr std::uint64_t blocks = 32;
    mapping_cache cache(3);
    std::atomic<std::uint64_t> published{1};
    std::atomic<std::uint64_t> told{1};
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> hits{0};
    std::atomic<std::uint64_t> stale{0};
    std::vector<std::thread> finders;
    for (int f = 0; f < 3; ++f) {
        finders.emplace_back([&] {
            while (!stop.load()) {
                for (std::uint64_t block = 0; block < blocks; ++block) {
                    const std::uint64_t least = told.load();
                    mapping_cache::miss miss;
                    if (const auto hit = cache.find(virtual_block(block), miss)) {
                        hits.fetch_add(1);
                        stale.fetch_add(hit->block.value() < 100 * least + block ? 1 : 0);
                    } else {
                        cache.fill(virtual_block(block), miss, at(100 * published.load() + block));
                    }
                }
            }
        });
    }
    for (std::uint64_t i = 2; i < 4000 || hits.load() < 10000; ++i) {
        published.store(i);
        if (i % 4 == 0) {
            cache.advance_epoch();
        } else {
            for (std::uint64_t block = 0; block < blocks; ++block) {
                if (i % 4 == 1) {
                    cache.put(virtual_block(block), at(100 * i + block));
                } else {
                    cache.invalidate(virtual_block(block));
                }
            }
        }
        told.store(i);
        if (i % 16 == 0) {
            std::this_thread::yield();  // for whole runs to be made
        }
    }
    stop.store(true);
    for (std::thread& one : finders) {
        one.join();
    }
    EXPECT_EQ(stale.load(), 0U);
}

}  // namespace
}  // namespace uthin::pool_engine
