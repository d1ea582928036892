// One test for each call of include/uthin/metadata.h, and what it promises when it is refused.
#include <atomic>
#include <thread>

#include "base/endian.h"
#include "base/random.h"
#include "persistent_data/validator.h"
#include "support/metadata_fixture.h"
#include "support/seed.h"
#include "uthin/log.h"

namespace uthin {
namespace {

using io::memory_device;
using test::block_size_sectors;
using test::HasCode;
using test::image_of;
using test::IsOk;

class PoolMetadata : public test::metadata_fixture {};

std::vector<std::string>* log_lines = nullptr;

// ---- open, format, close

TEST(PoolMetadataOpen, BlankDeviceWithoutFormatIsRefusedAndNotWritten) {
    memory_device device(1 << 20);
    io::fault_plan plan;
    io::fault_device counted(device, plan);
    const auto opened = metadata::open(counted, {.data_block_size_sectors = block_size_sectors});
    EXPECT_THAT(opened, HasCode(error_code::not_permitted));
    EXPECT_EQ(opened.error().to_errno(), EPERM);
    EXPECT_EQ(plan.count(io::operation_kind::write), 0U);
}

TEST(PoolMetadataOpen, FormatRefusesWhatIsNotBlank) {
    memory_device device(1 << 20);
    const std::vector<std::byte> junk(512, std::byte{7});
    ASSERT_OK(device.write(2048, junk));
    const auto before = image_of(device);
    const auto opened =
        metadata::open(device, {.data_block_size_sectors = block_size_sectors, .format = true});
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().to_errno(), EILSEQ);
    EXPECT_EQ(image_of(device), before);
}

TEST(PoolMetadataOpen, FreshLayoutIsTheKernels) {
    memory_device device(2048 * metadata_block_size_bytes);
    ASSERT_OK_AND_ASSIGN(
        auto pool,
        metadata::open(device, {.data_block_size_sectors = block_size_sectors, .format = true}));
    // docs/format.md 19: checksums of blocks 0..7 of a fresh 8 MiB device.
    const std::array<std::uint32_t, 8> expected{0x069AC8D3, 0x18E0660A, 0xC360E452, 0xA19F6375,
                                                0x787F52C8, 0x41BFAA04, 0xCB3DDA35, 0xB1C81346};
    const auto image = image_of(device);
    for (std::size_t block = 0; block < expected.size(); ++block) {
        EXPECT_EQ(load_le<std::uint32_t>(image.data() + block * metadata_block_size_bytes),
                  expected[block])
            << "block " << block;
    }
    ASSERT_OK(pool->close());
}

TEST(PoolMetadataOpen, UnknownFeatureBitsAreRefused) {
    memory_device device(1 << 20);
    ASSERT_OK(
        metadata::open(device, {.data_block_size_sectors = block_size_sectors, .format = true}));
    const auto with_bits = [&](std::size_t offset) {
        auto image = image_of(device);
        store_le<std::uint32_t>(image.data() + offset, 0x80);
        persistent_data::block_bytes block(image.data(), metadata_block_size_bytes);
        persistent_data::prepare_block(persistent_data::block_kind::superblock, metadata_block(0),
                                       block);
        auto changed = std::make_unique<memory_device>(1 << 20);
        EXPECT_OK(changed->write(0, image));
        return changed;
    };
    const auto incompat = with_bits(360);
    EXPECT_THAT(metadata::open(*incompat, {}), HasCode(error_code::invalid_argument));
    const auto compat_ro = with_bits(356);
    EXPECT_FALSE(metadata::open(*compat_ro, {}));
    EXPECT_OK(metadata::open(*compat_ro, {.read_only = true}));
    const auto compat = with_bits(352);
    EXPECT_OK(metadata::open(*compat, {}));
}

TEST(PoolMetadataOpen, HugeSparseDeviceWarnsOnceAndUsesTheMost) {
    std::vector<std::string> lines;
    log_lines = &lines;
    set_log_sink(
        [](log_level, std::string_view, std::string_view text) { log_lines->emplace_back(text); });
    memory_device device(20ULL << 30);
    ASSERT_OK_AND_ASSIGN(
        auto pool,
        metadata::open(device, {.data_block_size_sectors = block_size_sectors, .format = true}));
    set_log_sink(nullptr);
    ASSERT_OK_AND_ASSIGN(const auto space, pool->metadata_space());
    EXPECT_EQ(space.total_blocks, 4'161'600U);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_NE(lines[0].find("only the first 4161600 blocks"), std::string::npos) << lines[0];
}

TEST(PoolMetadataOpen, TooSmallADeviceIsRefused) {
    memory_device device(16 << 10);
    EXPECT_THAT(metadata::open(device, {.data_block_size_sectors = 128, .format = true}),
                HasCode(error_code::no_metadata_space));
    memory_device nothing(1000);
    EXPECT_THAT(metadata::open(nothing, {.data_block_size_sectors = 128, .format = true}),
                HasCode(error_code::invalid_argument));
}

TEST_F(PoolMetadata, OpenWithAnotherBlockSizeIsInvalid) {
    EXPECT_THAT(metadata::open(*device_, {.data_block_size_sectors = 256}),
                HasCode(error_code::invalid_argument));
}

TEST_F(PoolMetadata, CloseIsBusyWhileADeviceIsOpen) {
    ASSERT_OK(pool_->create_thin(device_id(1)));
    thin_device* device = open_device(1);
    EXPECT_THAT(pool_->close(), HasCode(error_code::busy));
    pool_->close_device(device);
    opened_.clear();
    EXPECT_OK(pool_->close());
    reopen();
    EXPECT_OK(pool_->get_details(device_id(1)));
}

TEST_F(PoolMetadata, OpeningAndCommittingWithoutAChangeWritesNothing) {
    reopen();
    const std::uint64_t before = device_writes();
    EXPECT_OK(pool_->commit());
    EXPECT_OK(pool_->list_devices());
    EXPECT_OK(pool_->close());
    EXPECT_EQ(device_writes(), before);
}

// ---- devices

TEST_F(PoolMetadata, CreateThinRefusesATakenIdAndMoreThan24Bits) {
    ASSERT_OK(pool_->create_thin(device_id(5)));
    EXPECT_THAT(pool_->create_thin(device_id(5)), HasCode(error_code::already_exists));
    EXPECT_OK(pool_->create_thin(device_id(device_id_max)));
    EXPECT_THAT(pool_->create_thin(device_id(device_id_max + 1)),
                HasCode(error_code::invalid_argument));
    ASSERT_OK_AND_ASSIGN(const auto devices, pool_->list_devices());
    ASSERT_EQ(devices.size(), 2U);
    EXPECT_EQ(devices[0].id, device_id(5));
}

TEST_F(PoolMetadata, CreateSnapSharesEverythingAndRaisesTheTime) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* origin = open_device(0);
    map(origin, 0, 10);
    EXPECT_THAT(pool_->create_snap(device_id(1), device_id(9)), HasCode(error_code::not_found));
    EXPECT_THAT(pool_->create_snap(device_id(0), device_id(0)),
                HasCode(error_code::already_exists));
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    EXPECT_EQ(pool_->time().value(), 1U);
    const device_details expected{10, 0, 1, 1};
    EXPECT_EQ(pool_->get_details(device_id(1)).value(), expected);
    EXPECT_EQ(pool_->get_details(device_id(0)).value().snapshotted_time, 1U);
    thin_device* snap = open_device(1);
    for (std::uint64_t block = 0; block < 10; ++block) {
        const auto here = pool_->find_block(*origin, virtual_block(block)).value();
        const auto there = pool_->find_block(*snap, virtual_block(block)).value();
        ASSERT_TRUE(here && there);
        EXPECT_EQ(*here, *there);
        EXPECT_TRUE(here->shared);
    }
}

