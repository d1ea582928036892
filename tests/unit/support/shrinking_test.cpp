#include "support/shrinking.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace uthin::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int> numbers(int count) {
    std::vector<int> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

bool holds(const std::vector<int>& items, int wanted) {
    return std::ranges::find(items, wanted) != items.end();
}

TEST(Shrinking, KeepsThoseThatTheFailureNeedsInTheirOrder) {
    const auto fails = [](const std::vector<int>& items) {
        return holds(items, 17) && holds(items, 400) && holds(items, 998);
    };
    EXPECT_THAT(shrunk<int>(numbers(1000), fails, 10'000), ElementsAre(17, 400, 998));
}

TEST(Shrinking, OfAFailureThatNeedsNothingNothingIsLeft) {
    EXPECT_THAT(shrunk<int>(
                    numbers(100), [](const auto&) { return true; }, 1000),
                IsEmpty());
}

TEST(Shrinking, LeavesWhatStillFailsWhenItsTrialsAreOver) {
    int trials = 0;
    const auto fails = [&trials](const std::vector<int>& items) {
        ++trials;
        return holds(items, 500);
    };
    const std::vector<int> left = shrunk<int>(numbers(1000), fails, 3);
    EXPECT_EQ(trials, 3);
    EXPECT_TRUE(holds(left, 500));
    EXPECT_LT(left.size(), 1000U);
}

}  // namespace
}  // namespace uthin::test
