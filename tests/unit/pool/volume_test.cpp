// What a volume promises to one client at a time.
#include <cstring>

#include <gtest/gtest.h>

#include "support/matchers.h"
#include "support/pool_rig.h"

namespace uthin {
namespace {

using test::all_zero;
using test::HasCode;
using test::IsOk;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;

class Volume : public ::testing::TestWithParam<bool> {
protected:
    static rig_options options() {
        rig_options with;
        with.threads = GetParam();
        return with;
    }
};
INSTANTIATE_TEST_SUITE_P(Threads, Volume, ::testing::Bool(),
                         [](const auto& which) { return which.param ? "WithThread" : "Inline"; });

TEST_P(Volume, NeverWrittenReadsAsZerosAndTakesNoSpace) {
    pool_rig rig(options());
    auto volume = rig.make(0, 1024 * mib);
    EXPECT_TRUE(all_zero(read_all(*volume, 5 * mib + 13, 300000)));
    EXPECT_EQ(*volume->mapped_blocks(), 0U);
    EXPECT_EQ(rig->status()->data_used_blocks, 0U);
}

TEST_P(Volume, ReadsBackWhatWasWrittenAtAnyOffsetAndLength) {
    pool_rig rig(options());
    auto volume = rig.make(0, 16 * mib);
    const std::pair<std::uint64_t, std::size_t> cases[] = {
        {0, 1},        {511, 2},         {64 * kib - 1, 2}, {64 * kib, 64 * kib},
        {100, 200000}, {16 * mib - 7, 7}};
    std::uint64_t seed = 1;
    for (const auto& [offset, length] : cases) {
        const auto bytes = pattern(seed++, length);
        ASSERT_OK(volume->write(offset, bytes));
        EXPECT_EQ(read_all(*volume, offset, length), bytes) << offset << "+" << length;
    }
}

TEST_P(Volume, AroundAPartlyWrittenNewBlockReadsAsZeros) {
    pool_rig rig(options());
    // Leaves old content on the data device.
    std::vector<std::byte> dirt = pattern(9, 4 * mib);
    ASSERT_OK(rig.data.write(0, dirt));
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(1000, pattern(1, 10)));
    auto bytes = read_all(*volume, 0, 64 * kib);
    EXPECT_TRUE(all_zero(std::span(bytes).first(1000)));
    EXPECT_TRUE(all_zero(std::span(bytes).subspan(1010)));
}

TEST_P(Volume, BeyondTheEndIsRefusedAndDoesNothing) {
    pool_rig rig(options());
    auto volume = rig.make(0, 100000);
    EXPECT_THAT(volume->write(99999, pattern(1, 2)), HasCode(error_code::out_of_range));
    EXPECT_THAT(volume->write(UINT64_MAX, pattern(1, 2)), HasCode(error_code::out_of_range));
    std::vector<std::byte> two(2);
    EXPECT_THAT(volume->read(99999, two), HasCode(error_code::out_of_range));
    EXPECT_THAT(volume->discard(0, 100001), HasCode(error_code::out_of_range));
    EXPECT_THAT(volume->write_zeroes(1, 100000), HasCode(error_code::out_of_range));
    EXPECT_EQ(*volume->mapped_blocks(), 0U);
    ASSERT_OK(volume->write(99999, pattern(1, 1)));
}

TEST_P(Volume, ReadOnlyVolumeRefusesChanges) {
    pool_rig rig(options());
    ASSERT_OK(rig->create_thin(device_id(0)));
    auto volume = *rig->open_volume(device_id(0), mib, true);
    EXPECT_THAT(volume->write(0, pattern(1, 1)), HasCode(error_code::read_only));
    EXPECT_THAT(volume->discard(0, mib), HasCode(error_code::read_only));
    EXPECT_THAT(volume->write_zeroes(0, mib), HasCode(error_code::read_only));
    EXPECT_TRUE(volume->read_only());
    auto same = *rig->open_volume(device_id(0), mib, false);
    EXPECT_EQ(same, volume);
    EXPECT_OK(volume->write(0, pattern(1, 1)));
}

TEST_P(Volume, TheFirstChangeAsksOnceAndDoesNothingWhenItIsRefused) {
    pool_rig rig(options());
    const auto volume = rig.make(1, mib);
    int asked = 0;
    result<void> answer = fail(error_code::io_error, "no");
    volume->set_before_first_change([&] {
        ++asked;
        return answer;
    });
    EXPECT_FALSE(volume->read_only());
    EXPECT_TRUE(all_zero(read_all(*volume, 0, mib)));
    EXPECT_OK(volume->flush());
    EXPECT_EQ(asked, 0);
    EXPECT_THAT(volume->write(0, pattern(1, 4096)), HasCode(error_code::io_error));
    EXPECT_THAT(volume->write_zeroes(0, 4096), HasCode(error_code::io_error));
    EXPECT_THAT(volume->discard(0, mib), HasCode(error_code::io_error));
    EXPECT_THAT(volume->begin(io_kind::write), HasCode(error_code::io_error));
    EXPECT_EQ(asked, 4);
    EXPECT_TRUE(all_zero(read_all(*volume, 0, mib)));
    answer = {};
    EXPECT_OK(volume->write(0, pattern(1, 4096)));
    EXPECT_OK(volume->write(4096, pattern(2, 4096)));
    EXPECT_OK(volume->discard(0, mib));
    EXPECT_EQ(asked, 5);
}

TEST_P(Volume, OddBlockSizesWork) {
    for (const std::uint32_t sectors : {384U, 128U, 2048U, 128U * 11}) {
        rig_options with = options();
        with.block_size_sectors = sectors;
        with.data_blocks = 64;
        pool_rig rig(with);
        const std::uint64_t block = std::uint64_t{sectors} * 512;
        auto volume = rig.make(0, 40 * block + 777);
        const auto bytes = pattern(sectors, 5 * block + 333);
        ASSERT_OK(volume->write(block - 100, bytes));
        EXPECT_EQ(read_all(*volume, block - 100, bytes.size()), bytes);
        ASSERT_OK(rig.snapshot(0, 1));
        auto snapshot = rig.open_volume(1, 40 * block + 777);
        ASSERT_OK(volume->write(2 * block + 17, pattern(77, block)));
        EXPECT_EQ(read_all(*snapshot, block - 100, bytes.size()), bytes);
        EXPECT_TRUE(all_zero(read_all(*volume, 20 * block, 3 * block)));
        volume.reset();
        snapshot.reset();
    }
}

TEST(HugeBlocks, AreZeroedAndCopiedInPieces) {
    rig_options with;
    with.block_size_sectors = 64 * 2048;  // 64 MiB
    with.data_blocks = 8;
    pool_rig rig(with);
    const std::uint64_t block = 64 * mib;
    auto volume = rig.make(0, 4 * block);
    ASSERT_OK(volume->write(block + 5 * mib + 1, pattern(1, 100)));
    ASSERT_OK(volume->write(block, pattern(2, 9 * mib)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->write(block + 7 * mib - 3, pattern(3, 10)));
    auto snapshot = rig.open_volume(1, 4 * block);
    auto old = read_all(*snapshot, block, 10 * mib);
    auto now = read_all(*volume, block, 10 * mib);
    EXPECT_EQ(std::memcmp(old.data(), pattern(2, 9 * mib).data(), 9 * mib), 0);
    EXPECT_EQ(std::memcmp(now.data() + 7 * mib - 3, pattern(3, 10).data(), 10), 0);
    std::memcpy(now.data() + 7 * mib - 3, old.data() + 7 * mib - 3, 10);
    EXPECT_EQ(now, old);
    EXPECT_TRUE(all_zero(read_all(*volume, 2 * block - mib, mib)));
}

TEST_P(Volume, SnapshotKeepsItsContentAndBothSidesAreIndependent) {
    pool_rig rig(options());
    auto origin = rig.make(0, mib);
    const auto before = pattern(1, mib);
    ASSERT_OK(origin->write(0, before));
    ASSERT_OK(rig.snapshot(0, 1));
    auto snapshot = rig.open_volume(1, mib);
    EXPECT_EQ(rig->status(true)->data_used_blocks, 16U);
    ASSERT_OK(origin->write(100, pattern(2, 100)));
    EXPECT_EQ(read_all(*snapshot, 0, mib), before);
    ASSERT_OK(snapshot->write(200 * kib, pattern(3, 100)));
    auto expected = before;
    std::memcpy(expected.data() + 100, pattern(2, 100).data(), 100);
    EXPECT_EQ(read_all(*origin, 0, mib), expected);
    EXPECT_EQ(rig->status(true)->data_used_blocks, 18U);
    EXPECT_EQ(rig->counters().broken_blocks, 2U);
}

TEST_P(Volume, WholeBlockOverwriteOfASharedBlockReadsNothing) {
    pool_rig rig(options());
    auto origin = rig.make(0, mib);
    ASSERT_OK(origin->write(0, pattern(1, mib)));
    ASSERT_OK(rig.snapshot(0, 1));
    rig.data_faults.reset_counts();
    ASSERT_OK(origin->write(64 * kib, pattern(2, 3 * 64 * kib)));
    EXPECT_EQ(rig.data_faults.count(io::operation_kind::read), 0U);
    EXPECT_EQ(read_all(*origin, 64 * kib, 3 * 64 * kib), pattern(2, 3 * 64 * kib));
}

TEST_P(Volume, SnapshotsOfSnapshotsToAnyDepth) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(100, mib)));
    constexpr std::uint64_t depth = 40;
    std::vector<std::vector<std::byte>> expected{pattern(100, mib)};
    for (std::uint64_t i = 1; i <= depth; ++i) {
        ASSERT_OK(rig.snapshot(i - 1, i));
        auto next = rig.open_volume(i, mib);
        auto content = expected.back();
        const auto change = pattern(i, 70000);
        ASSERT_OK(next->write(i * 20000, change));
        std::memcpy(content.data() + i * 20000, change.data(), change.size());
        expected.push_back(content);
    }
    for (std::uint64_t i = 0; i <= depth; ++i) {
        auto one = rig.open_volume(i, mib);
        EXPECT_EQ(read_all(*one, 0, mib), expected[i]) << i;
    }
}