TEST_F(PoolMetadata, SnapshotIsRefusedBeforeTheTimeOverflows) {
    // A pool whose time is one below the limit, made by editing the superblock.
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->close());
    pool_.reset();
    auto image = image_of(*device_);
    store_le<std::uint32_t>(image.data() + 44, (1U << 24) - 1);
    persistent_data::prepare_block(
        persistent_data::block_kind::superblock, metadata_block(0),
        persistent_data::block_bytes(image.data(), metadata_block_size_bytes));
    ASSERT_OK(device_->write(0, image));
    open({});
    EXPECT_THAT(pool_->create_snap(device_id(1), device_id(0)), HasCode(error_code::out_of_range));
    EXPECT_EQ(pool_->list_devices().value().size(), 1U);
}

TEST_F(PoolMetadata, DeleteGivesBlocksBackAndIsBusyWhileOpen) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 500);
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks - 500);
    EXPECT_THAT(pool_->delete_thin(device_id(0)), HasCode(error_code::busy));
    EXPECT_THAT(pool_->delete_thin(device_id(7)), HasCode(error_code::not_found));
    pool_->close_device(device);
    opened_.clear();
    ASSERT_OK(pool_->delete_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks);
    EXPECT_THAT(pool_->get_details(device_id(0)), HasCode(error_code::not_found));
}

