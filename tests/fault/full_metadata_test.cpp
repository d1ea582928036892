// A pool whose metadata is full: what still works, what is refused, how it ends.
#include <algorithm>
#include <chrono>

#include <gtest/gtest.h>

#include "support/big_volume.h"
#include "support/matchers.h"
#include "support/pool_rig.h"
#include "uthin/metadata.h"

namespace uthin {
namespace {

using test::all_zero;
using test::HasCode;
using test::pattern;
using test::pool_rig;
using test::read_all;
using test::rig_options;
using namespace std::chrono_literals;

constexpr std::uint64_t block = 64ULL << 10;

// ---- no free metadata block

rig_options small_metadata(std::uint64_t metadata_blocks, std::uint64_t data_blocks) {
    rig_options with;
    with.metadata_bytes = metadata_blocks * metadata_block_size_bytes;
    with.data_blocks = data_blocks;
    with.pool.commit_interval = 1h;
    with.pool.error_if_no_space = true;
    return with;
}

class FullMetadata : public ::testing::Test {
protected:
    static constexpr std::uint64_t origin_blocks = 300;
    static constexpr std::uint64_t volume_bytes = 2000 * block;

    // A volume and snapshots of it, each with a block of its own, until the metadata is full.
    void SetUp() override {
        volume_ = rig_.make(0, volume_bytes);
        for (std::uint64_t i = 0; i < origin_blocks; ++i) {
            ASSERT_OK(volume_->write(i * block, pattern(i, 100)));
        }
        ASSERT_OK(volume_->write(first_block_ * block, pattern(7, 100)));
        for (; rig_->mode() == pool_mode::write; ++snapshots_) {
            ASSERT_LT(snapshots_, 200U) << "the metadata does not become full";
            auto made = rig_.snapshot(0, 1 + snapshots_);
            if (!made) {
                ASSERT_THAT(made, HasCode(error_code::no_metadata_space));
                break;
            }
            auto written = volume_->write(first_block_ * block, pattern(7, 100));
            if (!written) {
                ASSERT_THAT(written, HasCode(error_code::no_metadata_space));
            }
        }
        ASSERT_EQ(rig_->mode(), pool_mode::out_of_metadata_space);
        ASSERT_EQ(rig_->status()->metadata_used_blocks, rig_->status()->metadata_total_blocks);
    }
    void TearDown() override { EXPECT_FALSE(rig_.is_open() && rig_->status()->needs_check); }
    void open_again() {
        volume_.reset();
        rig_.close();
        rig_.open();
        ASSERT_TRUE(rig_.is_open());
        volume_ = rig_.open_volume(0, volume_bytes);
    }
    void expect_content() {
        for (std::uint64_t i = 0; i < origin_blocks; ++i) {
            ASSERT_EQ(read_all(*volume_, i * block, 100), pattern(i, 100)) << i;
        }
    }
    void expect_writing_works() {
        EXPECT_EQ(rig_->mode(), pool_mode::write);
        EXPECT_OK(volume_->write(hole_ * block, pattern(3, 100)));
        EXPECT_EQ(read_all(*volume_, hole_ * block, 100), pattern(3, 100));
        EXPECT_OK(rig_->create_thin(device_id(5000)));
        EXPECT_OK(volume_->flush());
    }