TEST_P(Volume, DiscardUnmapsWholeBlocksOnlyAndTheyReadAsZeros) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    const auto bytes = pattern(1, mib);
    ASSERT_OK(volume->write(0, bytes));
    ASSERT_OK(volume->discard(1000, 64 * kib));
    EXPECT_EQ(read_all(*volume, 0, mib), bytes);
    ASSERT_OK(volume->discard(60 * kib, 140 * kib));
    EXPECT_EQ(*volume->mapped_blocks(), 14U);
    EXPECT_TRUE(all_zero(read_all(*volume, 64 * kib, 128 * kib)));
    EXPECT_EQ(read_all(*volume, 0, 64 * kib), pattern(1, 64 * kib));
    EXPECT_EQ(rig->status(true)->data_used_blocks, 14U);
}

TEST_P(Volume, DiscardLeavesTheSnapshotAlone) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->discard(0, mib));
    auto snapshot = rig.open_volume(1, mib);
    EXPECT_EQ(read_all(*snapshot, 0, mib), pattern(1, mib));
    EXPECT_TRUE(all_zero(read_all(*volume, 0, mib)));
}

TEST_P(Volume, IgnoredDiscardsAreUnsupported) {
    rig_options with = options();
    with.pool.discard = discard_mode::ignore;
    pool_rig rig(with);
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    EXPECT_THAT(volume->discard(0, mib), HasCode(error_code::unsupported));
    EXPECT_EQ(*volume->mapped_blocks(), 16U);
}