TEST_F(PoolMetadata, OpenDeviceIsCountedAndRefusesUnknownIds) {
    EXPECT_THAT(pool_->open_device(device_id(3)), HasCode(error_code::not_found));
    ASSERT_OK(pool_->create_thin(device_id(3)));
    thin_device* first = open_device(3);
    thin_device* second = open_device(3);
    EXPECT_EQ(first, second);
    EXPECT_EQ(metadata::id_of(*first), device_id(3));
}

TEST_F(PoolMetadata, ListDevicesIsInOrderAndWalksManyPortions) {
    for (std::uint64_t id = 700; id-- > 0;) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
    }
    ASSERT_OK_AND_ASSIGN(const auto devices, pool_->list_devices());
    ASSERT_EQ(devices.size(), 700U);
    for (std::uint64_t id = 0; id < 700; ++id) {
        EXPECT_EQ(devices[id].id, device_id(id));
    }
}

TEST_F(PoolMetadata, SwapRootRollsBackAndBuriesTheOldTree) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* volume = open_device(0);
    map(volume, 0, 20);
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    const auto then = pool_->find_block(*volume, virtual_block(3)).value();
    map(volume, 0, 50);
    ASSERT_OK(pool_->swap_root(device_id(0), device_id(1), device_id(2)));
    EXPECT_EQ(pool_->mapped_count(*volume).value(), 20U);
    EXPECT_EQ(pool_->find_block(*volume, virtual_block(3)).value()->block, then->block);
    EXPECT_TRUE(pool_->find_block(*volume, virtual_block(3)).value()->shared);
    EXPECT_EQ(pool_->get_details(device_id(2)).value().mapped_blocks, 50U);
    ASSERT_OK(pool_->delete_thin(device_id(2)));
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks - 20);
}

TEST_F(PoolMetadata, ReplaceRootPublishesTheDonorsTree) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 5);
    ASSERT_OK(pool_->create_thin(device_id(1)));
    {
        ASSERT_OK_AND_ASSIGN(thin_device * donor, pool_->open_device(device_id(1)));
        map(donor, 100, 7);
        pool_->close_device(donor);
    }
    ASSERT_OK(pool_->replace_root(device_id(0), device_id(1), device_id(2)));
    EXPECT_THAT(pool_->get_details(device_id(1)), HasCode(error_code::not_found));
    EXPECT_EQ(pool_->get_details(device_id(0)).value().mapped_blocks, 7U);
    EXPECT_TRUE(pool_->find_block(*opened_[0], virtual_block(106)).value());
    EXPECT_FALSE(pool_->find_block(*opened_[0], virtual_block(0)).value());
    EXPECT_EQ(pool_->get_details(device_id(2)).value().mapped_blocks, 5U);
}

// ---- transaction id

TEST_F(PoolMetadata, TransactionIdIsComparedAndSet) {
    EXPECT_EQ(pool_->transaction_id().value(), 0U);
    EXPECT_THAT(pool_->set_transaction_id(1, 2), HasCode(error_code::invalid_argument));
    ASSERT_OK(pool_->set_transaction_id(0, UINT64_MAX));
    ASSERT_OK(pool_->create_thin(device_id(1)));
    ASSERT_OK(pool_->commit());
    reopen();
    EXPECT_EQ(pool_->transaction_id().value(), UINT64_MAX);
    EXPECT_EQ(pool_->get_details(device_id(1)).value().transaction_id, UINT64_MAX);
}

// ---- changing mappings

