// Two clients write to the same shared block. The second finds the first one's new mapping in the
// metadata, which is published, writes to it, is told so, and reads: from the mapping cache, which
// had not been told yet and gave the old mapping. Found by the schedules (provision_provision, one
// of 40,000).
#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "pool/mapping_cache.h"

namespace uthin::pool_engine {
namespace {

// Nobody who has seen a mapping published is given an older one afterwards.
TEST(ReadBetweenPublicationAndCache, NeverSeesTheOldMapping) {
    constexpr range<virtual_block> both{virtual_block(5), virtual_block(7)};
    mapping_cache cache(3);
    std::atomic<std::uint64_t> published{1};
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> hits{0};
    std::atomic<std::uint64_t> stale{0};
    std::vector<std::thread> finders;
    for (int f = 0; f < 3; ++f) {
        finders.emplace_back([&] {
            while (!stop.load()) {
                const std::uint64_t least = published.load();
                mapping_cache::miss miss;
                if (const auto hit = cache.find(both.begin, miss)) {
                    hits.fetch_add(1);
                    stale.fetch_add(hit->block.value() < least ? 1 : 0);
                } else {
                    cache.fill(both.begin, miss, {data_block(published.load()), false});
                }
            }
        });
    }
    for (std::uint64_t i = 2; i < 20000 || hits.load() < 1000; ++i) {
        cache.expect(both);
        published.store(i);
        if (i % 64 == 0) {
            std::this_thread::yield();
        }
        if (i % 2 == 0) {
            cache.put(both.begin, {data_block(i), false});
        } else {
            cache.invalidate(both);
        }
        cache.told();
        if (i % 16 == 0) {
            std::this_thread::yield();  // for hits
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
