// Commit, abort, modes, sizes and thresholds of include/uthin/metadata.h.
#include <algorithm>
#include <cstring>

#include "base/random.h"
#include "persistent_data/space_map.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "thin_metadata/checker.h"
#include "thin_metadata/superblock.h"

namespace uthin {
namespace {

using io::memory_device;
using test::HasCode;
using test::image_of;
using test::IsOk;

class PoolMetadataModes : public test::metadata_fixture {};

// ---- commit, abort, modes

TEST_F(PoolMetadataModes, CommitOfAnUnchangedPoolWritesNoSuperblock) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    const std::uint64_t before = pool_->statistics().superblock_writes;
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->statistics().superblock_writes, before);
}

TEST_F(PoolMetadataModes, AbortRestoresEveryCounterTimeAndId) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 5);
    ASSERT_OK(pool_->set_transaction_id(0, 7));
    ASSERT_OK(pool_->commit());
    const auto details = pool_->get_details(device_id(0)).value();
    const auto data = pool_->data_space().value();
    const auto space = pool_->metadata_space().value();
    map(device, 0, 50);
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    ASSERT_OK(pool_->set_transaction_id(7, 8));
    ASSERT_OK(pool_->create_thin(device_id(2)));
    EXPECT_TRUE(pool_->changed_this_transaction());
    ASSERT_OK(pool_->abort());
    EXPECT_EQ(pool_->get_details(device_id(0)).value(), details);
    EXPECT_EQ(pool_->mapped_count(*device).value(), 5U);
    EXPECT_EQ(pool_->time().value(), 0U);
    EXPECT_EQ(pool_->transaction_id().value(), 7U);
    EXPECT_EQ(pool_->data_space().value().free_blocks, data.free_blocks);
    EXPECT_EQ(pool_->metadata_space().value().raw_free_blocks, space.raw_free_blocks);
    EXPECT_EQ(pool_->list_devices().value().size(), 1U);
    EXPECT_FALSE(pool_->changed_this_transaction());
    EXPECT_FALSE(pool_->changed_this_transaction(*device));
    EXPECT_TRUE(pool_->aborted_changes(*device));
    EXPECT_EQ(pool_->find_block(*device, virtual_block(20)).value(), std::nullopt);
    map(device, 10, 10);
    ASSERT_OK(pool_->commit());
}

TEST_F(PoolMetadataModes, AbortWithADeadDeviceFailsAndOnlyCloseWorks) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    thin_device* device = open_device(0);
    map(device, 0, 5);
    plan_.arm({.kinds = io::operation_kinds::all(), .nth = 1, .persistent = true});
    EXPECT_FALSE(pool_->commit());
    EXPECT_FALSE(pool_->abort());
    EXPECT_TRUE(pool_->failed());
    EXPECT_THAT(pool_->create_thin(device_id(1)), HasCode(error_code::failed));
    EXPECT_THAT(pool_->find_block(*device, virtual_block(0)), HasCode(error_code::failed));
    EXPECT_THAT(pool_->list_devices(), HasCode(error_code::failed));
    EXPECT_THAT(pool_->data_space(), HasCode(error_code::failed));
    EXPECT_THAT(pool_->commit(), HasCode(error_code::failed));
    EXPECT_THAT(pool_->abort(), HasCode(error_code::failed));
    EXPECT_THAT(pool_->transaction_id(), HasCode(error_code::failed));
    EXPECT_FALSE(pool_->needs_check());
    pool_->close_device(device);
    opened_.clear();
    EXPECT_OK(pool_->close());
    pool_.reset();
    plan_.disarm();
}

TEST_F(PoolMetadataModes, FailedCommitKeepsChangedFlagsUntilTheAbort) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    thin_device* device = open_device(0);
    map(device, 0, 5);
    plan_.arm({.kinds = {io::operation_kind::flush}, .nth = 1});
    EXPECT_THAT(pool_->commit(), HasCode(error_code::io_error));
    plan_.disarm();
    EXPECT_TRUE(pool_->changed_this_transaction(*device));
    EXPECT_FALSE(pool_->commit()) << "nothing is retried";
    ASSERT_OK(pool_->abort());
    EXPECT_TRUE(pool_->aborted_changes(*device));
    EXPECT_EQ(pool_->mapped_count(*device).value(), 0U);
}