// In a tree of the last commit, in one of this transaction, in a batch, and in one that is shared.
TEST_F(PoolMetadata, AMappingIsInsertedIfTheBlockIsMappedAsExpected) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 3);
    for (int round = 0; round < 4; ++round) {
        if (round == 0) {
            ASSERT_OK(pool_->commit());
        } else if (round == 2) {
            pool_->begin_batch();
        } else if (round == 3) {
            pool_->publish_batch();
            ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
        }
        const virtual_block block(1);
        const virtual_block hole(10 + static_cast<std::uint64_t>(round));
        const data_block old = pool_->find_block_in_batch(*device, block).value()->block;
        ASSERT_OK_AND_ASSIGN(const data_block fresh, pool_->alloc_data_block());
        const std::uint64_t mapped = pool_->mapped_count(*device).value();
        for (const auto& [where, present] :
             {std::pair(block, std::optional<data_block>()), std::pair(block, std::optional(fresh)),
              std::pair(hole, std::optional(old))}) {
            ASSERT_OK_AND_ASSIGN(const bool done,
                                 pool_->insert_block_if(*device, where, present, fresh));
            EXPECT_FALSE(done) << round;
        }
        EXPECT_EQ(pool_->find_block_in_batch(*device, block).value()->block, old);
        EXPECT_FALSE(pool_->find_block_in_batch(*device, hole).value().has_value());
        EXPECT_EQ(pool_->mapped_count(*device).value(), mapped);

        ASSERT_OK_AND_ASSIGN(bool done, pool_->insert_block_if(*device, block, old, fresh));
        EXPECT_TRUE(done) << round;
        EXPECT_EQ(pool_->find_block_in_batch(*device, block).value(),
                  (lookup_result{fresh, false}));
        ASSERT_OK_AND_ASSIGN(const data_block another, pool_->alloc_data_block());
        ASSERT_OK_AND_ASSIGN(done, pool_->insert_block_if(*device, hole, std::nullopt, another));
        EXPECT_TRUE(done) << round;
        EXPECT_EQ(pool_->mapped_count(*device).value(), mapped + 1);
    }
}

// What is remembered of where a device's tree begins is of one state of the top tree.
TEST_F(PoolMetadata, LookupsFollowATreeThatMoves) {
    for (const std::uint64_t id : {0U, 1U}) {
        ASSERT_OK(pool_->create_thin(device_id(id)));
        map(open_device(id), id * 100, 3);
    }
    const auto sees = [&](std::size_t which, std::uint64_t block, bool in_batch) {
        const thin_device& device = *opened_[which];
        const auto found = in_batch ? pool_->find_block_in_batch(device, virtual_block(block))
                                    : pool_->find_block(device, virtual_block(block));
        return found.value().has_value();
    };
    ASSERT_OK(pool_->commit());
    EXPECT_TRUE(sees(0, 0, false));
    pool_->begin_batch();
    map(opened_[0], 50, 1);  // the tree is copied to another block
    EXPECT_TRUE(sees(0, 50, true));
    EXPECT_FALSE(sees(0, 50, false));
    EXPECT_TRUE(sees(0, 0, false));
    ASSERT_OK(pool_->remove_range(*opened_[0], {virtual_block(0), virtual_block(3)}));
    EXPECT_FALSE(sees(0, 0, true));
    EXPECT_TRUE(sees(0, 0, false));
    pool_->publish_batch();
    EXPECT_FALSE(sees(0, 0, false));
    EXPECT_TRUE(sees(0, 50, false));
    ASSERT_OK(pool_->create_snap(device_id(2), device_id(1)));
    map(opened_[1], 200, 1);
    ASSERT_OK(pool_->swap_root(device_id(1), device_id(2), device_id(3)));
    EXPECT_FALSE(sees(1, 200, false));
    EXPECT_FALSE(sees(1, 200, true));
    EXPECT_TRUE(sees(1, 100, false));
    ASSERT_OK(pool_->abort());
    EXPECT_TRUE(sees(0, 0, false));
    EXPECT_FALSE(sees(0, 50, true));
    EXPECT_TRUE(sees(1, 102, false));
}

// ---- lookup

TEST_F(PoolMetadata, FindBlockTellsHolesMappingsAndSharing) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    EXPECT_EQ(pool_->find_block(*device, virtual_block(0)).value(), std::nullopt);
    ASSERT_OK_AND_ASSIGN(const data_block block, pool_->alloc_data_block());
    ASSERT_OK(pool_->insert_block(*device, virtual_block(1ULL << 40), block));
    const lookup_result expected{block, false};
    EXPECT_EQ(pool_->find_block(*device, virtual_block(1ULL << 40)).value(), expected);
    EXPECT_EQ(pool_->find_block(*device, virtual_block((1ULL << 40) + 1)).value(), std::nullopt);
}