TEST_P(Volume, ZeroedRangesReadAsZerosAndHolesStayHoles) {
    pool_rig rig(options());
    auto volume = rig.make(0, 2 * mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->write_zeroes(100, mib + 300 * kib));
    auto bytes = read_all(*volume, 0, 2 * mib);
    EXPECT_EQ(std::memcmp(bytes.data(), pattern(1, 100).data(), 100), 0);
    EXPECT_TRUE(all_zero(std::span(bytes).subspan(100)));
    EXPECT_EQ(*volume->mapped_blocks(), 1U);
    auto snapshot = rig.open_volume(1, 2 * mib);
    EXPECT_EQ(read_all(*snapshot, 0, mib), pattern(1, mib));
    ASSERT_OK(volume->write_zeroes(mib, mib, {.may_unmap = false}));
    EXPECT_EQ(*volume->mapped_blocks(), 17U);
    EXPECT_TRUE(all_zero(read_all(*volume, mib, mib)));
}

TEST_P(Volume, BlockStatusShowsDataAndHoles) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(128 * kib, pattern(1, 100)));
    ASSERT_OK(volume->write(320 * kib, pattern(1, 64 * kib)));
    const auto extents = *volume->block_status(1000, mib - 1000);
    const std::vector<volume_extent> expected = {{1000, 128 * kib - 1000, extent_kind::hole},
                                                 {128 * kib, 64 * kib, extent_kind::data},
                                                 {192 * kib, 128 * kib, extent_kind::hole},
                                                 {320 * kib, 64 * kib, extent_kind::data},
                                                 {384 * kib, mib - 384 * kib, extent_kind::hole}};
    EXPECT_EQ(extents, expected);
    EXPECT_EQ(volume->block_status(1000, mib - 1000, 2)->size(), 2U);
}