TEST_F(PoolMetadataModes, ReadOnlyMakesNoDeviceWrite) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 5);
    ASSERT_OK(pool_->commit());
    pool_->set_read_only();
    EXPECT_TRUE(pool_->is_read_only());
    const std::uint64_t before = device_writes();
    EXPECT_THAT(pool_->create_thin(device_id(1)), HasCode(error_code::not_permitted));
    EXPECT_THAT(pool_->alloc_data_block(), HasCode(error_code::not_permitted));
    EXPECT_THAT(pool_->remove_range(*opened_[0], {virtual_block(0), virtual_block(1)}),
                HasCode(error_code::not_permitted));
    EXPECT_THAT(pool_->resize_data(data_blocks + 1), HasCode(error_code::not_permitted));
    EXPECT_THAT(pool_->commit(), HasCode(error_code::not_permitted));
    EXPECT_TRUE(pool_->find_block(*opened_[0], virtual_block(4)).value());
    EXPECT_EQ(device_writes(), before);
    pool_->set_read_write();
    EXPECT_OK(pool_->create_thin(device_id(1)));
    reopen({.read_only = true});
    const std::uint64_t after = device_writes();
    pool_->set_read_write();
    EXPECT_THAT(pool_->create_thin(device_id(2)), HasCode(error_code::not_permitted));
    EXPECT_OK(pool_->close());
    EXPECT_EQ(device_writes(), after);
}

TEST_F(PoolMetadataModes, NeedsCheckIsWrittenAtOnceAlsoInReadOnlyMode) {
    pool_->set_read_only();
    ASSERT_OK(pool_->set_needs_check());
    reopen();
    EXPECT_TRUE(pool_->needs_check());
    EXPECT_FALSE(pool_->resize_data(data_blocks + 100));
    EXPECT_FALSE(pool_->resize_metadata(metadata_blocks + 100));
    ASSERT_OK(pool_->clear_needs_check());
    reopen();
    EXPECT_FALSE(pool_->needs_check());
}

TEST_F(PoolMetadataModes, ResizeDataGrowsAndRefusesToShrink) {
    EXPECT_OK(pool_->resize_data(data_blocks));
    EXPECT_THAT(pool_->resize_data(data_blocks - 1), HasCode(error_code::invalid_argument));
    ASSERT_OK(pool_->resize_data(40'000));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, 40'000U);
    EXPECT_THAT(pool_->resize_data(1ULL << 40), HasCode(error_code::invalid_argument));
}

TEST_F(PoolMetadataModes, ResizeMetadataWorksWhenTheOldAreaIsFull) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    std::uint64_t id = 1;
    while (true) {
        const auto made = pool_->create_thin(device_id(id++));
        if (!made || pool_->metadata_space().value().raw_free_blocks < 6) {
            break;
        }
    }
    ASSERT_OK(pool_->commit());
    const std::uint64_t bigger = 40'000;
    EXPECT_THAT(pool_->resize_metadata(bigger), HasCode(error_code::invalid_argument));
    ASSERT_OK(device_->grow(bigger * metadata_block_size_bytes));
    EXPECT_EQ(pool_->metadata_device_blocks().value(), bigger);
    ASSERT_OK(pool_->resize_metadata(bigger));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->metadata_space().value().total_blocks, bigger);
    EXPECT_THAT(pool_->resize_metadata(bigger - 1), HasCode(error_code::invalid_argument));
    for (int i = 0; i < 200; ++i) {
        ASSERT_OK(pool_->create_thin(device_id(100'000 + static_cast<std::uint64_t>(i))));
    }
}

TEST_F(PoolMetadataModes, RunningOutOfMetadataFailsCleanlyAndAbortRecovers) {
    std::uint64_t id = 0;
    result<void> made;
    while ((made = pool_->create_thin(device_id(id)))) {
        ++id;
        if (id % 64 == 0) {
            ASSERT_OK(pool_->commit());
        }
    }
    EXPECT_THAT(made, HasCode(error_code::no_metadata_space));
    ASSERT_OK(pool_->abort());
    ASSERT_OK(pool_->delete_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
}

TEST_F(PoolMetadataModes, ThresholdsFireOnceForEachCrossing) {
    int low_data = 0;
    pool_->set_data_threshold(100, [&] { ++low_data; });
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, data_blocks - 101);
    EXPECT_EQ(low_data, 0);
    map(device, 5000, 50);
    EXPECT_EQ(low_data, 1);
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(0), virtual_block(3000)}));
    ASSERT_OK(pool_->commit());
    map(device, 0, 3000);
    EXPECT_EQ(low_data, 2);
    int low_metadata = 0;
    pool_->set_metadata_threshold(metadata_blocks - 60, [&] { ++low_metadata; });
    for (std::uint64_t id = 1; id < 100; ++id) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
    }
    EXPECT_EQ(low_metadata, 1);
}