TEST_F(PoolMetadata, FindCachedWouldBlockUntilPrefetched) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    map(open_device(0), 0, 1);
    ASSERT_OK(pool_->commit());
    reopen();
    thin_device* device = open_device(0);
    const std::uint64_t before = plan_.count(io::operation_kind::read);
    EXPECT_THAT(pool_->find_cached(*device, virtual_block(0)), HasCode(error_code::would_block));
    EXPECT_EQ(plan_.count(io::operation_kind::read), before);
    for (int level = 0; level < 4 && !pool_->find_cached(*device, virtual_block(0)); ++level) {
        pool_->issue_prefetches();
    }
    ASSERT_OK_AND_ASSIGN(const auto found, pool_->find_cached(*device, virtual_block(0)));
    EXPECT_TRUE(found);
}

TEST_F(PoolMetadata, FindMappedRangeIsContiguousInBothSpacesAndUniform) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 10, 5);
    map(device, 20, 1);
    map(device, 15, 2);
    const auto first =
        pool_->find_mapped_range(*device, {virtual_block(0), virtual_block(100)}).value();
    ASSERT_TRUE(first);
    const mapped_range expected{virtual_block(10), virtual_block(15), data_block(0), false};
    EXPECT_EQ(*first, expected);
    ASSERT_OK(pool_->create_snap(device_id(1), device_id(0)));
    map(device, 12, 1);
    const auto shared =
        pool_->find_mapped_range(*device, {virtual_block(11), virtual_block(14)}).value();
    ASSERT_TRUE(shared);
    EXPECT_TRUE(shared->maybe_shared);
    EXPECT_EQ(shared->end, virtual_block(12));
    EXPECT_EQ(pool_->find_mapped_range(*device, {virtual_block(21), virtual_block(99)}).value(),
              std::nullopt);
    EXPECT_EQ(pool_->find_mapped_range(*device, {virtual_block(9), virtual_block(3)}).value(),
              std::nullopt);
}

TEST_F(PoolMetadata, MappedCountAndHighestBlockFollowChanges) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    EXPECT_EQ(pool_->highest_mapped_block(*device).value(), std::nullopt);
    map(device, 7, 3);
    map(device, 8, 1);
    EXPECT_EQ(pool_->mapped_count(*device).value(), 3U);
    EXPECT_EQ(pool_->highest_mapped_block(*device).value(), virtual_block(9));
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(9), virtual_block(1000)}));
    EXPECT_EQ(pool_->mapped_count(*device).value(), 2U);
    EXPECT_EQ(pool_->highest_mapped_block(*device).value(), virtual_block(8));
}

// Counts what each device really maps; a block under two devices is shared.
TEST_F(PoolMetadata, SharedIsNeverFalseWhenAnotherDeviceMapsTheBlock) {
    random_generator random(test::seed());
    constexpr std::uint64_t blocks = 24;
    std::map<std::uint64_t, std::map<std::uint64_t, std::uint64_t>> model;
    ASSERT_OK(pool_->create_thin(device_id(0)));
    model[0] = {};
    std::uint64_t next_id = 1;
    int exclusive_seen = 0;
    for (int step = 0; step < 1500; ++step) {
        const auto at = std::next(model.begin(), static_cast<long>(random.below(model.size())));
        const std::uint64_t id = at->first;
        const std::uint64_t kind = random.below(10);
        if (kind < 7) {
            ASSERT_OK_AND_ASSIGN(thin_device * device, pool_->open_device(device_id(id)));
            const std::uint64_t block = random.below(blocks);
            ASSERT_OK_AND_ASSIGN(const data_block data, pool_->alloc_data_block());
            ASSERT_OK(pool_->insert_block(*device, virtual_block(block), data));
            pool_->close_device(device);
            model[id][block] = data.value();
        } else if (kind < 9 && model.size() < 12) {
            ASSERT_OK(pool_->create_snap(device_id(next_id), device_id(id)));
            model[next_id] = at->second;
            ++next_id;
        } else if (model.size() > 1) {
            ASSERT_OK(pool_->delete_thin(device_id(id)));
            model.erase(at);
        }
        if (step % 50 == 0) {
            ASSERT_OK(pool_->commit());
        }
        std::map<std::uint64_t, int> owners;
        for (const auto& [device, mappings] : model) {
            for (const auto& [block, data] : mappings) {
                ++owners[data];
            }
        }
        for (const auto& [device, mappings] : model) {
            ASSERT_OK_AND_ASSIGN(thin_device * opened, pool_->open_device(device_id(device)));
            for (const auto& [block, data] : mappings) {
                const auto found = pool_->find_block(*opened, virtual_block(block)).value();
                ASSERT_TRUE(found);
                ASSERT_EQ(found->block.value(), data);
                if (owners[data] > 1) {
                    ASSERT_TRUE(found->shared) << "device " << device << " block " << block;
                }
                exclusive_seen += found->shared ? 0 : 1;
            }
            pool_->close_device(opened);
        }
    }
    EXPECT_GT(exclusive_seen, 1000);
}

