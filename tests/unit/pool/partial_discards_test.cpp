// Blocks that are discarded piece by piece.
#include "pool/partial_discards.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/random.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "support/seed.h"

namespace uthin {
namespace {

using pool_engine::partial_discards;
using test::pool_rig;

constexpr std::uint64_t block = 64U << 10;

TEST(PartialDiscards, CoverABlockWhenAllPartsWereNamedInAnyOrder) {
    partial_discards parts;
    parts.add(virtual_block(3), 4096, 8192);
    EXPECT_FALSE(parts.covers(virtual_block(3), block));
    parts.add(virtual_block(3), 12288, block);
    parts.add(virtual_block(3), 0, 4096);
    EXPECT_TRUE(parts.covers(virtual_block(3), 8192));
    EXPECT_FALSE(parts.covers(virtual_block(3), block));
    parts.add(virtual_block(3), 8000, 12500);
    EXPECT_TRUE(parts.covers(virtual_block(3), block));
    EXPECT_FALSE(parts.covers(virtual_block(4), 1));
    parts.forget_block(virtual_block(3));
    EXPECT_EQ(parts.blocks(), 0U);
}

TEST(PartialDiscards, AWriteForgetsItsPartAndNoMore) {
    partial_discards parts;
    for (std::uint64_t at = 0; at < 3; ++at) {
        parts.add(virtual_block(at), 0, block);
    }
    parts.forget(block, block + 100, block + 200);
    EXPECT_TRUE(parts.covers(virtual_block(0), block));
    EXPECT_TRUE(parts.covers(virtual_block(1), 100));
    EXPECT_FALSE(parts.covers(virtual_block(1), 101));
    EXPECT_TRUE(parts.covers(virtual_block(2), block));
    parts.add(virtual_block(1), 100, 200);
    EXPECT_TRUE(parts.covers(virtual_block(1), block));
    // Far more blocks than are remembered.
    parts.forget(block, block, 1ULL << 50);
    EXPECT_TRUE(parts.covers(virtual_block(0), block));
    EXPECT_EQ(parts.blocks(), 1U);
}

TEST(PartialDiscards, AreBounded) {
    partial_discards parts;
    for (std::uint64_t at = 0; at < 2 * partial_discards::blocks_max; ++at) {
        parts.add(virtual_block(at), 0, 512);
    }
    EXPECT_EQ(parts.blocks(), partial_discards::blocks_max);
    EXPECT_FALSE(parts.covers(virtual_block(0), 512)) << "the oldest goes first";
    EXPECT_TRUE(parts.covers(virtual_block(2 * partial_discards::blocks_max - 1), 512));
    parts.clear();
    for (std::uint64_t at = 0; at < block; at += 1024) {
        parts.add(virtual_block(7), at, at + 512);
    }
    for (std::uint64_t at = 512; at < block; at += 1024) {
        parts.add(virtual_block(7), at, at + 512);
    }
    EXPECT_FALSE(parts.covers(virtual_block(7), block)) << "64 parts are not remembered";
    EXPECT_TRUE(parts.covers(virtual_block(7), block / 2));
}

// Against a flat array of flags for each byte; what is remembered was discarded, never more.
TEST(PartialDiscards, NeverClaimWhatWasNotDiscarded) {
    random_generator random(test::seed());
    constexpr std::uint64_t size = 256;
    constexpr std::uint64_t blocks = 5;
    partial_discards parts;
    std::vector<bool> discarded(blocks * size);
    std::uint64_t complete = 0;
    for (int step = 0; step < 20000; ++step) {
        const std::uint64_t begin = random.below(blocks * size);
        if (random.one_in(6)) {
            const std::uint64_t end = std::min(begin + 1 + random.below(300), blocks * size);
            parts.forget(size, begin, end);
            std::fill(discarded.begin() + static_cast<std::ptrdiff_t>(begin),
                      discarded.begin() + static_cast<std::ptrdiff_t>(end), false);
        } else {
            const std::uint64_t in_block = begin % size;
            const std::uint64_t end = std::min(in_block + 1 + random.below(80), size);
            parts.add(virtual_block(begin / size), in_block, end);
            std::fill(discarded.begin() + static_cast<std::ptrdiff_t>(begin),
                      discarded.begin() + static_cast<std::ptrdiff_t>(begin - in_block + end),
                      true);
        }
        for (std::uint64_t at = 0; at < blocks; ++at) {
            const auto first = discarded.begin() + static_cast<std::ptrdiff_t>(at * size);
            const bool all = std::all_of(first, first + size, [](bool one) { return one; });
            const bool claims = parts.covers(virtual_block(at), size);
            ASSERT_TRUE(all || !claims) << "step " << step << " block " << at;
            complete += claims ? 1U : 0U;
        }
    }
    EXPECT_GT(complete, 0U);
}

class PartialDiscardsOfVolumes : public testing::Test {
protected:
    void fill() {
        volume_ = rig_.make(1, 8 * block + 4096);
        ASSERT_OK(volume_->write(0, test::pattern(1, 8 * block + 4096)));
    }
    [[nodiscard]] std::uint64_t mapped() { return volume_->mapped_blocks().value(); }