TEST_P(Volume, ShrinkingFreesAndTheRegrownPartReadsAsZeros) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, mib)));
    ASSERT_OK(volume->set_size(100000));
    EXPECT_EQ(*volume->mapped_blocks(), 2U);
    std::vector<std::byte> one(1);
    EXPECT_THAT(volume->read(100000, one), HasCode(error_code::out_of_range));
    ASSERT_OK(volume->set_size(mib));
    auto bytes = read_all(*volume, 0, mib);
    EXPECT_EQ(std::memcmp(bytes.data(), pattern(1, 100000).data(), 100000), 0);
    EXPECT_TRUE(all_zero(std::span(bytes).subspan(100000)));
}

TEST_P(Volume, MapGivesTheExtentForTheCallersOwnIo) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(0, pattern(1, 128 * kib)));
    {
        ASSERT_OK_AND_ASSIGN(auto ticket, volume->begin(io_kind::read));
        ASSERT_OK_AND_ASSIGN(auto extent, volume->map(ticket, 100, mib - 100));
        EXPECT_EQ(extent.where, mapped_extent::place::data_device);
        EXPECT_EQ(extent.length_bytes, 128 * kib - 100);
        std::vector<std::byte> bytes(extent.length_bytes);
        ASSERT_OK(rig->data_device().read(extent.data_offset_bytes, bytes));
        EXPECT_EQ(std::memcmp(bytes.data(), pattern(1, 128 * kib).data() + 100, bytes.size()), 0);
        ASSERT_OK_AND_ASSIGN(auto hole, volume->map(ticket, 128 * kib, 1000));
        EXPECT_EQ(hole.where, mapped_extent::place::zeros);
    }
    ASSERT_OK(rig.snapshot(0, 1));
    {
        ASSERT_OK_AND_ASSIGN(auto ticket, volume->begin(io_kind::write));
        ASSERT_OK_AND_ASSIGN(auto extent, volume->map(ticket, 0, 10));
        EXPECT_EQ(extent.where, mapped_extent::place::engine);
    }
}

TEST_P(Volume, ContentSurvivesReopening) {
    pool_rig rig(options());
    auto volume = rig.make(0, mib);
    ASSERT_OK(volume->write(5000, pattern(1, 500000)));
    ASSERT_OK(rig.snapshot(0, 1));
    ASSERT_OK(volume->write(5000, pattern(2, 1000)));
    volume.reset();
    rig.close();
    rig.expect_clean();
    rig.open();
    volume = rig.open_volume(0, mib);
    auto snapshot = rig.open_volume(1, mib);
    EXPECT_EQ(read_all(*snapshot, 5000, 500000), pattern(1, 500000));
    EXPECT_EQ(read_all(*volume, 5000, 1000), pattern(2, 1000));
}

}  // namespace
}  // namespace uthin