// ---- changing mappings

TEST_F(PoolMetadata, AllocNeverReusesABlockBeforeTheCommit) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, data_blocks);
    ASSERT_OK(pool_->commit());
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(0), virtual_block(10)}));
    EXPECT_THAT(pool_->alloc_data_block(), HasCode(error_code::no_data_space));
    ASSERT_OK(pool_->commit());
    ASSERT_OK_AND_ASSIGN(const data_block block, pool_->alloc_data_block());
    EXPECT_LT(block.value(), 10U);
    ASSERT_OK(pool_->dec_data_range({block, block + 1}));
}

TEST_F(PoolMetadata, AllocDataRangeIsConsecutive) {
    ASSERT_OK_AND_ASSIGN(const auto first, pool_->alloc_data_range(100));
    EXPECT_EQ(first.count(), 100U);
    ASSERT_OK_AND_ASSIGN(const auto second, pool_->alloc_data_range(UINT64_MAX));
    EXPECT_EQ(second.count(), data_blocks - 100);
    ASSERT_OK(pool_->dec_data_range(first));
    ASSERT_OK(pool_->dec_data_range(second));
}

TEST_F(PoolMetadata, IncAndDecDataRangeCountReferences) {
    ASSERT_OK_AND_ASSIGN(const auto blocks, pool_->alloc_data_range(20));
    for (int i = 0; i < 4; ++i) {
        ASSERT_OK(pool_->inc_data_range(blocks));
    }
    EXPECT_EQ(pool_->data_block_count(blocks.begin).value(), 5U);
    EXPECT_TRUE(pool_->block_is_shared(blocks.begin).value());
    for (int i = 0; i < 4; ++i) {
        ASSERT_OK(pool_->dec_data_range(blocks));
    }
    EXPECT_FALSE(pool_->block_is_shared(blocks.begin).value());
    ASSERT_OK(pool_->dec_data_range(blocks));
    EXPECT_EQ(pool_->data_block_count(blocks.begin).value(), 0U);
    EXPECT_THAT(pool_->dec_data_range(blocks), HasCode(error_code::corrupt));
    ASSERT_OK(pool_->abort());
}

TEST_F(PoolMetadata, InsertBlockReplacesAndDropsTheOldBlock) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 4, 1);
    const data_block old = pool_->find_block(*device, virtual_block(4)).value()->block;
    map(device, 4, 1);
    EXPECT_EQ(pool_->data_block_count(old).value(), 0U);
    EXPECT_EQ(pool_->mapped_count(*device).value(), 1U);
    EXPECT_THAT(pool_->insert_block(*device, virtual_block(0), data_block(data_blocks)),
                HasCode(error_code::invalid_argument));
}

TEST_F(PoolMetadata, RemoveRangeMarksTheDeviceChangedEvenWhenNothingWasMapped) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    ASSERT_OK(pool_->commit());
    thin_device* device = open_device(0);
    EXPECT_FALSE(pool_->changed_this_transaction(*device));
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(0), virtual_block(9)}));
    EXPECT_TRUE(pool_->changed_this_transaction(*device));
}