    pool_rig rig_;
    std::shared_ptr<volume> volume_;
};

TEST_F(PartialDiscardsOfVolumes, UnmapABlockWhenTheLastPartGoes) {
    fill();
    const auto before = test::read_all(*volume_, 0, 8 * block);
    for (std::uint64_t at = 0; at < block; at += 4096) {
        EXPECT_EQ(mapped(), 9U);
        ASSERT_OK(volume_->discard(2 * block + at, 4096));
    }
    EXPECT_EQ(mapped(), 8U);
    auto expected = before;
    std::memset(expected.data() + 2 * block, 0, block);
    EXPECT_EQ(test::read_all(*volume_, 0, 8 * block), expected);
}

TEST_F(PartialDiscardsOfVolumes, OfTwoThatMeetInABlockUnmapItAndTheBlockAtTheEnd) {
    fill();
    ASSERT_OK(volume_->discard(block + 100, 2 * block));
    EXPECT_EQ(mapped(), 8U);
    ASSERT_OK(volume_->discard(3 * block + 100, 5 * block + 4096 - 100));
    EXPECT_EQ(mapped(), 2U) << "blocks 0 and 1 are left; 8, which the volume ends in, is not";
    EXPECT_EQ(rig_->counters().pieced_blocks, 2U);
}

TEST_F(PartialDiscardsOfVolumes, KeepABlockThatWasWrittenInBetween) {
    fill();
    ASSERT_OK(volume_->discard(2 * block, block / 2));
    const auto fresh = test::pattern(9, 512);
    ASSERT_OK(volume_->write(2 * block + 1024, fresh));
    ASSERT_OK(volume_->discard(2 * block + block / 2, block / 2));
    EXPECT_EQ(mapped(), 9U);
    EXPECT_EQ(test::read_all(*volume_, 2 * block + 1024, 512), fresh);
    ASSERT_OK(volume_->discard(2 * block + 1024, 512));
    EXPECT_EQ(mapped(), 8U);
}

TEST_F(PartialDiscardsOfVolumes, LeaveSnapshotsAlone) {
    fill();
    ASSERT_OK(volume_->discard(0, block / 2));
    ASSERT_OK(rig_.snapshot(1, 2));
    ASSERT_OK(volume_->discard(block / 2, block / 2));
    EXPECT_EQ(mapped(), 8U);
    const auto snapshot = rig_.open_volume(2, 8 * block + 4096);
    EXPECT_EQ(snapshot->mapped_blocks(), 9U);
    EXPECT_EQ(test::read_all(*snapshot, 0, block), test::pattern(1, block));
}

TEST_F(PartialDiscardsOfVolumes, AreForgottenByARollbackAndAShrink) {
    fill();
    ASSERT_OK(rig_.snapshot(1, 2));
    ASSERT_OK(volume_->discard(0, block / 2));
    ASSERT_OK(rig_->rollback(device_id(1), device_id(2), device_id(3)));
    ASSERT_OK(volume_->discard(block / 2, block / 2));
    EXPECT_EQ(mapped(), 9U);
    EXPECT_EQ(test::read_all(*volume_, 0, block), test::pattern(1, block));
    ASSERT_OK(volume_->discard(block, block / 2));
    ASSERT_OK(volume_->set_size(2 * block));
    ASSERT_OK(volume_->discard(block + block / 2, block / 2));
    EXPECT_EQ(mapped(), 2U);
}

TEST(PartialDiscardsSwitchedOff, LeavePartsAlone) {
    test::rig_options with;
    with.pool.remember_partial_discards = false;
    pool_rig rig(with);
    const auto volume = rig.make(1, 2 * block);
    ASSERT_OK(volume->write(0, test::pattern(1, 2 * block)));
    ASSERT_OK(volume->discard(0, block / 2));
    ASSERT_OK(volume->discard(block / 2, block / 2));
    EXPECT_EQ(volume->mapped_blocks(), 2U);
    EXPECT_EQ(test::read_all(*volume, 0, block), test::pattern(1, block));
}

// One thread writes one half of each block and reads back what it wrote; another one discards the
// other half, and now and then both. A write that was acknowledged is there. Now and then the first
// one waits for discards of the other one, so that halves meet however the threads are run.
TEST(PartialDiscardsRace, LoseNoWriteToAnotherPartOfTheBlock) {
    pool_rig rig;
    constexpr std::uint64_t blocks = 4;
    const auto volume = rig.make(1, blocks * block);
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> discards{0};
    std::thread discarder([&] {
        random_generator random(test::seed() + 1);
        while (!stop.load()) {
            const std::uint64_t at = random.below(blocks) * block;
            EXPECT_OK(volume->discard(at, block / 2));
            ++discards;
            std::vector<std::byte> bytes(512, std::byte{7});
            EXPECT_OK(volume->write(at + 4096, bytes));
        }
    });
    random_generator random(test::seed());
    std::vector<std::uint64_t> written(blocks);
    for (std::uint64_t round = 1; round <= 1500; ++round) {
        const std::uint64_t which = random.below(blocks);
        const std::uint64_t half = which * block + block / 2;
        if (random.one_in(2)) {
            ASSERT_OK(volume->discard(half, block / 2));
            if (random.one_in(16)) {
                const std::uint64_t seen = discards.load();
                while (discards.load() < seen + 2 * blocks) {
                    std::this_thread::yield();
                }
            }
        }
        ASSERT_OK(volume->write(half + 512 * random.below(64), test::pattern(round, 512)));
        const std::uint64_t at = half + 512 * random.below(64);
        ASSERT_OK(volume->write(at, test::pattern(round, 512)));
        ASSERT_EQ(test::read_all(*volume, at, 512), test::pattern(round, 512)) << round;
    }
    stop.store(true);
    discarder.join();
    EXPECT_GT(rig->counters().pieced_blocks, 0U);
}

}  // namespace
}  // namespace uthin
