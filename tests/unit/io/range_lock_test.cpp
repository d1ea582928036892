#include "io/range_lock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "support/seed.h"

namespace uthin::test {
namespace {

using io::range_lock;

TEST(RangeLock, SharedRangesOverlapFreely) {
    range_lock lock;
    const range_lock::guard first(lock, 0, 100, false);
    const range_lock::guard second(lock, 50, 150, false);
    const range_lock::guard same(lock, 0, 100, false);
}

TEST(RangeLock, ExclusiveRangesThatOnlyTouchDoNotWait) {
    range_lock lock;
    const range_lock::guard first(lock, 0, 100, true);
    const range_lock::guard second(lock, 100, 200, true);
}

// RL1, watched from inside: ten cells, each owned by who holds a range over it.
TEST(RangeLock, AnExclusiveHolderIsAlone) {
    range_lock lock;
    std::atomic<int> readers[10] = {};
    std::atomic<int> writers[10] = {};
    std::atomic<int> violations{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            random_generator random(seed() + t);
            for (int i = 0; i < 3000; ++i) {
                const std::uint64_t begin = random.below(10);
                const std::uint64_t end = begin + 1 + random.below(10 - begin);
                const bool exclusive = random.one_in(2);
                const range_lock::guard held(lock, begin, end, exclusive);
                for (std::uint64_t c = begin; c < end; ++c) {
                    const bool alone = exclusive ? writers[c].fetch_add(1) == 0 && readers[c] == 0
                                                 : (readers[c].fetch_add(1), writers[c] == 0);
                    violations += alone ? 0 : 1;
                }
                std::this_thread::yield();
                for (std::uint64_t c = begin; c < end; ++c) {
                    --(exclusive ? writers[c] : readers[c]);
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(violations, 0);
}

}  // namespace
}  // namespace uthin::test