TEST_F(PoolMetadataModes, PreCommitRunsFirstAndItsFailureFailsTheCommit) {
    int calls = 0;
    bool works = true;
    std::uint64_t writes_at_call = 0;
    pool_->set_pre_commit([&]() -> result<void> {
        ++calls;
        writes_at_call = device_writes();
        if (!works) {
            return fail(error_code::io_error, "data device");
        }
        return {};
    });
    ASSERT_OK(pool_->create_thin(device_id(0)));
    const std::uint64_t before = device_writes();
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(writes_at_call, before);
    works = false;
    ASSERT_OK(pool_->create_thin(device_id(1)));
    const std::uint64_t superblocks = pool_->statistics().superblock_writes;
    EXPECT_THAT(pool_->commit(), HasCode(error_code::io_error));
    EXPECT_EQ(pool_->statistics().superblock_writes, superblocks);
    ASSERT_OK(pool_->abort());
    EXPECT_THAT(pool_->get_details(device_id(1)), HasCode(error_code::not_found));
    works = true;
}

TEST_F(PoolMetadataModes, TransactionsAreNumberedAndDevicesRememberTheirLastChange) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 1);
    EXPECT_EQ(pool_->last_change(*device), pool_->open_transaction());
    EXPECT_GT(pool_->last_change(*device), pool_->durable_transaction());
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->last_change(*device), pool_->durable_transaction());
}

TEST_F(PoolMetadataModes, SuperblockBytesPastTheFirstSectorStayZero) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 500);
    ASSERT_OK(pool_->reserve_metadata_snap());
    ASSERT_OK(pool_->commit());
    const auto image = image_of(*device_);
    for (std::size_t at = 512; at < metadata_block_size_bytes; ++at) {
        ASSERT_EQ(image[at], std::byte{0}) << "byte " << at;
    }
}

TEST_F(PoolMetadataModes, CacheStaysBoundedWhileAHugeTransactionGoesOn) {
    device_ = std::make_unique<memory_device>(64ULL << 20, "metadata");
    faulty_ = std::make_unique<io::fault_device>(*device_, plan_);
    pool_.reset();
    open({.data_block_size_sectors = 128, .format = true, .cache_bytes = 1 << 20});
    ASSERT_OK(pool_->resize_data(1'000'000));
    ASSERT_OK(pool_->commit());
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    random_generator random(test::seed());
    for (int i = 0; i < 40'000; ++i) {
        map(device, random.below(1ULL << 32), 1);
        ASSERT_LE(pool_->statistics().cached_blocks, 256U + 64U);
    }
    ASSERT_OK(pool_->commit());
}

