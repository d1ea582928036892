// The set of data blocks against std::set.
#include "pool/data_block_set.h"

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "base/result.h"
#include "support/seed.h"

namespace uthin::pool_engine {
namespace {

std::vector<std::uint64_t> contents(const data_block_set& of) {
    std::vector<std::uint64_t> found;
    const result<void> all = of.for_each([&](data_block block) -> result<void> {
        found.push_back(block.value());
        return {};
    });
    EXPECT_TRUE(all.has_value());
    return found;
}

TEST(DataBlockSet, HoldsWhatASetOfNumbersHolds) {
    random_generator chance(test::seed());
    // Beside each other, across words, far apart, and the last one there is.
    const std::vector<std::uint64_t> starts{0, 60, 1000, std::uint64_t{1} << 40, UINT64_MAX - 63};
    data_block_set ours;
    std::set<std::uint64_t> model;
    for (int i = 0; i < 20000; ++i) {
        const std::uint64_t block = starts[chance.below(starts.size())] + chance.below(64);
        switch (chance.below(8)) {
            case 0:
            case 1:
            case 2:
                ASSERT_EQ(ours.insert(data_block(block)), model.insert(block).second) << block;
                break;
            case 7:
                if (chance.below(200) == 0) {
                    ours.clear();
                    model.clear();
                }
                break;
            default: ours.erase(data_block(block)); model.erase(block);
        }
        ASSERT_EQ(ours.size(), model.size());
        ASSERT_EQ(ours.empty(), model.empty());
        if (i % 64 == 0) {
            ASSERT_EQ(contents(ours), std::vector<std::uint64_t>(model.begin(), model.end()));
        }
    }
    EXPECT_EQ(contents(ours), std::vector<std::uint64_t>(model.begin(), model.end()));
}

TEST(DataBlockSet, StopsAtTheFirstError) {
    data_block_set blocks;
    for (const std::uint64_t block : {3U, 64U, 65U}) {
        ASSERT_TRUE(blocks.insert(data_block(block)));
    }
    std::vector<std::uint64_t> seen;
    const result<void> stopped = blocks.for_each([&](data_block block) -> result<void> {
        seen.push_back(block.value());
        return block.value() == 64 ? fail(error_code::io_error, "here") : result<void>();
    });
    ASSERT_FALSE(stopped.has_value());
    EXPECT_EQ(stopped.error().code(), error_code::io_error);
    EXPECT_EQ(seen, (std::vector<std::uint64_t>{3, 64}));
}

}  // namespace
}  // namespace uthin::pool_engine