TEST_F(PoolMetadata, RemoveSomeWorksInSlicesThatCanBeCommitted) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 3900);
    ASSERT_OK(pool_->commit());
    const range<virtual_block> all{virtual_block(0), virtual_block(1ULL << 50)};
    virtual_block at = all.begin;
    int slices = 0;
    while (at < all.end) {
        ASSERT_OK_AND_ASSIGN(at, pool_->remove_some(*device, {at, all.end}, 3));
        ASSERT_OK(pool_->commit());
        check_later(*device_);
        ++slices;
    }
    EXPECT_GT(slices, 3);
    EXPECT_EQ(pool_->mapped_count(*device).value(), 0U);
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks);
}

TEST_F(PoolMetadata, BuildDeviceMakesFullLeavesAndCountsBlocks) {
    std::vector<mapping_run> runs{{virtual_block(0), data_block(100), 1000, 0},
                                  {virtual_block(5000), data_block(50), 3, 0},
                                  {virtual_block(1ULL << 30), data_block(3000), 500, 0}};
    std::size_t next = 0;
    ASSERT_OK(pool_->build_device(device_id(9), {}, [&]() -> result<std::optional<mapping_run>> {
        return next < runs.size() ? std::optional(runs[next++]) : std::nullopt;
    }));
    EXPECT_EQ(pool_->get_details(device_id(9)).value().mapped_blocks, 1503U);
    thin_device* device = open_device(9);
    EXPECT_EQ(pool_->find_block(*device, virtual_block(5001)).value()->block, data_block(51));
    EXPECT_EQ(pool_->data_block_count(data_block(3499)).value(), 1U);
}

// ---- batches

TEST_F(PoolMetadata, BatchIsInvisibleToReadersUntilPublished) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    pool_->begin_batch();
    map(device, 0, 300);
    EXPECT_EQ(pool_->find_block(*device, virtual_block(5)).value(), std::nullopt);
    EXPECT_TRUE(pool_->find_block_in_batch(*device, virtual_block(5)).value());
    EXPECT_TRUE(
        pool_->find_mapped_range_in_batch(*device, {virtual_block(0), virtual_block(9)}).value());
    pool_->publish_batch();
    EXPECT_TRUE(pool_->find_block(*device, virtual_block(299)).value());
}

TEST_F(PoolMetadata, ReadersSeeWholeTreesWhileTheWriterWorks) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 1000);
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> lookups{0};
    std::thread reader([&] {
        random_generator random(test::seed() + 1);
        while (!stop.load()) {
            const auto found = pool_->find_block(*device, virtual_block(random.below(1000)));
            if (!found || !*found) {
                ADD_FAILURE() << "a mapped block was not found";
                break;
            }
            lookups.fetch_add(1);
        }
    });
    for (std::uint64_t round = 0; round < 40; ++round) {
        map(device, 2000 + 60 * round, 60);
        ASSERT_OK(pool_->remove_range(
            *device, {virtual_block(2000 + 60 * round), virtual_block(2030 + 60 * round)}));
        if (round % 4 == 0) {
            ASSERT_OK(pool_->commit());
        }
    }
    while (lookups.load() < 1000) {
        std::this_thread::yield();
    }
    stop.store(true);
    reader.join();
}

// ---- metadata snapshot

TEST_F(PoolMetadata, ReserveMetadataSnapHoldsTheTreesAndRefusesASecond) {
    ASSERT_OK(pool_->create_thin(device_id(0)));
    thin_device* device = open_device(0);
    map(device, 0, 700);
    EXPECT_EQ(pool_->metadata_snap().value(), std::nullopt);
    ASSERT_OK(pool_->reserve_metadata_snap());
    ASSERT_OK(pool_->commit());
    EXPECT_TRUE(pool_->metadata_snap().value());
    EXPECT_THAT(pool_->reserve_metadata_snap(), HasCode(error_code::busy));
    check_later(*device_);
    // Blocks under the held trees stay counted.
    ASSERT_OK(pool_->remove_range(*device, {virtual_block(0), virtual_block(700)}));
    map(device, 50, 30);
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks - 730);
    check_later(*device_);
    reopen();
    EXPECT_TRUE(pool_->metadata_snap().value());
    ASSERT_OK(pool_->release_metadata_snap());
    ASSERT_OK(pool_->commit());
    EXPECT_EQ(pool_->data_space().value().free_blocks, data_blocks - 30);
}

TEST_F(PoolMetadata, ReleaseMetadataSnapWithoutOneIsInvalid) {
    EXPECT_THAT(pool_->release_metadata_snap(), HasCode(error_code::invalid_argument));
}

}  // namespace
}  // namespace uthin
