#include "uthin/units.h"

#include <gtest/gtest.h>

#include <concepts>
#include <type_traits>
#include <unordered_set>

namespace uthin::test {
namespace {

template <class A, class B>
concept comparable = requires(A a, B b) {
    a == b;
};
template <class A, class B>
concept subtractable = requires(A a, B b) {
    a - b;
};

// A number of one space must not compile where another space's is wanted.
static_assert(!std::convertible_to<data_block, metadata_block>);
static_assert(!std::convertible_to<data_block, virtual_block>);
static_assert(!std::convertible_to<std::uint64_t, data_block>);
static_assert(!std::convertible_to<data_block, std::uint64_t>);
static_assert(!comparable<data_block, virtual_block>);
static_assert(!subtractable<data_block, metadata_block>);
static_assert(!std::constructible_from<data_block, virtual_block>);
static_assert(sizeof(data_block) == 8 && std::is_trivially_copyable_v<data_block>);

TEST(Units, AnIndexMovesByCountsAndADifferenceIsACount) {
    data_block at(10);
    ++at;
    at += 4;
    EXPECT_EQ(at, data_block(15));
    EXPECT_EQ((at + 5).value(), 20U);
    EXPECT_EQ((at - std::uint64_t{5}).value(), 10U);
    EXPECT_EQ(at - data_block(3), 12U);
    EXPECT_LT(data_block(3), at);
    EXPECT_EQ(data_block().value(), 0U);
}

TEST(Units, ARangeIsHalfOpen) {
    using blocks = range<virtual_block>;
    EXPECT_EQ((blocks{virtual_block(3), virtual_block(7)}.count()), 4U);
    EXPECT_TRUE((blocks{virtual_block(3), virtual_block(3)}.empty()));
    EXPECT_TRUE((blocks{virtual_block(4), virtual_block(3)}.empty()));
    EXPECT_EQ((blocks{virtual_block(4), virtual_block(3)}.count()), 0U) << "never wraps";
}

TEST(Units, IndexesCanBeHashed) {
    std::unordered_set<device_id> ids;
    for (std::uint64_t i = 0; i < 100; ++i) {
        ids.insert(device_id(i % 50));
    }
    EXPECT_EQ(ids.size(), 50U);
}

TEST(Units, LimitsAreThoseOfTheFormat) {
    EXPECT_EQ(metadata_blocks_max, 4161600U);
    EXPECT_EQ(data_block_size_sectors_min * sector_size_bytes, 64U << 10);
    EXPECT_EQ(std::uint64_t{data_block_size_sectors_max} * sector_size_bytes, 1ULL << 30);
    EXPECT_EQ(device_id_max, 0xFFFFFFU);
}

}  // namespace
}  // namespace uthin::test
