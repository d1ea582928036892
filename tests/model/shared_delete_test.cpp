// Deleting or discarding a volume that shares everything must not walk it, and must work when the
// metadata is full: it is how space comes back.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "io/sparse_image.h"
#include "support/big_volume.h"
#include "support/matchers.h"
#include "support/metadata_fixture.h"
#include "thin_metadata/checker.h"

namespace uthin::test {
namespace {

constexpr std::uint64_t blocks_written_max = 100;
constexpr std::uint64_t origin_id = 1;
constexpr std::uint64_t snapshot_id = 2;
constexpr std::uint64_t filler_id = 1000;

// A volume of 16 M mappings (2 M in the short run), its snapshot, and devices without content until
// the metadata has no unreserved free block. Each test gets a copy of the image.
class full_pool : public ::testing::Test {
protected:
    static void SetUpTestSuite() {
        volume_blocks_ = is_long_run() ? 1ULL << 24U : 1ULL << 21U;
        const std::uint64_t leaves = volume_blocks_ / 200;
        const std::uint64_t metadata_blocks = leaves + volume_blocks_ / 16320 + 8192;
        io::image_device device("full",
                                io::sparse_image(metadata_blocks * metadata_block_size_bytes));
        auto pool =
            metadata::open(device, {.data_block_size_sectors = block_size_sectors, .format = true});
        ASSERT_THAT(pool, IsOk());
        ASSERT_OK((*pool)->resize_data(volume_blocks_));
        ASSERT_OK((*pool)->commit());
        ASSERT_OK(build_volume(**pool, device_id(origin_id), volume_blocks_, layout::contiguous));
        ASSERT_OK((*pool)->commit());
        ASSERT_OK((*pool)->create_snap(device_id(snapshot_id), device_id(origin_id)));
        ASSERT_OK((*pool)->commit());
        fill_up(**pool);
        ASSERT_OK((*pool)->close());
        image_ = device.image();
    }
    static void TearDownTestSuite() { image_ = io::sparse_image(0); }

    // Each new device costs at least the root of its mapping tree.
    static void fill_up(metadata& pool) {
        std::uint64_t id = filler_id;
        for (std::uint64_t free = pool.metadata_space()->free_blocks; free != 0;
             free = pool.metadata_space()->free_blocks) {
            for (std::uint64_t i = 0; i < (free + 1) / 2; ++i) {
                ASSERT_OK(pool.create_thin(device_id(id++)));
            }
            ASSERT_OK(pool.commit());
        }
        const space_counts space = *pool.metadata_space();
        std::printf(
            "volume of %llu mappings, its snapshot and %llu other devices; metadata: %llu "
            "blocks, unreserved free %llu, reserve %llu\n",
            cast(volume_blocks_), cast(id - filler_id), cast(space.total_blocks),
            cast(space.free_blocks), cast(pool.metadata_reserve_blocks()));
    }
    static unsigned long long cast(std::uint64_t value) { return value; }

    void SetUp() override {
        ASSERT_NE(image_.size_bytes(), 0U);
        device_ = std::make_unique<io::image_device>("full", image_);
        auto pool = metadata::open(*device_, {});
        ASSERT_THAT(pool, IsOk());
        pool_ = std::move(*pool);
        ASSERT_EQ(pool_->metadata_space()->free_blocks, 0U);
        data_used_ = used_data();
    }
    [[nodiscard]] std::uint64_t used_data() const {
        const space_counts space = *pool_->data_space();
        return space.total_blocks - space.free_blocks;
    }
    // `work`, then a commit.
    template <class Work>
    void expect_cheap(const char* what, Work work) {
        const work_meter meter(*pool_);
        ASSERT_OK(work());
        ASSERT_OK(pool_->commit());
        const work_done done = meter.done();
        std::printf("%-40s %4llu blocks written, %4llu read, %.3f ms CPU\n", what,
                    cast(done.blocks_written), cast(done.blocks_read), done.cpu_milliseconds);
        EXPECT_LE(done.blocks_written, blocks_written_max);
        blocks_read_ = done.blocks_read;
    }
    [[nodiscard]] result<void> discard_all(std::uint64_t id, std::uint64_t end) {
        auto device = pool_->open_device(device_id(id));
        if (!device) {
            return std::unexpected(device.error());
        }
        auto done = pool_->remove_range(**device, {virtual_block(0), virtual_block(end)});
        EXPECT_EQ(pool_->mapped_count(**device).value(), 0U);
        pool_->close_device(*device);
        return done;
    }
    void expect_whole(std::uint64_t id) {
        ASSERT_OK_AND_ASSIGN(thin_device* const device, pool_->open_device(device_id(id)));
        EXPECT_EQ(pool_->mapped_count(*device).value(), volume_blocks_);
        for (std::uint64_t block = 0; block < volume_blocks_; block += volume_blocks_ / 64) {
            ASSERT_OK_AND_ASSIGN(const auto found,
                                 pool_->find_block(*device, virtual_block(block)));
            ASSERT_TRUE(found.has_value());
            EXPECT_EQ(found->block, data_block(block));
        }
        pool_->close_device(device);
        EXPECT_EQ(used_data(), data_used_);
    }
    void TearDown() override {
        if (!pool_) {
            return;
        }
        ASSERT_OK(pool_->close());
        pool_.reset();
        ASSERT_OK_AND_ASSIGN(const auto view, thin_metadata::open_offline(*device_, {}));
        ASSERT_OK_AND_ASSIGN(const auto report, thin_metadata::check_metadata(*view, {}));
        EXPECT_TRUE(report.is_clean()) << (report.findings.empty() ? "" : report.findings[0].text);
    }