TEST_F(PoolMetadataModes, WhatCommitsFreeDoesNotStayInTheCache) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 100);
    ASSERT_OK(pool_->commit());
    const std::uint64_t cached = pool_->statistics().cached_blocks;
    for (std::uint64_t i = 0; i < 200; ++i) {
        map(device, 100 + i, 1);
        ASSERT_OK(pool_->commit());
    }
    EXPECT_LE(pool_->statistics().cached_blocks, cached + 4);
    // What a view reads is not dropped under it.
    ASSERT_OK_AND_ASSIGN(const auto view, pool_->create_view());
    const auto reads_of_a_check = [&] {
        const std::uint64_t before = pool_->statistics().blocks_read;
        const auto report = thin_metadata::check_metadata(*view, {});
        EXPECT_TRUE(report && report->mapped_blocks == 300U);
        return pool_->statistics().blocks_read - before;
    };
    const std::uint64_t reads = reads_of_a_check();
    map(device, 400, 1);
    ASSERT_OK(pool_->commit());
    EXPECT_LE(reads_of_a_check(), reads);
}

// ---- failing devices and the superblock

TEST_F(PoolMetadataModes, AFailedFlushKeepsTheSuperblockFromBeingWritten) {
    ASSERT_OK(pool_->create_thin(device_id(1)));
    const std::uint64_t before = pool_->statistics().superblock_writes;
    plan_.arm({.kinds = {io::operation_kind::flush}});
    EXPECT_FALSE(pool_->commit());
    plan_.disarm();
    EXPECT_EQ(pool_->statistics().superblock_writes, before);
    ASSERT_OK(pool_->abort());
}

TEST_F(PoolMetadataModes, AfterAFailedFlushNoneCountsBeforeAnAbort) {
    ASSERT_OK(pool_->create_thin(device_id(1)));
    plan_.arm({.kinds = {io::operation_kind::flush}});
    EXPECT_FALSE(pool_->commit());
    plan_.disarm();
    EXPECT_FALSE(pool_->set_needs_check());
    ASSERT_OK(pool_->abort());
    EXPECT_OK(pool_->set_needs_check());
}

TEST_F(PoolMetadataModes, NoFailedWriteIsTakenForACommit) {
    for (std::uint64_t n = 1;; ++n) {
        ASSERT_LT(n, 50U);
        ASSERT_OK(pool_->create_thin(device_id(1)));
        plan_.arm({.kinds = {io::operation_kind::write}, .nth = n});
        const auto committed = pool_->commit();
        const bool injected = plan_.injected() != 0;
        plan_.disarm();
        if (!injected) {
            EXPECT_OK(committed);
            EXPECT_GT(n, 2U);
            break;
        }
        EXPECT_FALSE(committed) << n;
        ASSERT_OK(pool_->abort());
        EXPECT_FALSE(pool_->get_details(device_id(1))) << n;
    }
}

// ---- the order of finishing

// Finishing the data space map takes metadata blocks where its index splits. The index of the
// metadata space map is written down after that, or it tells of blocks that are free no more.
TEST_F(PoolMetadataModes, TheMetadataMapCountsWhatFinishingTheDataMapTook) {
    using persistent_data::entries_per_bitmap;
    constexpr std::uint64_t entries_of_a_leaf = 168;
    ASSERT_OK(pool_->resize_data(entries_of_a_leaf * entries_per_bitmap));
    ASSERT_OK(pool_->commit());
    ASSERT_OK(pool_->resize_data((entries_of_a_leaf + 1) * entries_per_bitmap));
    ASSERT_OK(pool_->commit());

    const auto image = image_of(*device_);
    const auto superblock = thin_metadata::load_superblock(
        persistent_data::const_block_bytes(image.data(), metadata_block_size_bytes));
    persistent_data::disk_index_entry entry;
    constexpr std::size_t index_header_bytes = 16;
    std::memcpy(&entry,
                image.data() + superblock.metadata_sm_root.bitmap_root * metadata_block_size_bytes +
                    index_header_bytes,
                sizeof entry);
    std::uint64_t used = 0;
    for (std::uint32_t block = 0; block < metadata_blocks; ++block) {
        const std::byte* const bitmap = image.data() + entry.blocknr * metadata_block_size_bytes;
        used += std::min(persistent_data::bitmap_count(bitmap, block), 1U);
    }
    EXPECT_EQ(entry.nr_free, entries_per_bitmap - used);
    EXPECT_EQ(superblock.metadata_sm_root.nr_allocated, used);
}

}  // namespace
}  // namespace uthin
