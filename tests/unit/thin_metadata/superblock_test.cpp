// The superblock's layout and what is refused, and opening a view of an image at rest.
#include "thin_metadata/superblock.h"

#include <array>
#include <cstring>

#include "io/memory_device.h"
#include "persistent_data/validator.h"
#include "support/matchers.h"
#include "support/metadata_images.h"
#include "thin_metadata/metadata_view.h"

namespace uthin::thin_metadata {
namespace {

using persistent_data::block_bytes;
using persistent_data::block_kind;
using persistent_data::prepare_block;
using test::HasCode;
using test::IsOk;

struct sample {
    std::array<std::byte, metadata_block_size_bytes> bytes{};
    sample() {
        disk_superblock superblock{};
        superblock.magic = superblock_magic;
        superblock.version = superblock_version;
        superblock.time = 7;
        superblock.held_root = 12;
        superblock.incompat_flags = 0;
        store_superblock(superblock, bytes);
        prepare_block(block_kind::superblock, metadata_block(0), bytes);
    }
};

TEST(Superblock, FieldsLieWhereTheFormatSays) {
    sample made;
    EXPECT_EQ(load_le<std::uint64_t>(made.bytes.data() + 32), 27022010U);
    EXPECT_EQ(load_le<std::uint32_t>(made.bytes.data() + 44), 7U);
    EXPECT_EQ(load_le<std::uint64_t>(made.bytes.data() + 56), 12U);
    const disk_superblock loaded = load_superblock(made.bytes);
    EXPECT_EQ(std::memcmp(&loaded, made.bytes.data(), sizeof loaded), 0);
}

TEST(Superblock, StoringKeepsTheBytesBehindIt) {
    sample made;
    made.bytes[400] = std::byte{9};
    store_superblock(load_superblock(made.bytes), made.bytes);
    EXPECT_EQ(made.bytes[400], std::byte{9});
}

TEST(Superblock, IsRefusedForItsNumberBeforeItsMagicBeforeItsChecksum) {
    sample made;
    EXPECT_THAT(check_superblock(metadata_block(0), made.bytes), IsOk());
    made.bytes[100] ^= std::byte{1};
    EXPECT_THAT(check_superblock(metadata_block(0), made.bytes), HasCode(error_code::corrupt));
    EXPECT_THAT(check_superblock(metadata_block(0), made.bytes).error().message(),
                testing::HasSubstr("checksum"));
    made.bytes[32] ^= std::byte{1};
    EXPECT_THAT(check_superblock(metadata_block(0), made.bytes).error().message(),
                testing::HasSubstr("magic"));
    EXPECT_THAT(check_superblock(metadata_block(3), made.bytes), HasCode(error_code::wrong_block));
}

TEST(Superblock, UnknownFeaturesAreRefusedAsTheKernelDoes) {
    disk_superblock superblock{};
    superblock.compat_flags = 1;
    EXPECT_THAT(check_features(superblock, false), IsOk());
    superblock.compat_ro_flags = 1;
    EXPECT_THAT(check_features(superblock, true), IsOk());
    EXPECT_THAT(check_features(superblock, false), HasCode(error_code::unsupported));
    superblock.incompat_flags = 1;
    EXPECT_THAT(check_features(superblock, true), HasCode(error_code::invalid_argument));
}

TEST(Superblock, DataBlockSizesAreMultiplesOf64KiBUpTo1GiB) {
    for (const std::uint64_t good : {128U, 384U, 2097152U}) {
        EXPECT_THAT(check_data_block_size(good), IsOk()) << good;
    }
    for (const std::uint64_t bad : {0ULL, 64ULL, 100ULL, 129ULL, 2097280ULL, 1ULL << 40}) {
        EXPECT_THAT(check_data_block_size(bad), HasCode(error_code::invalid_argument)) << bad;
    }
}

TEST(Superblock, IsBlankOnlyWhenEveryByteIsZero) {
    std::array<std::byte, metadata_block_size_bytes> bytes{};
    EXPECT_TRUE(is_blank(bytes));
    bytes[4095] = std::byte{1};
    EXPECT_FALSE(is_blank(bytes));
}

TEST(Superblock, MappingsPackBlockAndTime) {
    const std::uint64_t packed = pack_mapping(data_block(data_blocks_max - 1), time_limit - 1);
    EXPECT_EQ(packed, UINT64_MAX);
    EXPECT_EQ(mapping_block(packed), data_block(data_blocks_max - 1));
    EXPECT_EQ(mapping_time(packed), time_limit - 1);
    EXPECT_EQ(pack_mapping(data_block(1), 2), 0x1000002U);
}

TEST(OfflineView, RefusesWhatIsNoMetadata) {
    io::memory_device tiny(100);
    EXPECT_THAT(open_offline(tiny, {}), HasCode(error_code::corrupt));
    io::memory_device blank(1 << 20);
    EXPECT_THAT(open_offline(blank, {}), HasCode(error_code::corrupt));
}

TEST(OfflineView, UsesNoMoreBlocksThanTheFormatHas) {
    const auto small = test::load_defect_image("clean");
    io::memory_device device(20ULL << 30);
    std::vector<std::byte> bytes(16 * metadata_block_size_bytes);
    ASSERT_OK(small->read(0, bytes));
    ASSERT_OK(device.write(0, bytes));
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(device, {}));
    EXPECT_EQ(view->source().block_count(), metadata_blocks_max);
    EXPECT_TRUE(view->has_space_maps());
    EXPECT_FALSE(view->expired());
}

TEST(OfflineView, FollowsTheMetadataSnapshot) {
    const auto without = test::load_defect_image("clean");
    EXPECT_THAT(open_offline(*without, {.metadata_snapshot = true}),
                HasCode(error_code::not_found));
    const auto with = test::load_defect_image("clean_held");
    ASSERT_OK_AND_ASSIGN(const auto live, open_offline(*with, {}));
    ASSERT_OK_AND_ASSIGN(const auto held, open_offline(*with, {.metadata_snapshot = true}));
    EXPECT_EQ(held->superblock().blocknr, live->superblock().held_root);
    EXPECT_FALSE(held->has_space_maps());
    for (const char* broken : {"held_broken", "held_beyond_device", "held_is_a_node"}) {
        const auto device = test::load_defect_image(broken);
        EXPECT_THAT(open_offline(*device, {.metadata_snapshot = true}),
                    HasCode(error_code::corrupt))
            << broken;
    }
}

TEST(OfflineView, TakesAnotherSuperblockWhenBlock0IsUseless) {
    const auto good = test::load_defect_image("clean");
    ASSERT_OK_AND_ASSIGN(const auto view, open_offline(*good, {}));
    const disk_superblock superblock = view->superblock();
    const auto broken = test::load_defect_image("superblock_checksum");
    EXPECT_THAT(open_offline(*broken, {}), HasCode(error_code::corrupt));
    ASSERT_OK_AND_ASSIGN(const auto other,
                         open_offline(*broken, {.superblock_override = &superblock}));
    EXPECT_EQ(other->superblock().data_mapping_root, superblock.data_mapping_root);
}

}  // namespace
}  // namespace uthin::thin_metadata