    static inline std::uint64_t volume_blocks_ = 0;
    static inline io::sparse_image image_ = io::sparse_image(0);
    std::unique_ptr<io::image_device> device_;
    std::unique_ptr<metadata> pool_;
    std::uint64_t data_used_ = 0;
    std::uint64_t blocks_read_ = 0;
};

TEST_F(full_pool, DeletingTheSnapshotIsCheap) {
    expect_cheap("delete the snapshot", [&] { return pool_->delete_thin(device_id(snapshot_id)); });
    EXPECT_THAT(pool_->open_device(device_id(snapshot_id)), HasCode(error_code::not_found));
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(origin_id);
}

TEST_F(full_pool, DeletingTheOriginIsCheap) {
    expect_cheap("delete the origin", [&] { return pool_->delete_thin(device_id(origin_id)); });
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(snapshot_id);
}

TEST_F(full_pool, DiscardingTheWholeSnapshotIsCheap) {
    expect_cheap("discard the whole snapshot",
                 [&] { return discard_all(snapshot_id, volume_blocks_); });
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(origin_id);
}

TEST_F(full_pool, DiscardingTheWholeOriginIsCheap) {
    expect_cheap("discard the whole origin",
                 [&] { return discard_all(origin_id, volume_blocks_); });
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(snapshot_id);
}

TEST_F(full_pool, DiscardingBeyondTheEndIsCheapToo) {
    expect_cheap("discard up to the last block there can be",
                 [&] { return discard_all(snapshot_id, UINT64_MAX); });
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(origin_id);
}

// The leaves have to be read, though: the number of mappings that went stands in no node above
// them.
TEST_F(full_pool, DiscardingAllButTheEndsWritesLittle) {
    expect_cheap("discard all but the first and the last", [&]() -> result<void> {
        auto device = pool_->open_device(device_id(snapshot_id));
        if (!device) {
            return std::unexpected(device.error());
        }
        auto done =
            pool_->remove_range(**device, {virtual_block(1), virtual_block(volume_blocks_ - 1)});
        EXPECT_EQ(pool_->mapped_count(**device).value(), 2U);
        pool_->close_device(*device);
        return done;
    });
    expect_whole(origin_id);
}

TEST_F(full_pool, DeletingInSlicesIsCheap) {
    expect_cheap("discard in one slice of 64 blocks", [&]() -> result<void> {
        auto device = pool_->open_device(device_id(snapshot_id));
        if (!device) {
            return std::unexpected(device.error());
        }
        const range<virtual_block> all{virtual_block(0), virtual_block(volume_blocks_)};
        auto end = pool_->remove_some(**device, all, 64);
        pool_->close_device(*device);
        if (!end) {
            return std::unexpected(end.error());
        }
        EXPECT_EQ(*end, all.end);
        return {};
    });
    EXPECT_LE(blocks_read_, blocks_written_max);
    expect_whole(origin_id);
}

}  // namespace
}  // namespace uthin::test