    const std::uint64_t first_block_ = 1000;
    const std::uint64_t hole_ = 1500;
    pool_rig rig_{small_metadata(256, 1200)};
    std::shared_ptr<volume> volume_;
    std::uint64_t snapshots_ = 0;
};

TEST_F(FullMetadata, RefusesWhatNeedsMoreAndGoesOnReadingAndOverwriting) {
    EXPECT_THAT(volume_->write(hole_ * block, pattern(3, 100)),
                HasCode(error_code::no_metadata_space));
    EXPECT_EQ(volume_->write(hole_ * block, pattern(3, 100)).error().to_errno(), ENOSPC);
    EXPECT_THAT(rig_->create_thin(device_id(5000)), HasCode(error_code::no_metadata_space));
    EXPECT_THAT(rig_.snapshot(0, 5000), HasCode(error_code::no_metadata_space));
    EXPECT_THAT(volume_->write(0, pattern(3, 100)), HasCode(error_code::no_metadata_space))
        << "block 0 is shared";
    expect_content();
    EXPECT_TRUE(all_zero(read_all(*volume_, hole_ * block, block)));
    EXPECT_OK(volume_->flush());
    EXPECT_OK(rig_->commit());
    EXPECT_EQ(rig_->mode(), pool_mode::out_of_metadata_space);
}

TEST_F(FullMetadata, IsTheModeOfAFullPoolThatIsOpened) {
    open_again();
    EXPECT_EQ(rig_->mode(), pool_mode::out_of_metadata_space);
    EXPECT_THAT(rig_->create_thin(device_id(5000)), HasCode(error_code::no_metadata_space));
    EXPECT_THAT(volume_->write(hole_ * block, pattern(3, 100)),
                HasCode(error_code::no_metadata_space));
    expect_content();
}

TEST_F(FullMetadata, EndsWhenSnapshotsAreDeleted) {
    open_again();
    for (std::uint64_t id = 1; id < snapshots_ && rig_->mode() != pool_mode::write; ++id) {
        ASSERT_OK(rig_->delete_in_background(device_id(id)));
        ASSERT_OK(rig_->wait_for_deletion(device_id(id)));
    }
    expect_writing_works();
    expect_content();
}

TEST_F(FullMetadata, AllowsDiscards) {
    const std::uint64_t before = *volume_->mapped_blocks();
    ASSERT_OK(volume_->discard(0, origin_blocks * block));
    EXPECT_EQ(*volume_->mapped_blocks(), before - origin_blocks);
    EXPECT_TRUE(all_zero(read_all(*volume_, 0, block)));
    EXPECT_EQ(rig_->counters().ignored_discards, 0U);
    ASSERT_OK(volume_->write_zeroes(first_block_ * block, block, {}));
    EXPECT_EQ(*volume_->mapped_blocks(), 0U);
    ASSERT_OK(volume_->flush());
    EXPECT_EQ(rig_->status()->needs_check, false);
}

TEST_F(FullMetadata, EndsWhenTheMetadataGrows) {
    ASSERT_OK(rig_.metadata.grow(400 * metadata_block_size_bytes));
    ASSERT_OK(rig_->grow_metadata());
    EXPECT_EQ(rig_->status()->metadata_total_blocks, 400U);
    expect_writing_works();
    expect_content();
}

TEST_F(FullMetadata, EndsWhenTheMetadataOfAnOpenedPoolGrows) {
    open_again();
    ASSERT_OK(rig_.metadata.grow(400 * metadata_block_size_bytes));
    ASSERT_OK(rig_->grow_metadata());
    expect_writing_works();
}

// Nothing is shared: every leaf has to be walked, in slices, with a reserve of 25 blocks.
class FullOfOneVolume : public ::testing::Test {
protected:
    static constexpr std::uint64_t mappings = 40000;
    void SetUp() override {
        ASSERT_OK(rig_->close());
        rig_.drop();
        ASSERT_OK_AND_ASSIGN(const auto pool, metadata::open(rig_.metadata, {}));
        ASSERT_OK(test::build_volume(*pool, device_id(0), mappings, test::layout::scattered));
        ASSERT_OK(pool->commit());
        for (std::uint64_t id = 1; pool->metadata_space()->free_blocks != 0; ++id) {
            ASSERT_OK(pool->create_thin(device_id(id)));
            ASSERT_OK(pool->commit());
        }
        ASSERT_OK(pool->close());
        rig_.open();
        ASSERT_EQ(rig_->mode(), pool_mode::out_of_metadata_space);
    }
    void TearDown() override {
        EXPECT_EQ(rig_->mode(), pool_mode::write) << rig_->mode_cause();
        EXPECT_EQ(rig_->status(true)->data_used_blocks, 0U);
        EXPECT_FALSE(rig_->status()->needs_check);
    }
    pool_rig rig_{small_metadata(256, mappings)};
};

TEST_F(FullOfOneVolume, DeletesIt) {
    ASSERT_OK(rig_->delete_in_background(device_id(0)));
    ASSERT_OK(rig_->wait_for_deletion(device_id(0)));
}

TEST_F(FullOfOneVolume, DeletesItAtOnce) {
    ASSERT_OK(rig_->delete_thin(device_id(0)));
}

TEST_F(FullOfOneVolume, DiscardsIt) {
    auto volume = rig_.open_volume(0, mappings * block);
    ASSERT_OK(volume->discard(0, mappings * block));
    ASSERT_OK(volume->flush());
}

TEST_F(FullOfOneVolume, DiscardsItPieceByPiece) {
    auto volume = rig_.open_volume(0, mappings * block);
    for (std::uint64_t at = 0; at < mappings; at += 7) {
        ASSERT_OK(volume->discard(at * block, std::min<std::uint64_t>(7, mappings - at) * block));
    }
    ASSERT_OK(volume->flush());
}

}  // namespace
}  // namespace uthin
